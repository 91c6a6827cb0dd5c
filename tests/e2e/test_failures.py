"""Every way in which an upstream fails, for every API, with and without somewhere else to go.

`second`: the other deployment of the group answers, and the client notices nothing; `spare`: the fallback
group does. `cut`: something was sent already, so the stream ends with an error event of the API's shape and
without the sign of a good end, and nobody else is asked. A number: that status, in the API's error shape;
5xx where the reference names none.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
from asking import Reply, ask
from harness import Gateway
from lab import Hit, Lab, mark

TABLE = """
    fault        retry   fallback  neither

  plain
    refused      second  spare     500
    reset        second  spare     500
    close        second  spare     500
    half-head    second  spare     5xx
    e500         second  spare     500
    e503         second  spare     503
    e429         second  spare     429
    html502      second  spare     502
    hang         second  spare     408
    head-stall   second  spare     408
    mid-stall    second  spare     408
    mid-cut      second  spare     5xx
    mid-reset    second  spare     5xx
    mid-chunk    second  spare     5xx
    mid-json     second  spare     5xx
    empty        second  spare     5xx

  stream
    refused      second  spare     500
    reset        second  spare     500
    close        second  spare     500
    half-head    second  spare     5xx
    e500         second  spare     500
    e503         second  spare     503
    e429         second  spare     429
    html502      second  spare     502
    hang         second  spare     408
    head-stall   second  spare     408
    head-cut     second  spare     5xx
    head-chunk   second  spare     5xx
    head-err     second  spare     5xx
    open-stall   second  spare     408
    open-cut     second  spare     5xx
    open-reset   second  spare     5xx
    open-chunk   second  spare     5xx
    open-json    second  spare     5xx
    open-err     second  spare     5xx
    ping-stall   second  spare     408
    mid-stall    cut     cut       cut
    late-cut     cut     cut       cut
    late-reset   cut     cut       cut
    late-chunk   cut     cut       cut
    late-err     cut     cut       cut
