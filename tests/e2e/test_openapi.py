"""The admin API held against its own /openapi.json by schemathesis, and what the document and the page say."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from admin import call, make
from harness import MASTER, Gateway, mock_config

NOT_THE_ADMIN_API = "^/(v1|models|model/info|explain|health|config|metrics|fastproxy)"
CHECKS = "not_a_server_error,response_schema_conformance,content_type_conformance,status_code_conformance,ignored_auth"


def test_every_answer_is_one_that_the_document_names(
    start: Callable[..., Gateway], mock_port: int, tmp_path: Path
):
    gateway = start(mock_config(mock_port)).wait()
    # what schemathesis invents first as a name, so that there is something of it
    make(gateway, "/user/new", {"user_id": "0", "user_role": "internal_user"})
    make(
        gateway,
        "/team/new",
        {"team_id": "0", "members_with_roles": [{"role": "admin", "user_id": "0"}]},
    )
    make(gateway, "/budget/new", {"budget_id": "0"})
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{gateway.port}/openapi.json",
        "--header", f"Authorization: Bearer {MASTER}", "--exclude-path-regex", NOT_THE_ADMIN_API, "--checks", CHECKS,
        "--phases", "fuzzing", "--max-examples", "8", "--seed", "1", "--generation-database", "none", "--no-color",
    ]  # fmt: skip
    environ = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    done = subprocess.run(
        command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "passed" in done.stdout
    assert "Traceback" not in gateway.log, gateway.log


def test_the_document_and_the_page_want_no_key_and_tell_nothing_of_this_gateway(
    start: Callable[..., Gateway], mock_port: int
):
    gateway = start(mock_config(mock_port)).wait()
    status, document = call(gateway, "GET", "/openapi.json", key=None)
    assert (status, document["openapi"]) == (200, "3.1.0")
    assert "/key/generate" in document["paths"]
    status, page = call(gateway, "GET", "/", key=None)
    assert status == 200
    for text in (str(document), page):
        assert "gpt-4o-mini" not in text
        assert "/key/generate" in text
    assert "<script" not in page
    assert "http" not in page.split("</style>")[1]  # nothing is loaded from anywhere
    without = start(mock_config(mock_port), NO_DOCS="true").wait()
    assert call(without, "GET", "/openapi.json", key=None)[0] == 404
    assert "/key/generate" not in call(without, "GET", "/", key=None)[1]
