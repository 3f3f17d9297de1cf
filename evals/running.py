"""A suite run from end to end: planned or gone on with, asked, scored. What `run` and `gate` share."""

from __future__ import annotations

import shlex
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from agents.cli.open_files import allow_connections
from common.console import BadInput, CannotJudge, say, shorten
from evals.cache import AnswerCache
from evals.meter import Meter
from evals.plan import Plan, difference, load_plan
from evals.run_folder import Kept, RunFolder, keep_answered
from evals.runner import GONE_AFTER, Asked, ask
from evals.score_table import ScoreTable
from evals.scoring import score_run
from evals.suite import Suite
from evals.variant import ServedModel
from serving.endpoint import Endpoint, connect

RUNS = Path("runs") / "evals"
_SHOWN_DAMAGE = 5


@dataclass(frozen=True)
class Where:
    """What the command line says of a run."""

    base_url: str | None = None
    model: str | None = None
    out: Path | None = None
    """The run's folder; None for a new one named by the time."""
    cache: Path | None = None


@dataclass(frozen=True)
class Ran:
    """A run whose every sample was asked and scored."""

    folder: RunFolder
    table: ScoreTable
    asked: Asked
    """This time; rows that an earlier half left are not in it."""
    kept: int
    """Answers an earlier half left."""
    cached: int
    """Of those asked this time, replies that came from the cache."""
    wall_s: float

    def check(self) -> None:
        """Raises CannotJudge when a sample got no answer."""
        if self.asked.errored:
            raise CannotJudge(
                f"{self.asked.errored} of {self.folder.plan.samples} samples got no answer; "
                f"first: {self.asked.first_error}; ask them again: {resume_command(self.folder)}"
            )


def run_suite(suite: Path, where: Where) -> Ran:
    """Plan a suite and run it in a new folder. Raises BadInput; CannotJudge when a model cannot be reached (any more)
    or an answer cannot be written. A sample without an answer is told by Ran.check."""
    plan, cases = load_plan(suite, where.base_url, where.model)
    with _opened(where.cache) as cache:  # before the folder is made: the file may be no cache
        folder = RunFolder.create(where.out or _new_folder(), plan, cases)
        return _run(folder, plan, where.base_url, cache, resume=False)


def resume_run(suite: Path | None, where: Where) -> Ran:
    """Go on with a run: ask what has no answer yet. A suite, if given, has to be the one the run was made with."""
    if where.out is None:
        raise BadInput("--resume: needs --out FOLDER, the run to go on with")
    folder = RunFolder.open(where.out)
    plan = _plan_now(folder, suite, where)
    with _opened(where.cache) as cache:
        return _run(folder, plan, where.base_url, cache, resume=True)


def _plan_now(folder: RunFolder, suite: Path | None, where: Where) -> Plan:
    """A run's plan with what may change since it was made. Raises BadInput for what may not."""
    if suite is None:
        _refuse_unheeded(folder.plan, where)
        return folder.plan
    plan, _ = load_plan(suite, where.base_url, where.model)
    if differs := difference(folder.plan, plan):
        raise BadInput(f"--resume: {where.out} was made from another suite: {differs}; use that, or another --out")
    return plan


def _refuse_unheeded(plan: Plan, where: Where) -> None:
    """Raises BadInput for options that a run without its suite would have to ignore."""
    models = {variant.model.name: variant.model for variant in plan.variants}
    ids = sorted({model.model for model in models.values()})
    if where.model and [where.model] != ids:
        raise BadInput(f"--model: the run says what is asked ({shorten(', '.join(ids), 80)}); leave it out")
    if where.base_url and len(models) > 1:
        raise BadInput(
            f"--base-url: the run asks {len(models)} models, each at its own address; give the suite, with the new ones"
        )


def _opened(cache: Path | None) -> AbstractContextManager[AnswerCache | None]:
    return AnswerCache(cache) if cache else nullcontext()


