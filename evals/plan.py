"""A plan: a suite with everything it names loaded and checked, before the first call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from agents.asking.question import question_for
from agents.asking.requests import render
from agents.asking.variant import PromptVariant, load_prompt
from agents.labels.policy import Policy, load_policy
from common import console
from common.console import BadInput, PlumblineError, shorten
from common.located import describe, load_yaml_model
from common.strict import Name, Strict
from evals.case import Case, curated_cases, load_cases
from evals.case_file import CaseFile
from evals.generate import iter_cases
from evals.suite import Metamorphic, Suite, SuiteModel
from evals.variant import ServedModel, Variant
from serving.endpoint import connect
from tracking.runs import git_sha

FORMAT = 2
"""Of a run's folder; a folder of another format is not read. 2: decisions in place of prose."""

MOST_SAMPLES = 20_000_000
"""The state of each is held as a byte or two: more would not fit the memory of a small machine."""

_MANY_CASES = 5_000
"""From here on checking the prompts takes long enough to show how far it is."""

_MAY_DIFFER = {"git_sha", "suite.concurrency", "suite.timeout_s", "suite.max_retries", "suite.gate"}
"""Of two halves of one run: what changes no answer. So may the address of a model."""


class Plan(Strict):
    """What a run is about; frozen in its folder as plan.json. Samples are counted case by case, see `index`."""

    format: int = FORMAT
    suite: Suite
    variants: tuple[Variant, ...] = Field(min_length=1, strict=False)
    baseline: Name
    """The variant the others are compared with."""
    repeats: int
    cases: int
    """How many, the metamorphic ones among them."""
    cases_digest: str
    """Of cases.jsonl."""
    git_sha: str

    @property
    def samples(self) -> int:
        """How many samples the whole run has."""
        return self.cases * len(self.variants) * self.repeats

    @property
    def simulated(self) -> bool:
        """Whether any answer is the simulator's."""
        return any(variant.model.simulated for variant in self.variants)

    @property
    def policies(self) -> list[Policy]:
        """Per variant, its policy; of equal ones the first, since labels depend on nothing else of a variant."""
        policies = [variant.policy for variant in self.variants]
        return [policies[policies.index(policy)] for policy in policies]

    def index(self, case: int, variant: int, repeat: int) -> int:
        """A sample's number, from the numbers of its case, variant and repeat, all from 0."""
        return (case * len(self.variants) + variant) * self.repeats + repeat

    def place(self, index: int) -> tuple[int, int, int]:
        """Case, variant and repeat of a sample."""
        rest, repeat = divmod(index, self.repeats)
        case, variant = divmod(rest, len(self.variants))
        return case, variant, repeat


def make_plan(suite: Suite, variants: Sequence[Variant], cases: CaseFile) -> Plan:
    """A plan over loaded parts. Raises BadInput when variants share a name or there are too many samples."""
    names = [variant.name for variant in variants]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadInput(
            f"variants: {shorten(twice, 80)!r} is the name of two; names in prompts and policies must differ"
        )
    if suite.baseline is not None and suite.baseline not in names:
        raise BadInput(f"baseline: found {shorten(suite.baseline, 80)!r}; allowed: {', '.join(names)}")
    plan = Plan(
        suite=suite,
        variants=tuple(variants),
        baseline=suite.baseline or names[0],
        repeats=suite.repeats,
        cases=len(cases),
        cases_digest=cases.digest,
        git_sha=git_sha(),
    )
    if plan.samples > MOST_SAMPLES:
        raise BadInput(f"the matrix has {plan.samples} samples; allowed are {MOST_SAMPLES}: split it into suites")
    return plan


def load_plan(path: Path, base_url: str | None = None, model: str | None = None) -> tuple[Plan, CaseFile]:
    """Load a suite and all it names, reach its endpoints, render every prompt on every case.

    Raises BadInput that names the file and the field; CannotJudge when an endpoint does not answer.
    """
    suite = load_yaml_model(path, Suite)
    try:
        prompts, policies = (
            [load_prompt(_beside(path, name)) for name in suite.prompts],
            [load_policy(_beside(path, name)) for name in suite.policies],
        )
        cases = CaseFile.temporary(_cases(suite, path.parent))
        _check_renders(prompts, policies, cases)
        models = served_models(suite, base_url, model)
        variants = list(_variants(suite, prompts, models, policies))
        return make_plan(suite, variants, cases), cases
    except BadInput as error:
        text = str(error)
        raise BadInput(text if text.startswith(str(path)) else f"{path}: {text}") from None


def _beside(suite: Path, name: str) -> str:
    """A file as it is found from here; the name of a preset as it is."""
    return str(suite.parent / name) if name.endswith((".yaml", ".yml")) else name


def _cases(suite: Suite, folder: Path) -> Iterable[Case]:
    base = _base_cases(suite, folder)
    if suite.metamorphic is None:
        return base
    held = CaseFile.temporary(base)
    return chain(held, _changed(held, suite.metamorphic))


