"""Whether our load test measures a real engine as vLLM's own load generator does: throughput and TTFT, ours to theirs.

    python -m serving start --background
    python -m benchmarks.load_engine [--users 4 | --rate 1] [--duration-s 60] [--rounds 3] [--json]

Ours is a test of `python -m load_tests run`, synthetic prompts of one length, in a closed loop of so many users or in
an open one with even gaps. Theirs is `vllm bench serve` of the installed vLLM with the very requests ours sent, in the
order ours sent them, with as many at once, or at the same rate (a gamma of burstiness 1,000: gaps even within 3 %). The
longest answer, the shortest and the sampling are the same.

Both are told the same way: requests and tokens from the first request sent to the last answer had, TTFT from sending to
the first content, over all requests. Before the rounds the prompts are asked once, uncounted, so that the engine's
prefix cache is as warm for both; rounds alternate who goes first. Both clients share the machine with the engine. Where
output tokens differ by more than 1 %, nothing is concluded.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml

from benchmarks.engine_rate import BENCH_SERVE, bench_arguments, spread
from common import console
from common.console import BadInput, CannotJudge, say, shorten
from load_tests.profiles import load_profile
from load_tests.rows import LoadRows
from load_tests.run_test import run_profile
from load_tests.sse import NS_PER_S, Status
from load_tests.workload import LoadPlan, plan_load
from serving.endpoint import Endpoint, connect
from tracking.runs import git_sha

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

_TOKENS_MAY_DIFFER = 0.01
_EVEN = 1000.0


@dataclass(frozen=True)
class Seen:
    """One side's figures of a round."""

    requests: int
    output_tokens: int
    requests_per_s: float
    output_tokens_per_s: float
    ttft_mean_s: float
    ttft_p50_s: float


@dataclass(frozen=True)
class Pair:
    """A round of both."""

    ours: Seen
    theirs: Seen

    def ratio(self, figure: str) -> float:
        """Ours to theirs."""
        return float(getattr(self.ours, figure) / getattr(self.theirs, figure))


FIGURES = ("requests_per_s", "output_tokens_per_s", "ttft_mean_s", "ttft_p50_s")


