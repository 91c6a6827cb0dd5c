"""The command line: serve (default), check, mock, bench, init, health, backup, restore. Each imports what it needs, late."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastproxy import __version__, logs, takeover
from fastproxy.arguments import Parser, count, port, seconds

if TYPE_CHECKING:
    from fastproxy.supervisor import ServeOptions

COMMANDS = ("serve", "check", "mock", "bench", "init", "health", "backup", "restore")

# LiteLLM's flags that we know and don't act on: name -> whether a value follows.
IGNORED_FLAGS = {
    "run_gunicorn": False,
    "run_hypercorn": False,
    "run_granian": False,
    "granian_threads": True,
    "keepalive_timeout": True,
    "max_requests_before_restart": True,
    "max_requests_before_restart_jitter": True,
    "limit_concurrency": True,
    "timeout_worker_healthcheck": True,
    "log_config": True,
    "skip_server_startup": False,
    "use_prisma_db_push": False,
    "iam_token_db_auth": False,
    "prometheus_metrics_port": True,
    "reload": False,
    "model": True,
    "alias": True,
    "api_base": True,
    "api_version": True,
    "add_key": True,
    "headers": True,
    "save": False,
    "temperature": True,
    "max_tokens": True,
    "request_timeout": True,
    "drop_params": False,
    "add_function_to_prompt": False,
    "max_budget": True,
    "telemetry": True,
    "local": False,
    "use_queue": False,
    "enforce_prisma_migration_check": False,
}
# Flags that make LiteLLM do something else than serve: to serve instead would be wrong.
OTHER_DEEDS = {
    "health": "`fastproxy health` asks a running gateway, `fastproxy check` explains a config",
    "test": "send a request with curl; `fastproxy --hello` prints one",
    "setup": "`fastproxy init` writes a first config",
}


def main(argv: Sequence[str]) -> int:
    """Run `argv` (without the program's name); the exit code."""
    arguments = list(argv)
    command = "serve"
    if arguments and arguments[0] in COMMANDS:
        command = arguments.pop(0)
    elif arguments and not arguments[0].startswith("-"):
        known = ", ".join(COMMANDS)
        print(
            f"fastproxy: unknown command: {arguments[0]} (there are {known}; "
            "a configuration goes behind --config)",
            file=sys.stderr,
        )
        return 2
    if command == "mock":
        from fastproxy import mock

        return mock.main(arguments)
    if command == "bench":
        from fastproxy import loadtest

        return loadtest.main(arguments)
    if command in ("backup", "restore"):
        from fastproxy.control.store import backup

        return {"backup": backup.backup, "restore": backup.restore}[command](arguments)
    return {"serve": serve, "check": check, "init": init, "health": health}[command](arguments)


def serve_parser() -> Parser:
    """The flags of `fastproxy [serve]`."""
    parser = Parser(
        prog="fastproxy",
        usage="fastproxy [serve] [--config FILE] [flags]\n       fastproxy {check,mock,bench,init,health,backup,restore} …",
        description="An LLM gateway: OpenAI and Anthropic APIs in, your providers out.",
        epilog="The other commands have a --help of their own. Flags may be spelt with - for _.",
    )
    env, add = os.environ, parser.add_argument
    add(
        "--config",
        "-c",
        metavar="FILE",
        default=env.get("CONFIG_FILE_PATH"),
        help="the config.yaml; without one, what the environment offers",
    )
    add(
        "--data_dir",
        metavar="DIRECTORY",
        help="where keys, teams and spend are stored (FASTPROXY_DATA_DIR, else fastproxy-data beside the config)",
    )
    add(
        "--host",
        default=env.get("HOST") or "127.0.0.1",
        help="address to listen on (HOST, else 127.0.0.1)",
    )
    add(
        "--port",
        type=port,
        default=env.get("PORT") or "4000",
        help="(PORT, else 4000; 0: any)",
    )
    add("--uds", metavar="PATH", help="listen on this Unix socket instead")
    add(
        "--num_workers",
        type=count,
        metavar="N",
        default=env.get("NUM_WORKERS") or None,
        help="worker processes (NUM_WORKERS, else the CPUs this process may use)",
    )
    add(
        "--ssl_certfile_path",
        metavar="FILE",
        default=env.get("SSL_CERTFILE_PATH") or None,
        help="serve https with this certificate …",
    )
    add(
        "--ssl_keyfile_path",
        metavar="FILE",
        default=env.get("SSL_KEYFILE_PATH") or None,
        help="… and its key; both are read again on HUP",
    )
    add("--ciphers", metavar="LIST", help="ciphers for TLS 1.2, as OpenSSL names them")
    add(
        "--graceful_shutdown_timeout",
        type=seconds,
        metavar="SECONDS",
        default=env.get("GRACEFUL_SHUTDOWN_TIMEOUT") or "30",
        help="for requests in flight at the end (GRACEFUL_SHUTDOWN_TIMEOUT, else 30)",
    )
    add(
        "--allow_missing",
        action="append",
        default=[],
        metavar="NAME",
        help="start although this protecting setting is not honoured yet",
    )
    add(
        "--mock",
        nargs="?",
        type=port,
        const=4010,
        metavar="PORT",
        help="also start the mock LLM on 127.0.0.1:PORT (default 4010)",
    )
    add("--hello", action="store_true", help="print a first request to try")
    add(
        "--reload_config",
        action="store_true",
        help="reload whenever the config, or a file that it includes, has changed",
    )
    add(
        "--validate_config",
        action="store_true",
        help="load the config and exit: 1 on an error",
    )
    add("--debug", action="store_true", help="more log lines")
    add("--detailed_debug", action="store_true", help="same as --debug")
    add("--version", "-v", action="version", version=f"fastproxy {__version__}")
    for name, takes_value in IGNORED_FLAGS.items():
        if takes_value:
            add(f"--{name}", nargs="?", const=True, help=argparse.SUPPRESS)
        else:
            add(f"--{name}", action="store_true", help=argparse.SUPPRESS)
    for name in OTHER_DEEDS:
        add(f"--{name}", action="store_true", help=argparse.SUPPRESS)
    return parser


def serve(arguments: list[str]) -> int:
    """Start the gateway."""
    parser = serve_parser()
    args = parser.parse_args(arguments)
    logs.open_missing()
    set_up_logging(args.debug or args.detailed_debug)
    for name, instead in OTHER_DEEDS.items():
        if getattr(args, name):
            parser.error(f"--{name} is not there: {instead}")
    ignored = [name for name in IGNORED_FLAGS if getattr(args, name)]
    if ignored and takeover.VARIABLE not in os.environ:
        names = ", ".join(f"--{name}" for name in ignored)
        logs.say(f"fastproxy: these flags have no effect here: {names}")
    if args.skip_server_startup:
        return 0
    if args.validate_config:
        return check([args.config] if args.config else [])
    if bool(args.ssl_keyfile_path) != bool(args.ssl_certfile_path):
        parser.error("--ssl_certfile_path and --ssl_keyfile_path go together")
    for path in (args.config, args.ssl_keyfile_path, args.ssl_certfile_path):
        if path and not Path(path).exists():
            logs.say(f"fastproxy: {path}: no such file")
            return 1
    from fastproxy.supervisor import ServeOptions, Supervisor
    from fastproxy.tree import StartError

    options = ServeOptions(
        config=args.config or None,
        data_dir=args.data_dir or None,
        host=args.host.strip("[]"),
        port=args.port,
        uds=args.uds,
        workers=args.num_workers or available_cpus(),
        ssl_certfile=args.ssl_certfile_path,
        ssl_keyfile=args.ssl_keyfile_path,
        ciphers=args.ciphers,
        drain_seconds=args.graceful_shutdown_timeout,
        mock_port=args.mock,
        allow_missing=args.allow_missing,
        debug=args.debug or args.detailed_debug,
        hello=args.hello,
        reload_config=args.reload_config,
    )
    if os.environ.get(takeover.VARIABLE, "").startswith("rehearsal"):
        return rehearse(options)
    try:
        return Supervisor(options).run()
    except StartError as error:
        logs.say(f"fastproxy: {error}")
        return error.exit_code


def rehearse(options: "ServeOptions") -> int:
    """Asked by a running gateway that would become this program: 0 if that would start."""
    if os.environ[takeover.VARIABLE] != takeover.REHEARSAL:
        logs.say("fastproxy: this version can't take over from the running one")
        return 1
    from fastproxy import worker
    from fastproxy.control.main import rehearse as load_and_try

    try:
        if options.ssl_certfile:
            worker.tls_context(options.ssl_certfile, options.ssl_keyfile, options.ciphers)
    except ValueError as error:
        logs.say(f"fastproxy: TLS can't be served: {error}")
        return 1
    return load_and_try(options)


def check(arguments: list[str]) -> int:
    """`fastproxy check`: explain every key of a config file."""
    parser = Parser(prog="fastproxy check", description="Explain every key of a config.")
    parser.add_argument(
        "config",
        nargs="?",
        metavar="FILE",
        default=os.environ.get("CONFIG_FILE_PATH"),
        help="the config.yaml (CONFIG_FILE_PATH)",
    )
    parser.add_argument("--strict", action="store_true", help="exit 1 on warnings too")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json is for CI")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of the config")
    parser.add_argument(
        "--allow_missing",
        action="append",
        default=[],
        metavar="NAME",
        help="judge as if this protecting setting were allowed to be missing",
    )
    args = parser.parse_args(arguments)
    from fastproxy import config

    if args.schema:
        import orjson

        print(orjson.dumps(config.json_schema(), option=orjson.OPT_INDENT_2).decode())
        return 0
    if args.config is None:
        parser.error("which file? fastproxy check proxy.yaml")
    text, code = config.check_file(
        args.config,
        os.environ,
        strict=args.strict,
        fmt=args.format,
        allow_missing=tuple(args.allow_missing),
    )
    print(text, end="" if text.endswith("\n") else "\n")
    return code