"""
PROVIDERS = {"chat": "openai", "responses": "openai", "messages": "anthropic", "gemini": "gemini"}
APIS = tuple(PROVIDERS)
MODES = ("retry", "fallback", "neither")
STALL_SECONDS = 0.5
ENOUGH = 60  # requests after which chance has picked each of two deployments


class Cell(NamedTuple):
    """One request of the matrix."""

    api: str
    shape: str
    fault: str
    mode: str
    expected: str

    @property
    def group(self) -> str:
        return "-".join(self[:4])

    @property
    def spare(self) -> str:
        return f"spare-{self.provider}"

    @property
    def provider(self) -> str:
        return PROVIDERS[self.api]


def cells() -> list[Cell]:
    """The table, a cell for each API and mode."""
    found, shape = [], ""
    for line in TABLE.split("\n"):
        words = line.split()
        if len(words) == 1:
            shape = words[0]
        elif words and words[0] != "fault":
            for api in APIS:
                found += [
                    Cell(api, shape, words[0], m, e) for m, e in zip(MODES, words[1:], strict=True)
                ]
    responses = ("responses", "stream", "open-failed")  # its second way to say it
    found += [
        Cell(*responses, m, e) for m, e in zip(MODES, ("second", "spare", "5xx"), strict=True)
    ]
    return found


CELLS = cells()


def groups(lab: Lab) -> list[dict[str, Any]]:
    """Groups of its own for every cell: no cell meets the cooldowns or bounds of another."""
    made = [lab.deployment(f"spare-{p}", provider=p) for p in dict.fromkeys(PROVIDERS.values())]
    for cell in CELLS:
        limit = STALL_SECONDS if "stall" in cell.fault or cell.fault == "hang" else 10
        params: dict[str, Any] = {"timeout": limit, "stream_timeout": limit}
        params |= {"stream_idle_timeout": limit, "provider": cell.provider}
        name = f"{cell.group}-a"
        made.append(lab.deployment(cell.group, name, dead=cell.fault == "refused", **params))
        if cell.mode == "retry":
            made.append(lab.deployment(cell.group, f"{cell.group}-b", **params))
    return made


@pytest.fixture(scope="module")
def matrix(lab: Lab, behind: Callable[..., Gateway]) -> dict[Cell, Future[str]]:
    """What was seen for each cell. They run side by side, as the stalled ones mostly wait."""
    fallbacks = [{c.group: [c.spare]} for c in CELLS if c.mode == "fallback"]
    router = {"fallbacks": fallbacks, "num_retries": 0}
    gateway = behind(groups(lab), router_settings=router).wait()
    room = threading.Semaphore(4)  # for what only takes CPU

    def run(cell: Cell) -> str:
        if "stall" in cell.fault or cell.fault == "hang":
            return observe(gateway, lab, cell)
        with room:
            return observe(gateway, lab, cell)

    pool = ThreadPoolExecutor(32)
    found = {cell: pool.submit(run, cell) for cell in CELLS}
    pool.shutdown(wait=True)
    return found


@pytest.mark.parametrize("cell", [pytest.param(c, id=c.group) for c in CELLS])
def test_cell(matrix: dict[Cell, Future[str]], cell: Cell) -> None:
    seen = matrix[cell].result()
    if seen != cell.expected:
        pytest.fail(f"not {cell.expected}: {seen}", pytrace=False)


# -- from what came to the word in the table; anything that does not fit is told instead


def observe(gateway: Gateway, lab: Lab, cell: Cell) -> str:
    tries = ENOUGH if cell.fault == "refused" and cell.mode == "retry" else 1
    for _ in range(tries):
        script = mark("ok" if cell.fault == "refused" else cell.fault, "ok")
        more = {"num_retries": int(cell.mode == "retry"), "stream": cell.shape == "stream"}
        try:
            late = lab if cell.fault.startswith("late-") else None
            reply = ask(gateway, cell.api, cell.group, script, late=late, **more)
        except (OSError, EOFError) as error:
            return f"no answer: {error!r}"
        hits = lab.of(script)
        if tries == 1 or reply.status != 200 or reply.retries != 0:
            break
    problem = judge(cell, reply, hits)
    if not problem:
        return cell.expected
    headers = {n: v for n, v in reply.headers.items() if n.startswith("x-litellm-")}
    where = [f"{hit.deployment}:{hit.act}" for hit in hits]
    return f"{problem}; hits {where}; {reply.status} {headers} {reply.body[-600:]!r}"


def judge(cell: Cell, reply: Reply, hits: list[Hit]) -> str:
    """What is wrong, or nothing."""
    where = [hit.deployment for hit in hits]
    last = where[-1] if where else ""
    first, other = f"{cell.group}-a", f"{cell.group}-b"
    refused = cell.fault == "refused"
    if cell.expected in ("second", "spare"):
        if cell.expected == "second":
            hit_right = where == [other] if refused else sorted(where) == [first, other]
            headers = (1, 0, cell.group)
        else:
            hit_right = where == ([] if refused else [first]) + [cell.spare]
            headers = (0, 1, cell.spare)
        return wrong(
            ("the upstreams that were hit", hit_right),
            ("status", reply.status == 200),
            ("text", reply.status == 200 and reply.text == f"pong from {last}"),
            ("framing", reply.whole),
            ("the end of the stream", reply.stream == (cell.shape == "stream")),
            ("ends", len(reply.ends) == (cell.shape == "stream")),
            ("errors in it", not reply.errors),
            ("headers", (reply.retries, reply.fallbacks, reply.group) == headers),
            ("x-litellm-model-id", reply.deployment == last),
        )
    if cell.expected == "cut":
        full = f"pong from {last}"
        return wrong(
            ("the upstreams that were hit", len(where) == 1),
            ("status", reply.status == 200),
            ("the part that was sent", reply.text != full and full.startswith(reply.text or "?")),
            ("a sign of a good end", reply.ends == []),
            ("one error event", len(reply.errors) == 1 and is_last(reply)),
            ("its shape", in_band(cell.api, reply)),
        )
    status = str(reply.status)
    right = 500 <= reply.status < 600 if cell.expected == "5xx" else status == cell.expected
    return wrong(
        ("the upstreams that were hit", where == ([] if refused else [first])),
        ("status", right),
        ("framing", reply.whole),
        ("error shape", right and error_shape(cell.api, reply)),
    )


def wrong(*checks: tuple[str, bool]) -> str:
    return ", ".join(name for name, right in checks if not right)


def error_shape(api: str, reply: Reply) -> bool:
    said = reply.json()
    if api == "messages":
        return said["type"] == "error" and bool(said["error"]["type"] and said["error"]["message"])
    code = reply.status if api == "gemini" else str(reply.status)
    return bool(said["error"]["message"]) and said["error"].get("code") == code


def is_last(reply: Reply) -> bool:
    return bool(reply.events) and reply.events[-1][1] is reply.errors[-1]


def in_band(api: str, reply: Reply) -> bool:
    """What each API's clients take for an error."""
    if not reply.errors:
        return False
    name, said = reply.events[-1]
    if api == "messages":
        shaped = name == said["type"] == "error" and bool(said["error"]["message"])
        return shaped and bool(said["error"]["type"])
    if api == "responses":
        failed = said.get("type") == "response.failed"
        return failed or (name == said.get("type") == "error" and bool(said["message"]))
    return bool(said["error"]["message"])
