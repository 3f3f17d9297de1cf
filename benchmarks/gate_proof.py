"""Is the gate worth trusting? It has to stop every broken setup and let the same setup through.

    python -m benchmarks.gate_proof [--aa 100] [--only TEXT] [--json]

Broken setups: benchmarks/mutations.py, each against the sound setup it was made from, on generated cases. A/A: the
sound setup against itself with other sampling seeds at temperature 0.25, so that answers differ by chance and nothing
else. Answers come from a stand-in for a small model (benchmarks/stand_in.py) behind the simulator: what is proven is
the gate's arithmetic and reach on plausible changes of behaviour, not how any model reacts to a prompt.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.mutations import MUTATIONS, Mutation, Setup, setup
from benchmarks.simulator_process import simulator
from common import console
from common.console import ExitCode, say
from evals.compare import Run
from evals.gate import GateVerdict, judge
from evals.gate_rules import GateRules
from evals.running import Where, run_suite

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
AA_TEMPERATURE = 0.25
"""At which the stand-in loses its thread in 2 % of its answers: chance that can be told from a fall by the margin."""


@dataclass(frozen=True)
class Trial:
    """One comparison the gate judged."""

    name: str
    outcome: str
    failed: tuple[str, ...]
    """The checks that failed."""
    why: str

    @classmethod
    def of(cls, name: str, verdict: GateVerdict) -> Trial:
        """What is worth telling of a verdict."""
        failed = tuple(check.check for check in verdict.checks if check.outcome == "fail")
        return cls(name, verdict.outcome, failed, verdict.why)


@app.command()
def main(
    aa: Annotated[int, typer.Option(min=0, help="How many A/A comparisons.")] = 100,
    only: Annotated[str, typer.Option(help="Only mutations whose name holds this.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Judge every mutation and so many A/A pairs; exit 1 when a mutation passes or more than 5 % of A/A do not."""
    with simulator(stand_in=True) as base_url, tempfile.TemporaryDirectory() as folder:
        broken = list(mutation_trials(base_url, Path(folder), [one for one in MUTATIONS if only in one.name]))
        equal = list(aa_trials(base_url, Path(folder), aa))
    caught, passed = _count(broken, "fail"), _count(equal, "pass")
    if as_json:
        print(
            json.dumps({"mutations": [asdict(one) for one in broken], "aa": [asdict(one) for one in equal]}, indent=2)
        )
    else:
        _tell(broken, equal)
    if caught < len(broken) or passed < 0.95 * len(equal):
        raise typer.Exit(ExitCode.VERDICT_AGAINST)


def mutation_trials(base_url: str, folder: Path, mutations: Sequence[Mutation]) -> Iterator[Trial]:
    """Each mutation against the sound setup, which is run once."""
    sound = _run(setup(), base_url, folder / "sound")
    for number, mutation in enumerate(mutations):
        work, made = folder / f"mutation-{number}", setup()
        work.mkdir()
        mutation.change(made, work)
        yield Trial.of(mutation.name, judge(sound, _run(made, base_url, work), GateRules()))


def aa_trials(base_url: str, folder: Path, count: int) -> Iterator[Trial]:
    """The sound setup against itself, two seeds apart each time."""
    for number in range(count):
        one, other = (_run(_seeded(2 * number + half), base_url, folder / f"aa-{number}-{half}") for half in (0, 1))
        yield Trial.of(f"A/A {number}", judge(one, other, GateRules()))


def _seeded(seed: int) -> Setup:
    made = setup()
    made.suite["sampling"] = [{"name": "warm", "temperature": AA_TEMPERATURE, "seed": seed}]
    return made


def _run(made: Setup, base_url: str, folder: Path) -> Run:
    folder.mkdir(exist_ok=True)
    with _quiet():
        ran = run_suite(made.written(folder), Where(base_url, out=folder / "run"))
    return Run.open(ran.folder.path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the words of each single run."""
    before, console.stderr.quiet = console.stderr.quiet, True
    try:
        yield
    finally:
        console.stderr.quiet = before


def _count(trials: Sequence[Trial], outcome: str) -> int:
    return sum(trial.outcome == outcome for trial in trials)


def _tell(broken: Sequence[Trial], equal: Sequence[Trial]) -> None:
    rows = [(one.name, one.outcome, ", ".join(one.failed), one.why) for one in broken]
    console.table("broken setups, on a STAND-IN for a model", ["mutation", "verdict", "failed checks", "why"], rows)
    say(f"mutations caught: {_count(broken, 'fail')} of {len(broken)}")
    for one in equal:
        if one.outcome != "pass":
            say(f"{one.name}: {one.why}")
    say(f"A/A passed: {_count(equal, 'pass')} of {len(equal)} (temperature {AA_TEMPERATURE}, other seeds)")


if __name__ == "__main__":
    console.run(app)