def _run(folder: RunFolder, plan: Plan, base_url: str | None, cache: AnswerCache | None, *, resume: bool) -> Ran:
    """plan: where the models are now, and how many are asked at once; else it is the folder's. base_url: of the model
    where there is but one."""
    models = {variant.model.name: variant.model for variant in plan.variants}
    only = base_url if len(models) == 1 else None
    endpoints = {name: _endpoint(model, only) for name, model in models.items()}
    allow_connections(plan.suite.concurrency * len(endpoints))
    began_s = time.monotonic()
    with folder.locked():
        kept = keep_answered(folder) if resume else Kept(bytearray(plan.samples))
        if resume:
            _tell(folder, kept)
        asked, cached = _ask(folder, endpoints, plan.suite, kept, cache)
    _check_complete(folder, kept, asked)
    return Ran(folder, score_run(folder), asked, kept.answered, cached, time.monotonic() - began_s)


def _endpoint(model: ServedModel, base_url: str | None) -> Endpoint:
    """Where a model is asked now. Raises BadInput when what is served there is real now and was simulated, or so."""
    endpoint = connect(base_url or model.base_url, model.model)
    if endpoint.simulated != model.simulated:
        was, now = ("a simulator" if one else "a model" for one in (model.simulated, endpoint.simulated))
        raise BadInput(f"{endpoint.base_url}: {model.model} is {now}, and was {was} when the run began")
    return endpoint


def _ask(
    folder: RunFolder, endpoints: dict[str, Endpoint], pace: Suite, kept: Kept, cache: AnswerCache | None
) -> tuple[Asked, int]:
    left = folder.plan.samples - kept.answered
    told = f"{len(folder.plan.variants)} variants x {folder.plan.cases} cases"
    repeats = f" x {folder.plan.repeats} repeats" if folder.plan.repeats > 1 else ""
    say(f"{told}{repeats}: {left} samples to ask, {pace.concurrency} at a time; {folder.path}")
    try:
        with Meter(folder.plan.suite.name, left) as meter:
            asked = ask(folder, endpoints, pace=pace, done=kept.done, cache=cache, on_sample=meter.add)
    except KeyboardInterrupt:
        say(f"stopped; what was answered is kept; go on by: {resume_command(folder)}")
        raise
    if cache and cache.corrupt:
        say(f"--cache {cache.path}: {cache.corrupt} rows were damaged and asked anew")
    return asked, cache.hits if cache else 0


def _check_complete(folder: RunFolder, kept: Kept, asked: Asked) -> None:
    """Raises CannotJudge when a model was given up, or rows are not as many as samples."""
    missing = folder.plan.samples - kept.answered - asked.answered - asked.errored
    if asked.gone:
        name, error = next(iter(asked.gone.items()))
        raise CannotJudge(
            f"{name}: given up, nothing came of {GONE_AFTER} samples in a row ({error}); {missing} samples were not "
            f"asked; when it is up again: {resume_command(folder)}"
        )
    if missing:
        raise CannotJudge(f"{missing} of {folder.plan.samples} samples have no row: {resume_command(folder)}")


def _tell(folder: RunFolder, kept: Kept) -> None:
    for problem in kept.damaged[:_SHOWN_DAMAGE]:
        say(f"damaged, asked again: {problem}")
    if len(kept.damaged) > _SHOWN_DAMAGE:
        say(f"and {len(kept.damaged) - _SHOWN_DAMAGE} more damaged lines")
    again = f", {kept.errored} of them after an error" if kept.errored else ""
    left = folder.plan.samples - kept.answered
    say(f"{kept.answered} of {folder.plan.samples} samples have their answer; {left} are asked now{again}")


def _new_folder() -> Path:
    return RUNS / datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")


def resume_command(folder: RunFolder) -> str:
    """The command that asks what a run has no answer for."""
    return f"python -m evals run --resume --out {shlex.quote(str(folder.path))}"
