"""Runs whose answers a test chooses: right and wrong ones as it needs them, without a model or a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from agents.asking.endpoint.reply import ErrorClass, Reply
from agents.asking.variant import load_prompt
from agents.labels.policy import load_policy
from agents.specialists.decision import Decision
from agents.specialists.registry import specialist_of
from evals.case import Case
from evals.case_file import CaseFile
from evals.compare import Run
from evals.generate import generate
from evals.outcomes import outcomes_of
from evals.plan import make_plan
from evals.reference import reference_decision, wrong_decision
from evals.run_folder import RunFolder, SampleWriter
from evals.sample import Sample
from evals.scoring import score_run
from evals.suite import CaseSet, Suite
from evals.variant import ServedModel, Variant

Answer = Callable[[Case, int], dict[str, Any]]
"""A case and a repeat to the fields of the sample that an answer fills."""


def right(case: Case, _repeat: int = 0) -> dict[str, Any]:
    """What is right by the case's key."""
    return written(case, reference_decision(case))


def wrong(case: Case, _repeat: int = 0) -> dict[str, Any]:
    """A wrong choice and a harmful action."""
    return written(case, wrong_decision(case))


def failed(_case: Case, _repeat: int = 0) -> dict[str, Any]:
    """No answer."""
    return {"error": "the endpoint refused", "error_class": ErrorClass.UNREACHABLE}


def wrong_on(ids: Iterable[str]) -> Answer:
    """Wrong on these cases, right on the others."""
    bad = set(ids)
    return lambda case, repeat: (wrong if case.id in bad else right)(case, repeat)


def every(step: int, cases: Iterable[Case]) -> list[str]:
    """The ids of every step-th case."""
    return [case.id for case in list(cases)[::step]]


def written(case: Case, decision: Decision) -> dict[str, Any]:
    """A decision with the words that a model would write it in."""
    words = {specialist_of(case.stage).choice.name: decision.choice.id, "actions": decision.ids}
    return {"replies": (reply(json.dumps(words)),), "decision": decision}


def variant(name: str, **changes: Any) -> Variant:
    """A variant of the `write` prompt on a model that is simulated unless `changes` say otherwise."""
    model = ServedModel(name="small", base_url="http://127.0.0.1:1/v1", model="small-1b", simulated=True)
    given = {"prompt": load_prompt("write"), "model": model, "policy": load_policy("standard")}
    return Variant(name=name, **{**given, **changes})


def made_run(
    path: Path,
    answers: Mapping[str, Answer],
    *,
    cases: list[Case] | None = None,
    repeats: int = 1,
    changes: Mapping[str, Any] | None = None,
    backwards: bool = False,
    leave_out: int = 0,
) -> Run:
    """A scored run with these variants and answers. changes: of every Variant. leave_out: so many samples at the end
    were never asked."""
    cases = generate(34, 3) if cases is None else cases
    suite = Suite(name="made", prompts=["write"], cases=CaseSet(count=len(cases)), repeats=repeats)
    variants = [variant(name, **(changes or {})) for name in answers]
    held = CaseFile.temporary(cases)
    folder = RunFolder.create(path, make_plan(suite, variants, held), held)
    samples = [
        _sample(folder, number, case, which, repeat, answers[one.name](case, repeat))
        for number, case in enumerate(cases)
        for which, one in enumerate(variants)
        for repeat in range(repeats)
    ]
    samples = samples[: len(samples) - leave_out]
    writer = SampleWriter(folder)
    for sample in reversed(samples) if backwards else samples:
        writer.write(sample)
    writer.close()
    return Run(folder, score_run(folder, workers=1), outcomes_of(folder))


def _sample(folder: RunFolder, number: int, case: Case, which: int, repeat: int, answer: dict[str, Any]) -> Sample:
    place: dict[str, Any] = {"index": folder.plan.index(number, which, repeat), "repeat": repeat, "case_id": case.id}
    return Sample(variant=folder.plan.variants[which].name, request="0" * 16, **place, **answer)


def reply(text: str, finish_reason: str = "stop") -> Reply:
    return Reply(text=text, finish_reason=finish_reason, prompt_tokens=100, output_tokens=20, latency_s=0.5)
