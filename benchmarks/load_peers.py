"""What load tools report and what they cost, ours and others', side by side on a server whose times are known.

    python -m benchmarks.load_peers [--rounds 3] [--only plumbline,aiperf] [--rate 50] [--requests 750] [--json]

Subjects: `python -m load_tests run` without MLflow, guidellm, aiperf, evalscope perf and `vllm bench serve`, each as
benchmarks/peers/load_tools.py starts it: streaming chat completions, open loop, Poisson, answers of 64 tokens. The
server is the simulator in a process of its own: first token after 50 ms, then one every 10 ms, by absolute deadlines.
Rounds go over the subjects in turn, so that a machine that drifts drifts for all.

TTFT: each tool's own measurement of every request that it calls successful, from its own send, median and p99 by one
rule (linear between neighbours) whatever rule its report has. Ours are all rows, as the others', not the steady window
of our report. Errors at p50 and p99 are to the 50 ms, so the server's lateness under that tool's load is in them; the
mean's is to the server's own mean over the same run, which is exact, so only network and client are in it.
ITL: mean absolute deviation of all gaps from 10 ms, the server's lateness included. guidellm keeps none but a mean per
request, in which gaps cancel out: that favours it, and the note says so. vllm counts the chunks before the first and
after the last token, which come with them, as gaps of nearly 0, some 0.3 ms of its error: a note says where gaps are
not one less than tokens.
Sent: first to last arrival at the server. A Poisson schedule varies by itself, by 3.7 % (standard deviation) for 750
requests; vllm stretches its own to fit. Ours sends for requests / rate seconds, so its number of requests varies too.
Cost: user and system time of the whole command and its children, imports and reports included; memory of its process
tree, read from outside, RSS four times a second and PSS (shared pages shared out) once. Around the load: the wall time
from the command's start to the first request and from the last answer to its end.
Stolen: of the machine's processor time, what its hypervisor gave to others; above some 5 % it makes more of the errors
than the tool does.

What favours whom: ours also reads /metrics each second, works out intervals and, as evalscope, writes an HTML page;
aiperf is given two workers, guidellm has its default of ten, which crowd a small machine. The tools share the machine
with the server. Not covered: TLS, a network, a real engine, closed loops, rates near a tool's limit.

guidellm, aiperf and evalscope are installed once, each into an environment of its own under the user's cache folder,
pinned by files in benchmarks/peers/; one that cannot be installed or fails is a row that says why.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.peers import load_tools
from benchmarks.peers.environment import PeerFailed
from benchmarks.peers.load_figures import Figures, Nominal, Reported, figures_of, note_of
from benchmarks.peers.load_server import ITL_MS, OUTPUT_TOKENS, TTFT_MS, LoadServer, load_server
from benchmarks.peers.load_tools import Load
from benchmarks.peers.process_tree import watch
from common import console
from common.console import BadInput, say, shorten
from serving.endpoint import connect
from tracking.runs import git_sha

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

_ROOT = Path(__file__).resolve().parents[1]
_BESIDE_LOAD_S = 240.0
"""No tool takes longer than this and its load; one that hangs is ended and told."""


@dataclass(frozen=True)
class Tool:
    """One load tool."""

    version: str
    """Pinned; empty for what the project's own environment has."""
    start: Callable[[Load, Path], list[str]]
    """Writes what it needs into the folder and gives its command. Raises PeerFailed."""
    read: Callable[[Path], Reported]
    """What it wrote there. May raise PeerFailed, or anything a strange file leads to."""
    ours: bool = False
    """Whether it finds this repository's modules; in others' way they would stand by their common names."""


TOOLS = {
    "plumbline": Tool("", load_tools.start_plumbline, load_tools.read_plumbline, ours=True),
    "guidellm": Tool("0.8.1", load_tools.start_guidellm, load_tools.read_guidellm),
    "aiperf": Tool("0.13.0", load_tools.start_aiperf, load_tools.read_aiperf),
    "evalscope": Tool("1.14.1", load_tools.start_evalscope, load_tools.read_evalscope),
    "vllm": Tool("", load_tools.start_vllm, load_tools.read_vllm),
}