@app.command()
def main(
    users: Annotated[int, typer.Option(min=1, help="Of the closed loop.")] = 4,
    rate: Annotated[float | None, typer.Option(min=0.01, help="Instead: requests per second, evenly spaced.")] = None,
    duration_s: Annotated[int, typer.Option(min=5, help="Of each of our tests; theirs sends as many requests.")] = 60,
    prompt_tokens: Annotated[int, typer.Option(min=20, help="Of each prompt.")] = 128,
    output_tokens: Annotated[int, typer.Option(min=2, help="Of each answer.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Each with both sides.")] = 3,
    base_url: Annotated[str | None, typer.Option(help="Endpoint; else OPENAI_BASE_URL, else the started one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Measure both sides in turn and print figures, and ratios with their range."""
    endpoint = connect(base_url)
    if endpoint.simulated:
        raise BadInput(f"{endpoint.base_url}: is a simulator; start an engine: python -m serving start --background")
    profile: dict[str, Any] = {
        "name": "beside vllm bench serve",
        "arrivals": {"kind": "constant", "rate_per_s": rate} if rate else {"kind": "closed", "users": users},
        "workload": {"kind": "synthetic", "prompt_tokens": prompt_tokens, "output_tokens": output_tokens},
        "duration_s": duration_s,
        "drain_s": 120,
    }
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary), endpoint, profile)
        bench.ours()  # warms the prefix cache and tells which requests there are; not counted
        pairs = []
        for number in range(rounds):
            pairs.append(bench.pair(ours_first=number % 2 == 0))
            say(f"round {number + 1}: {told(pairs[-1])}")
    loop = f"open loop, {rate:g}/s" if rate else f"closed loop, {users} users"
    report(pairs, f"{endpoint.model}, {loop}, {prompt_tokens} prompt and {output_tokens} output tokens")
    if as_json:
        print(json.dumps(document(pairs, endpoint, profile), indent=2))
    check_same_work(pairs)


class Bench:
    """One load, and both ways to send it."""

    def __init__(self, folder: Path, endpoint: Endpoint, profile: dict[str, Any]) -> None:
        self._folder, self._endpoint = folder, endpoint
        self._profile_path = folder / "load.yaml"
        self._profile_path.write_text(yaml.safe_dump(profile), "utf8")
        self._profile = load_profile(self._profile_path)
        self._plan = plan_load(self._profile, endpoint)
        self._bodies: list[dict[str, Any]] = []
        self._number = 0

    def pair(self, *, ours_first: bool) -> Pair:
        """A round of both."""
        if ours_first:
            ours, theirs = self.ours(), self.theirs()
        else:
            theirs, ours = self.theirs(), self.ours()
        return Pair(ours, theirs)

    def ours(self) -> Seen:
        """Our load test. Raises CannotJudge when a request fails."""
        self._number += 1
        rows = run_profile(self._endpoint, self._profile_path, self._folder / f"ours-{self._number}")
        self._bodies = bodies_of(self._plan, rows)
        return seen_of(rows)

    def theirs(self) -> Seen:
        """`vllm bench serve` on the requests of our last test. Raises CannotJudge when it or a request of it fails."""
        data, result = self._folder / "theirs.jsonl", self._folder / "theirs.json"
        data.write_text("".join(json.dumps({"prompt": body["messages"]}) + "\n" for body in self._bodies), "utf8")
        arrivals = self._profile.arrivals
        at_once = arrivals.users if arrivals.kind == "closed" else len(self._bodies)
        # It streams and asks for usage by itself.
        asked = [{k: v for k, v in body.items() if k not in ("stream", "stream_options")} for body in self._bodies]
        command = [sys.executable, "-c", BENCH_SERVE, *bench_arguments(self._endpoint, asked, at_once)]
        if arrivals.kind == "constant":
            command += ["--request-rate", str(arrivals.rate_per_s), "--burstiness", str(_EVEN)]
        command.append("--save-detailed")  # without a tokenizer it tells no TTFT but each request's
        where = ["--dataset-path", str(data), "--result-dir", str(self._folder), "--result-filename", result.name]
        environment = os.environ | {"OPENAI_API_KEY": self._endpoint.api_key.get_secret_value()}
        ended = subprocess.run([*command, *where], capture_output=True, text=True, env=environment)
        if ended.returncode:
            raise CannotJudge(f"vllm bench serve ended with {ended.returncode}: {shorten(ended.stderr[-300:])}")
        return theirs_of(json.loads(result.read_text("utf8")), len(self._bodies))


def bodies_of(plan: LoadPlan, rows: LoadRows) -> list[dict[str, Any]]:
    """The bodies of a test's requests, in order of sending."""
    turns: Counter[int] = Counter()
    bodies = []
    for record in sorted(rows.records, key=lambda record: record.sent_ns):
        if record.user is None:
            request = plan.request_at(record.index)
        else:
            request = plan.request_for(record.user, turns[record.user])
            turns[record.user] += 1
        bodies.append(json.loads(request.body))
    return bodies


def seen_of(rows: LoadRows) -> Seen:
    """Our figures over a whole test. Raises CannotJudge when a request failed."""
    failed = [record for record in rows.records if record.status is not Status.OK]
    if failed or not rows.records:
        first = f"; first: {failed[0].status} {failed[0].error}" if failed else ""
        raise CannotJudge(f"{len(failed)} of our {len(rows.records)} requests failed{first}")
    took_s = (max(r.last_content_ns or 0 for r in rows.records) - min(r.sent_ns for r in rows.records)) / NS_PER_S
    tokens = sum(record.output_tokens or 0 for record in rows.records)
    ttft_s = [record.ttft_s for record in rows.records if record.ttft_s is not None]
    n = len(rows.records)
    return Seen(n, tokens, n / took_s, tokens / took_s, float(np.mean(ttft_s)), float(np.median(ttft_s)))


def theirs_of(result: dict[str, Any], requests: int) -> Seen:
    """Their figures. Raises CannotJudge when a request failed."""
    if result["completed"] != requests:
        raise CannotJudge(f"vllm bench serve completed {result['completed']} of {requests} requests")
    return Seen(
        requests,
        result["total_output_tokens"],
        result["request_throughput"],
        result["output_throughput"],
        float(np.mean(result["ttfts"])),
        float(np.median(result["ttfts"])),
    )


def check_same_work(pairs: Sequence[Pair]) -> None:
    """Raises CannotJudge when the two sides had answers of different length for a request."""
    for pair in pairs:
        ours, theirs = (side.output_tokens / side.requests for side in (pair.ours, pair.theirs))
        if abs(ours / theirs - 1) > _TOKENS_MAY_DIFFER:
            raise CannotJudge(f"not the same work: {ours:.1f} and {theirs:.1f} output tokens a request")


def report(pairs: Sequence[Pair], condition: str) -> None:
    """Both sides' figures and their ratios over rounds."""
    rows = [
        [
            figure,
            spread([getattr(pair.ours, figure) for pair in pairs], 3),
            spread([getattr(pair.theirs, figure) for pair in pairs], 3),
            spread([pair.ratio(figure) for pair in pairs], 3),
            f"{statistics.geometric_mean(pair.ratio(figure) for pair in pairs):.3f}",
        ]
        for figure in FIGURES
    ]
    n = sum(pair.ours.requests for pair in pairs)
    title = f"{condition}: median (lowest to highest) over {len(pairs)} rounds, {n} requests of ours"
    columns = ["", "ours", "vllm bench serve", "ratio", "geometric mean"]
    console.table(title, columns, rows, right=columns[1:])


def told(pair: Pair) -> str:
    """A round in one line."""
    ratios = ", ".join(f"{figure} {pair.ratio(figure):.3f}" for figure in FIGURES)
    return f"{pair.ours.requests} and {pair.theirs.requests} requests; ours to theirs: {ratios}"


def document(pairs: Sequence[Pair], endpoint: Endpoint, profile: dict[str, Any]) -> dict[str, Any]:
    """Every round, and what it was measured on."""
    return {
        "model": endpoint.model,
        "cpus": os.cpu_count(),
        "git_sha": git_sha(),
        "profile": profile,
        "rounds": [{**asdict(pair), "ratios": {figure: pair.ratio(figure) for figure in FIGURES}} for pair in pairs],
    }


if __name__ == "__main__":
    console.run(app)
