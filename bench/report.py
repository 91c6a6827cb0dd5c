"""Results as tables: text for the terminal, Markdown for RESULTS.md. Pure functions of the JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
Cell = Callable[[Json, Json, Json], str]


def _scenario(peer: Json, name: str) -> Json:
    found: Json = peer["scenarios"].get(name, {})
    return found


def _value(scenario: str, name: str, digits: int = 0) -> Cell:
    def cell(found: Json, peer: Json, direct: Json) -> str:
        one = _scenario(peer, scenario)
        if name not in one or (name.startswith("cpu") and not one[name]):
            return ""
        mark = "*" if one["generator_bound"] else ""
        return f"{one[name]:,.{digits}f}{mark}"

    return cell


def _added(scenario: str, name: str) -> Cell:
    def cell(found: Json, peer: Json, direct: Json) -> str:
        one, base = _scenario(peer, scenario), _scenario(direct, scenario)
        if name not in one or name not in base:
            return ""
        if peer is direct:
            return f"({one[name]:,.0f})"
        return f"{one[name] - base[name]:,.0f}"

    return cell


def _spread(scenario: str, name: str, digits: int = 0) -> Cell:
    def cell(found: Json, peer: Json, direct: Json) -> str:
        limits = _scenario(peer, scenario).get(f"{name}_range")
        if not limits or not limits[1]:
            return ""
        return f"{limits[0]:,.{digits}f}–{limits[1]:,.{digits}f}"

    return cell


def _memory(found: Json, peer: Json, direct: Json) -> str:
    idle, loaded = peer["idle"], peer["loaded"]
    return f"{idle['pss']:.0f} / {loaded['pss']:.0f}" if idle["processes"] else ""


def _late(found: Json, peer: Json, direct: Json) -> str:
    one = _scenario(peer, "sse")
    return f"{one['chunk_p50'] / 1000:.1f} / {one['chunk_p99'] / 1000:.1f}" if one else ""


def _start(found: Json, peer: Json, direct: Json) -> str:
    return f"{peer['start_seconds']:.2f}" if peer["start_seconds"] else ""


def columns(found: Json) -> list[tuple[str, Cell]]:
    """The main table."""
    return [
        (f"requests/s, {found['connections']} conn", _value("closed", "throughput")),
        ("CPU µs/request", _value("closed", "cpu_us", 1)),
        (f"CPU µs/request at {found['qps']:,.0f}/s", _value("open", "cpu_us", 1)),
        (f"added p50 µs at {found['qps']:,.0f}/s", _added("open", "p50")),
        ("added p99 µs", _added("open", "p99")),
        ("SSE CPU µs/chunk", _value("sse", "cpu_us_per_chunk", 1)),
        ("SSE event late p50 / p99 ms", _late),
        ("100 KB body CPU µs/request", _value("body100k", "cpu_us", 1)),
        ("10 MB body CPU µs/request", _value("body10m", "cpu_us")),
        ("10 MB bodies/s, 4 conn", _value("body10m", "throughput", 1)),
        ("Pss idle / loaded MB", _memory),
        ("first answer s", _start),
    ]


def spread_columns(found: Json) -> list[tuple[str, Cell]]:
    """How far the rounds were apart."""
    return [
        ("requests/s", _spread("closed", "throughput")),
        ("CPU µs/request", _spread("closed", "cpu_us", 1)),
        (f"p50 µs at {found['qps']:,.0f}/s", _spread("open", "p50")),
        ("p99 µs", _spread("open", "p99")),
        ("SSE CPU µs/chunk", _spread("sse", "cpu_us_per_chunk", 1)),
        ("SSE chunks/s", _spread("sse", "chunks_per_second")),
        ("100 KB CPU µs/request", _spread("body100k", "cpu_us", 1)),
    ]


def _cells(found: Json, chosen: list[tuple[str, Cell]]) -> list[list[str]]:
    direct = found["peers"]["direct"]
    rows = [["", *(title for title, _ in chosen)]]
    for name, peer in found["peers"].items():
        label = f"{name} {peer['version']}".strip()
        rows.append([label, *(cell(found, peer, direct) for _, cell in chosen)])
    return rows


def _pipe(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---|" + "---:|" * (len(rows[0]) - 1))
    return "\n".join(lines)


def text_table(found: Json) -> str:
    """The main table for a terminal: one line a figure, one column a peer."""
    rows = [list(row) for row in zip(*_cells(found, columns(found)), strict=True)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([*lines, "", *_remarks(found)])


def _remarks(found: Json) -> list[str]:
    """What a reader must know about this run."""
    lines = []
    bound = noisy = failed = rounds = 0
    for peer in found["peers"].values():
        for one in peer["scenarios"].values():
            bound += one["generator_bound"]
            noisy += one["noisy"]
            failed += one["failed"]
            rounds += found["rounds"]
    if bound:
        lines.append(
            "`*` generator-bound: mock and generator used up their core and the peer had time left; "
            "only its CPU per request says something."
        )
    if noisy:
        lines.append(
            f"{noisy} of {rounds} rounds stayed noisy after repeats: "
            "other processes took more than 8 % of a core."
        )
    lines.append(f"Requests without a good answer: {failed}.")
    lines += [f"Not measured: {text}" for text in found["skipped"]]
    return lines


def markdown(found: Json, source: str) -> str:
    """RESULTS.md."""
    facts = found["machine"]
    pinned = (
        "peer on one core, mock and generator on the other" if found["pinned"] else "not pinned"
    )
    lines = [
        "# Results",
        "",
        f"Generated by `bench/compare.py` from [results/{source}](results/{source}); do not edit. "
        "The method is in [docs/benchmarking.md](../docs/benchmarking.md).",
        "",
        f"- Date: {found['date']}",
        f"- Machine: {facts['cpu']}, {facts['cpus']} CPUs, {facts['system']} {facts['kernel']}, "
        f"Python {facts['python']}; {pinned}",
        f"- {found['rounds']} interleaved rounds of {found['seconds']:g} s; medians. "
        "Request 1,054 B, answer 749 B with its head; bodies are sent over keep-alive "
        "connections on loopback.",
        f"- SSE: {found['chunk_rate']:,.0f} events/s, each stream one event every 10 ms.",
        "- Everybody checks the client's key, replaces it by the upstream's (the mock answers 401 "
        "without it), keeps both sides alive and writes no access log.",
        "",
        "## One core each",
        "",
        _pipe(_cells(found, columns(found))),
        "",
        "In parentheses: the percentile itself, without a proxy. "
        "Memory is proportional (Pss) over the peer's whole process tree. Lateness of events is "
        "absolute: "
        "mock and generator take turns on one core, so that a few ms of it are theirs.",
        "",
        *[f"{line}\n" for line in _remarks(found)],
        "## Spread of the rounds",
        "",
        _pipe(_cells(found, spread_columns(found))),
        "",
        "## What they were told",
        "",
    ]
    lines += [
        f"- {name} {peer['version']}: {peer['notes']}".replace("  ", " ")
        for name, peer in found["peers"].items()
        if peer["version"]
    ]
    return "\n".join(lines) + "\n"
