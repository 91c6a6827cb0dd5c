"""Coverage-guided fuzzing of the compiled leaves: run.py [--seconds N] [--runs N] [--seed N] [TARGET …], from the project's root.

Builds the extensions once more, with AddressSanitizer, UBSan and coverage, into .build/fuzz, and lets
libFuzzer (from the atheris wheel) drive each target of tests/fuzz/targets. What it finds grows in
.build/fuzz/corpus; tests/fuzz/corpus holds the few inputs that are worth keeping: what once failed, and what reached far.
An input that fails is printed, left in .build/fuzz as TARGET-crash-…, and the exit code is 1. The same seed and
corpus search in the same order, as far as the time or the number of runs goes.
"""

import argparse
import base64
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
BUILD = ROOT / ".build" / "fuzz"
TARGETS = sorted(p.stem for p in (ROOT / "tests/fuzz/targets").glob("*.py"))


def say(*command: str, **options: object) -> None:
    subprocess.run(command, check=True, cwd=ROOT, **options)  # type: ignore[call-overload]


def where(library: str) -> str:
    """The path of a library of the compiler."""
    command = [os.environ.get("CC", "gcc"), f"-print-file-name={library}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def newer(source: str, made: str) -> bool:
    """Whether a source has changed since something was made of it."""
    return (ROOT / source).stat().st_mtime > (BUILD / made).stat().st_mtime


def build() -> None:
    """The instrumented extensions, and libFuzzer as a library to be preloaded."""
    spec = importlib.util.find_spec("atheris")
    if spec is None or spec.origin is None:
        sys.exit("atheris is missing: pip install atheris")
    BUILD.mkdir(parents=True, exist_ok=True)
    compiler, counters = os.environ.get("CC", "gcc"), str(BUILD / "coverage.o")
    if not BUILD.joinpath("built").exists() or newer("tests/fuzz/coverage.c", "built"):
        shutil.rmtree(BUILD / "lib", ignore_errors=True)  # else it would not be linked anew
    say(compiler, "-O2", "-fPIC", "-Wall", "-c", "tests/fuzz/coverage.c", "-o", counters)
    archive = Path(spec.origin).parent.parent / "libclang_rt.fuzzer_no_main.a"
    whole = ["-Wl,--whole-archive", str(archive), "-Wl,--no-whole-archive"]
    say("g++", "-shared", "-o", str(BUILD / "libfuzzer.so"), *whole, "-lpthread")
    flags = {"CFLAGS": "-fsanitize-coverage=trace-pc,trace-cmp", "LDFLAGS": counters}
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(BUILD)]
    say(
        *command,
        "--build-lib",
        str(BUILD / "lib"),
        env={**os.environ, **flags, "FASTPROXY_SANITIZE": "1"},
        stderr=subprocess.DEVNULL,
    )
    BUILD.joinpath("built").touch()


def fuzz(target: str, seconds: int, runs: int, seed: int) -> bool:
    """Whether the target held for so long."""
    corpus = BUILD / "corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    kept = ROOT / "tests/fuzz/corpus" / target
    # libFuzzer first: libasan has empty functions of the same names
    preload = [str(BUILD / "libfuzzer.so"), where("libasan.so"), where("libstdc++.so")]
    environ = {
        **os.environ,
        "LD_PRELOAD": " ".join(preload),
        "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "PYTHONHASHSEED": str(seed % 2**32) if seed else "random",
        "PYTHONPATH": os.pathsep.join([str(BUILD / "lib"), str(ROOT / "tests"), *sys.path[1:]]),
    }
    command = [sys.executable, "-m", "fuzz.drive", target, str(corpus)]
    command += [str(kept)] if kept.is_dir() else []
    command += [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048", "-max_len=2048"]
    command += [f"-artifact_prefix={BUILD}/{target}-", "-print_final_stats=0", f"-seed={seed}"]
    command += [f"-runs={runs}"] if runs else []
    before = set(BUILD.glob(f"{target}-*"))
    done = subprocess.run(
        command,
        check=False,
        cwd=BUILD / "lib",
        env=environ,
        capture_output=True,
        text=True,
        errors="replace",
    )
    last = [line for line in done.stderr.splitlines() if re.match(r"#\d|left out", line)][-1:]
    print(
        f"{target:10} {'held' if done.returncode == 0 else 'FAILED'}  {''.join(last)}", flush=True
    )
    if done.returncode:
        print("\n".join((done.stdout + done.stderr).splitlines()[-60:]), flush=True)
    for path in sorted(set(BUILD.glob(f"{target}-*")) - before):
        data = path.read_bytes()
        print(f"\nthe input ({path.name}, {len(data)} bytes): {data!r}")
        print(
            f"to see it again: put it into tests/fuzz/corpus/{target}/; pytest tests/fuzz -k {target}"
        )
        print(f"  base64 -d <<< {base64.b64encode(data).decode()}", flush=True)
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--runs", type=int, default=0, help="for each target; 0: as the time goes")
    parser.add_argument("--seed", type=int, default=0, help="0, the default: another each time")
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all without")
    options = parser.parse_args()
    build()
    held = [
        fuzz(target, options.seconds, options.runs, options.seed)
        for target in options.targets or TARGETS
    ]
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
