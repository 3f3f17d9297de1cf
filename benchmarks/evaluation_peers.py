"""What a sample costs our runner and others': CPU and samples per second, side by side on the simulator.

    python -m benchmarks.evaluation_peers [--rounds 3] [--only plumbline,inspect_ai] [--json]

Subjects: `python -m evals run` without MLflow, inspect_ai, lm-eval and mlflow.genai.evaluate, each as benchmarks/peers/
starts it. All ask the same messages with the same sampling and schema (the agents' own, of a prompt that writes, on
generated cases; but see lm_eval_driver.py) and keep every answer. Ours has one variant, its dearest case: what is done
once a case is shared by no other sample. Ours scores with all its scorers, works out intervals and writes the report;
the peers run three plain scorers (benchmarks/peers/work.py), which favours them.

Measured: user and system time of each subject's own process and its children; the simulator is another process, has no
delay and is not counted. Each round runs a subject on a small and on a large number of samples: the difference, by the
samples between, is what a sample costs, and what is left of the small one is start-up. Rounds go over the subjects in
turn, so that a machine that drifts drifts for all. Samples per second are from the same difference in wall time.

Not covered: TLS, a network, a real engine's delays. inspect_ai and lm-eval are installed once, into an environment of
their own under the user's cache folder, pinned by benchmarks/peers/requirements.txt; a peer that cannot be installed
or does not score every sample is a row that says why.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from agents.asking.requests import stage_request
from agents.asking.variant import PromptVariant
from agents.labels.policy import load_policy
from agents.specialists.registry import labels_for
from benchmarks.peers.environment import PeerFailed, last_line, peers_python
from benchmarks.peers.plumbline_driver import PROMPT, cases_beside
from benchmarks.peers.work import Row, write_rows
from benchmarks.simulator_process import simulator
from common import console
from common.console import BadInput, say, shorten
from evals.case import Case, dump_cases
from evals.generate import generate
from serving.endpoint import connect
from tracking.runs import git_sha

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

_ROOT = Path(__file__).resolve().parents[1]
_LIMIT_S = 900.0
"""No run of a subject takes longer; one that hangs is ended and told."""


@dataclass(frozen=True)
class Subject:
    """One way to evaluate, and on how many samples it is measured."""

    module: str
    small: int
    large: int
    own_environment: bool = False
    """Whether it is installed apart from the project."""


SUBJECTS = {
    "plumbline": Subject("plumbline_driver", 1000, 6000),
    "inspect_ai": Subject("inspect_driver", 200, 1200, own_environment=True),
    "lm-eval": Subject("lm_eval_driver", 1000, 6000, own_environment=True),
    "mlflow.genai.evaluate": Subject("mlflow_driver", 50, 200),
}
"""The first is what ratios are to. The dearer a sample beside start-up, the fewer show what it costs."""


@dataclass(frozen=True)
class Cost:
    """What one run of a subject took, from its start to its end."""

    cpu_s: float
    wall_s: float


@dataclass(frozen=True)
class Round:
    """One round of one subject."""

    cpu_ms: float
    """A sample."""
    samples_per_s: float
    startup_cpu_s: float


@app.command()
def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each subject.")] = 3,
    only: Annotated[str, typer.Option(help="Comma-separated subjects; all without it.")] = ",".join(SUBJECTS),
    scale: Annotated[float, typer.Option(min=0.05, help="Times the usual numbers of samples.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Measure the subjects in turn and print medians, ranges and ratios."""
    subjects = {name: sized(subject, scale) for name, subject in chosen(only).items()}
    failed: dict[str, str] = {}
    seen: dict[str, list[Round]] = {name: [] for name in subjects}
    with tempfile.TemporaryDirectory() as temporary, simulator() as base_url:
        bench = Bench(Path(temporary), base_url, connect(base_url).model)
        for number in range(rounds):
            for name, subject in subjects.items():
                if name in failed:
                    continue
                try:
                    seen[name].append(bench.measure(subject))
                    say(f"round {number + 1}, {name}: {told(seen[name][-1])}")
                except PeerFailed as problem:
                    failed[name] = str(problem)
                    say(f"{name}: {problem}")
    report(subjects, seen, failed)
    if as_json:
        print(json.dumps(document(subjects, seen, failed), indent=2))


def chosen(only: str) -> dict[str, Subject]:
    """The subjects of that list. Raises BadInput for one that is not known."""
    names = only.split(",")
    if unknown := [name for name in names if name not in SUBJECTS]:
        raise BadInput(f"--only: {unknown[0]!r} is not known; known: {', '.join(SUBJECTS)}")
    return {name: SUBJECTS[name] for name in names}


def sized(subject: Subject, scale: float) -> Subject:
    """The subject on `scale` times as many samples; small and large stay apart."""
    small = max(1, round(subject.small * scale))
    return Subject(subject.module, small, max(small + 1, round(subject.large * scale)), subject.own_environment)