def init(arguments: list[str]) -> int:
    """`fastproxy init`: write a first proxy.yaml."""
    parser = Parser(
        prog="fastproxy init", description="Write a first config, with a master key made for you."
    )
    parser.add_argument(
        "path",
        nargs="?",
        default="proxy.yaml",
        metavar="FILE",
        help="(proxy.yaml); never overwritten",
    )
    args = parser.parse_args(arguments)
    path = Path(args.path)
    import secrets

    text = FIRST_CONFIG.replace("sk-REPLACED", "sk-" + secrets.token_urlsafe(24))
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        print(f"fastproxy: {path} exists; it is left as it is", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"fastproxy: can't write {path}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"wrote {path}. Start it with: fastproxy --config {path}")
    return 0


def health(arguments: list[str]) -> int:
    """`fastproxy health`: exit 0 if the gateway on this machine is ready; for containers."""
    parser = Parser(prog="fastproxy health", description="Exit 0 if the gateway is ready, else 1.")
    env = os.environ
    scheme = "https" if env.get("SSL_CERTFILE_PATH") else "http"
    root = env.get("SERVER_ROOT_PATH", "").strip("/")
    start = f"{scheme}://127.0.0.1:{env.get('PORT') or '4000'}/{root}".rstrip("/")
    default = f"{start}/health/readiness"
    parser.add_argument(
        "--url", default=default, help=f"the gateway's, or the path to ask (default {default})"
    )
    parser.add_argument("--timeout", type=seconds, default=2.0, help="seconds (default 2)")
    args = parser.parse_args(arguments)
    if not args.url.startswith(("http://", "https://")):
        parser.error("--url must begin with http:// or https://")
    import ssl
    import urllib.request
    from urllib.parse import urlsplit

    if urlsplit(args.url).path.strip("/") in (
        "",
        root,
    ):  # an address alone: what lies there is always well
        args.url = f"{args.url.rstrip('/')}/health/readiness"

    # our own listener, by its address: its certificate names something else, and no proxy leads to it
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(args.url, timeout=args.timeout) as answer:
            print(answer.read(4096).decode("utf-8", "replace"))
            return 0
    except OSError as error:
        print(f"fastproxy: not ready: {error}", file=sys.stderr)
        return 1


FIRST_CONFIG = """\
# fastproxy reads the LiteLLM proxy's format. `fastproxy check proxy.yaml` explains every key.
model_list:
  - model_name: gpt-4o-mini
    litellm_params:
      model: openai/gpt-4o-mini
      api_key: os.environ/OPENAI_API_KEY
  - model_name: anthropic/*
    litellm_params:
      model: anthropic/*
      api_key: os.environ/ANTHROPIC_API_KEY

general_settings:
  master_key: sk-REPLACED   # made for you; better kept in LITELLM_MASTER_KEY
"""


def available_cpus() -> int:
    """CPUs that this process may really use: affinity and the cgroup's quota (v2 and v1)."""
    cpus = len(os.sched_getaffinity(0))
    for quota, period in (_cgroup2(), _cgroup1()):
        if quota > 0 and period > 0:
            cpus = min(cpus, max(1, round(quota / period)))
    return cpus


def _cgroup2() -> tuple[int, int]:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return (0 if quota == "max" else int(quota)), int(period)
    except (OSError, ValueError):
        return 0, 0


def _cgroup1() -> tuple[int, int]:
    base = Path("/sys/fs/cgroup/cpu")
    try:
        quota = int((base / "cpu.cfs_quota_us").read_text())
        return quota, int((base / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return 0, 0


def set_up_logging(debug: bool) -> None:
    """Log lines to standard error: text on a terminal, else JSON; JSON_LOGS decides otherwise. LITELLM_LOG names the
    level, as for the LiteLLM proxy."""
    named = os.environ.get("LITELLM_LOG", "").upper()
    chosen = logging.DEBUG if debug else logging.getLevelNamesMapping().get(named, logging.INFO)
    asked = os.environ.get("JSON_LOGS", "").strip().lower()
    as_json = asked in ("true", "1", "yes", "on") if asked else not os.isatty(2)
    logs.set_up(chosen, as_json)