def _base_cases(suite: Suite, folder: Path) -> Iterable[Case]:
    wanted = suite.cases
    if wanted.curated:
        return curated_cases()
    if wanted.file:
        return load_cases(folder / wanted.file)
    return iter_cases(wanted.count or 0, wanted.seed)


def _changed(cases: Sequence[Case], wanted: Metamorphic) -> list[Case]:
    from evals.metamorphic import RELATIONS, metamorphic_cases  # few suites ask for it

    relations = list(RELATIONS) if wanted.relations == "all" else wanted.relations
    if unknown := next((name for name in relations if name not in RELATIONS), None):
        allowed = ", ".join(RELATIONS)
        raise BadInput(f"metamorphic.relations: found {shorten(unknown, 80)!r}; allowed: all, or {allowed}")
    return metamorphic_cases(cases, relations, wanted.cases)


def served_models(suite: Suite, base_url: str | None, model: str | None) -> list[ServedModel]:
    """Every model of a suite, seen to be served. Raises BadInput and CannotJudge that name the model."""
    if suite.models is None:
        return [_served(SuiteModel(name="-", base_url=base_url, model=model), None)]
    if model or (base_url and all(one.base_url for one in suite.models)):
        option = "--model" if model else "--base-url"
        raise BadInput(f"models: the suite names its models and where they are; leave out {option}, or models")
    return [
        _served(one if one.base_url else one.model_copy(update={"base_url": base_url}), one.name)
        for one in suite.models
    ]


def _served(wanted: SuiteModel, name: str | None) -> ServedModel:
    """name: None for the one model that no suite names; it goes by the id it is served under."""
    try:
        endpoint = connect(wanted.base_url, wanted.model)
    except PlumblineError as error:
        raise type(error)(f"models: {name}: {error}" if name else str(error)) from None
    return ServedModel(
        name=name or endpoint.model, base_url=endpoint.base_url, model=endpoint.model, simulated=endpoint.simulated
    )


def _variants(
    suite: Suite, prompts: Sequence[PromptVariant], models: Sequence[ServedModel], policies: Sequence[Policy]
) -> Iterator[Variant]:
    """Every combination; its name is made of the axes that have more than one value, or is the prompt's."""
    several = [len(axis) > 1 for axis in (prompts, models, suite.sampling, policies)]
    for prompt, model, sampling, policy in product(prompts, models, suite.sampling, policies):
        names = (prompt.name, model.name, sampling.name, policy.name)
        name = "/".join(part for part, shown in zip(names, several, strict=True) if shown) or prompt.name
        try:
            yield Variant(
                name=name,
                prompt=sampling.applied(prompt).with_parameters(suite.parameters),
                sampling_name=sampling.name,
                model=model,
                policy=policy,
            )
        except ValidationError as error:  # a name that is too long, a sampling that has no effect on the prompt
            raise BadInput(describe(error, Variant, f"variant {shorten(name, 80)!r}")) from None


def _check_renders(prompts: Sequence[PromptVariant], policies: Sequence[Policy], cases: CaseFile) -> None:
    """Raises BadInput for the first case that a policy or a prompt cannot be used on."""
    shown = len(cases) > _MANY_CASES
    with console.progress("cases") as bar:
        task = bar.add_task("checking prompts", total=len(cases), visible=shown)
        for number in range(len(cases)):
            _check_case(prompts, policies, cases, number)
            if shown and number % 500 == 0:
                bar.update(task, completed=number)


def _check_case(prompts: Sequence[PromptVariant], policies: Sequence[Policy], cases: CaseFile, number: int) -> None:
    case = cases[number]
    try:
        for policy in policies:
            label = cases.labels(number, policy)[case.stage]
            for prompt in prompts:
                render(prompt, question_for(prompt, case.stage, case.spec, label))
    except BadInput as error:
        raise BadInput(f"case {shorten(case.id, 80)}: {error}") from None


# --- two halves of one run -------------------------------------------------------------------------------


def difference(before: Plan, now: Plan) -> str | None:
    """The first key in which two plans differ, with both values; None when one run may go on by the other."""
    was, new = dict(_compared(before)), dict(_compared(now))
    key = next((key for key in {**was, **new} if was.get(key) != new.get(key)), None)
    if key is None:
        return None
    return f"{key} was {shorten(str(was.get(key)), 80)!r} and is {shorten(str(new.get(key)), 80)!r}"


def _compared(plan: Plan) -> Iterator[tuple[str, object]]:
    for key, value in _flat(plan.model_dump(mode="json"), ""):
        if not key.endswith("base_url") and not any(key == one or key.startswith(f"{one}.") for one in _MAY_DIFFER):
            yield key, value


def _flat(value: Any, key: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _flat(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _flat(part, f"{key}.{number}")
    else:
        yield key, value