@app.command()
def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each tool.")] = 3,
    only: Annotated[str, typer.Option(help="Comma-separated tools; all without it.")] = ",".join(TOOLS),
    rate: Annotated[float, typer.Option(min=0.1, help="Requests per second.")] = 50.0,
    requests: Annotated[int, typer.Option(min=10, help="In each round of each tool.")] = 750,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Measure the tools in turn and print medians and ranges over rounds."""
    tools = chosen(only)
    failed: dict[str, str] = {}
    seen: dict[str, list[Figures]] = {name: [] for name in tools}
    with tempfile.TemporaryDirectory() as temporary, load_server() as server:
        model = connect(server.base_url).model
        for number in range(rounds):
            load = Load(server.base_url.removesuffix("/v1"), model, rate, requests, OUTPUT_TOKENS, seed=number)
            for name, tool in tools.items():
                if name in failed:
                    continue
                folder = Path(temporary) / f"{name}-{number}"
                folder.mkdir()
                try:
                    seen[name].append(measure(tool, load, server, folder))
                    say(f"round {number + 1}, {name}: {told(seen[name][-1])}")
                except PeerFailed as problem:
                    failed[name] = str(problem)
                    say(f"{name}: {problem}")
    report(seen, failed, rate)
    if as_json:
        print(json.dumps(document(tools, seen, failed, rate, requests), indent=2))


def chosen(only: str) -> dict[str, Tool]:
    """The tools of that list. Raises BadInput for one that is not known."""
    names = only.split(",")
    if unknown := [name for name in names if name not in TOOLS]:
        raise BadInput(f"--only: {unknown[0]!r} is not known; known: {', '.join(TOOLS)}")
    return {name: TOOLS[name] for name in names}


def measure(tool: Tool, load: Load, server: LoadServer, folder: Path) -> Figures:
    """One round of one tool, in an empty folder. Raises PeerFailed."""
    command = tool.start(load, folder)
    before = server.totals()
    server.saw(before)  # what an earlier tool left is not this one's
    environment = os.environ | {"OPENAI_API_KEY": "none", "VLLM_NO_USAGE_STATS": "1"}
    if tool.ours:
        environment["PYTHONPATH"] = str(_ROOT)
    watched = watch(command, folder, environment, load.requests / load.rate_per_s + _BESIDE_LOAD_S)
    saw = server.saw(before)
    try:
        reported = tool.read(folder)
    except (OSError, ValueError, KeyError, TypeError, console.PlumblineError) as problem:
        raise PeerFailed(f"its result cannot be read: {shorten(repr(problem), 150)}") from None
    return figures_of(reported, saw, watched, Nominal(TTFT_MS, ITL_MS, load.output_tokens, load.rate_per_s))


def report(seen: dict[str, list[Figures]], failed: dict[str, str], rate: float) -> None:
    """Two tables: what the figures are worth, and what they cost."""
    columns = ["tool", "rounds", "TTFT p50 error ms", "p99 error ms", "mean error ms", "ITL error ms", "note"]
    rows = []
    for name, found in seen.items():
        cells = [
            spread([one.ttft_p50_error_ms for one in found], 2),
            spread([one.ttft_p99_error_ms for one in found], 1),
            spread([one.ttft_mean_error_ms for one in found], 2),
            spread([one.itl_error_ms for one in found], 2),
        ]
        rows.append([name, len(found), *cells, failed.get(name, note_of(found[-1], OUTPUT_TOKENS) if found else "")])
    title = "SIMULATED endpoint (TTFT 50 ms, ITL 10 ms, 64 tokens): median (lowest to highest) over rounds"
    console.table(title, columns, rows, right=columns[1:-1])
    columns = [
        "tool",
        f"sent/s of {rate:g}",
        "seen",
        "CPU s",
        "PSS MB",
        "RSS MB",
        "one process MB",
        "around the load s",
        "stolen %",
    ]
    rows = [
        [
            name,
            spread([one.sent_per_s for one in found], 1),
            spread([one.seen for one in found], 0),
            spread([one.cpu_s for one in found], 1),
            spread([one.pss_mb for one in found], 0),
            spread([one.rss_mb for one in found], 0),
            spread([one.one_rss_mb for one in found], 0),
            spread([one.around_s for one in found], 1),
            spread([100 * one.stolen_share for one in found if one.stolen_share is not None], 1),
        ]
        for name, found in seen.items()
    ]
    console.table("what it sent, and what it cost", columns, rows, right=columns[1:])


def spread(values: Sequence[float], digits: int) -> str:
    """Median and range; the one value of one round; a dash for none."""
    if not values:
        return "-"
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def told(found: Figures) -> str:
    """A round in one line."""
    ttft = f"TTFT error p50 {found.ttft_p50_error_ms:+.2f}, p99 {found.ttft_p99_error_ms:+.1f} ms"
    cost = f"{found.cpu_s:.1f} CPU s, {found.around_s:.1f} s around the load"
    stolen = "" if found.stolen_share is None else f"; {found.stolen_share:.1%} stolen"
    return f"{ttft}; ITL error {found.itl_error_ms:.2f} ms; {found.sent_per_s:.1f} requests/s; {cost}{stolen}"


def document(
    tools: dict[str, Tool], seen: dict[str, list[Figures]], failed: dict[str, str], rate: float, requests: int
) -> dict[str, Any]:
    """Every round of every tool, and what they were measured on."""
    return {
        "simulated": True,
        "cpus": os.cpu_count(),
        "git_sha": git_sha(),
        "rate_per_s": rate,
        "requests": requests,
        "server": {"ttft_ms": TTFT_MS, "itl_ms": ITL_MS, "output_tokens": OUTPUT_TOKENS},
        "tools": {
            name: {
                "version": tool.version or None,
                "rounds": [{**asdict(one), "around_s": one.around_s} for one in seen[name]],
                "failed": failed.get(name),
            }
            for name, tool in tools.items()
        },
    }


if __name__ == "__main__":
    console.run(app)