@dataclass(frozen=True)
class Bench:
    """Where a round happens: a folder, an endpoint."""

    folder: Path
    base_url: str
    model: str

    def measure(self, subject: Subject) -> Round:
        """One round. Raises PeerFailed."""
        small, large = (self._run(subject, samples) for samples in (subject.small, subject.large))
        return difference(subject, small, large)

    def _run(self, subject: Subject, samples: int) -> Cost:
        python = peers_python() if subject.own_environment else Path(sys.executable)
        rows = self._rows(samples)
        with tempfile.TemporaryDirectory(dir=self.folder) as out:
            command = [str(python), "-m", f"benchmarks.peers.{subject.module}"]
            cost, told = timed([*command, str(rows), self.base_url, self.model, out])
        check_scored(told, samples)
        return cost

    def _rows(self, samples: int) -> Path:
        """The file with that many rows; their cases lie beside it."""
        path = self.folder / f"{samples}.jsonl"
        if not path.exists():
            cases = generate(samples, seed=0)
            cases_beside(path).write_text(dump_cases(cases), "utf8")
            write_rows(path, as_rows(cases, self.model))
        return path


def as_rows(cases: Sequence[Case], model: str) -> list[Row]:
    """The requests that our runner sends for these cases, with words of the answer for the peers to look for."""
    prompt, policy = PromptVariant.model_validate(PROMPT), load_policy("standard")
    rows = []
    for case in cases:
        body = stage_request(case.stage, case.spec, prompt, labels_for(case.spec, policy), model).body
        options = {key: value for key, value in body.items() if key not in ("model", "messages")}
        rows.append(Row(case.id, case.stage, body["messages"], options, list(case.right_choices)))
    return rows


def timed(command: list[str]) -> tuple[Cost, str]:
    """Run a program; what it and its children took, and the last line it printed. Raises PeerFailed."""
    # Of ended children only, so the simulator is not in it.
    before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    try:
        ended = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise PeerFailed(f"did not end within {_LIMIT_S:.0f} s") from None
    after, wall_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began_s
    if ended.returncode:
        raise PeerFailed(f"ended with {ended.returncode}: {last_line(ended.stderr)}")
    return Cost(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall_s), last_line(ended.stdout)


def check_scored(told: str, samples: int) -> None:
    """Raises PeerFailed unless a driver's last line says that every sample was scored and kept."""
    try:
        scored = json.loads(told)["scored"]
    except (ValueError, KeyError, TypeError):
        raise PeerFailed(f"its driver ended with {shorten(told, 100)!r}") from None
    if scored != samples:
        raise PeerFailed(f"scored and kept {scored} of {samples} samples")


def difference(subject: Subject, small: Cost, large: Cost) -> Round:
    """What a sample costs and what start-up does, from a small and a large run. Raises PeerFailed when it is noise."""
    between = subject.large - subject.small
    cpu_s, wall_s = (large.cpu_s - small.cpu_s) / between, (large.wall_s - small.wall_s) / between
    if cpu_s <= 0 or wall_s <= 0:
        raise PeerFailed(f"{subject.large} samples took no longer than {subject.small}: raise --scale")
    return Round(cpu_s * 1e3, 1 / wall_s, small.cpu_s - cpu_s * subject.small)


def report(subjects: dict[str, Subject], seen: dict[str, list[Round]], failed: dict[str, str]) -> None:
    """Medians with their range over rounds; a subject that failed says why."""
    columns = ["subject", "samples", "rounds", "CPU ms/sample", "samples/s", "start-up CPU s", "CPU ratio", "note"]
    rows = []
    for name, subject in subjects.items():
        rounds = seen[name]
        cells = [
            *([spread([one.cpu_ms for one in rounds], 2), spread([one.samples_per_s for one in rounds], 0)]),
            *([spread([one.startup_cpu_s for one in rounds], 1), spread(ratios(rounds, next(iter(seen.values()))), 1)]),
        ]
        rows.append([name, f"{subject.small} and {subject.large}", len(rounds), *cells, failed.get(name, "")])
    title = "SIMULATED endpoint without delays: median (lowest to highest) over rounds"
    console.table(title, columns, rows, right=columns[2:-1])


def ratios(rounds: Sequence[Round], first: Sequence[Round]) -> list[float]:
    """CPU a sample, as a multiple of the first subject's in the same round."""
    return [one.cpu_ms / other.cpu_ms for one, other in zip(rounds, first, strict=False)]


def spread(values: Sequence[float], digits: int) -> str:
    """Median and range; a dash for none."""
    if not values:
        return "-"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def told(found: Round) -> str:
    """A round in one line."""
    return f"{found.cpu_ms:.2f} ms CPU a sample, {found.samples_per_s:.0f} samples/s"


def document(subjects: dict[str, Subject], seen: dict[str, list[Round]], failed: dict[str, str]) -> dict[str, Any]:
    """Every round of every subject, and what they were measured on."""
    return {
        "simulated": True,
        "cpus": os.cpu_count(),
        "git_sha": git_sha(),
        "subjects": {
            name: {
                "samples": [subject.small, subject.large],
                "rounds": [asdict(one) for one in seen[name]],
                "cpu_ratios": ratios(seen[name], next(iter(seen.values()))),
                "failed": failed.get(name),
            }
            for name, subject in subjects.items()
        },
    }


if __name__ == "__main__":
    console.run(app)
