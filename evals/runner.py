"""Asking: every sample of a plan that has no answer yet, many at a time, each one on disk when it arrives."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache as kept

import uvloop

from agents.asking.client import ChatClient, make_client
from agents.asking.reply import AgentError
from agents.asking.requests import Labels, stage_request
from agents.asking.variant import PromptVariant
from agents.deciding.agent import AGENTS, Answer
from agents.guardrails import GuardrailMode
from agents.schema import ErrorClass
from common.console import BadInput
from evals.cache import AnswerCache, SampleClient
from evals.case import Case
from evals.plan import Plan
from evals.run_folder import RunFolder, SampleWriter
from evals.sample import Sample
from evals.suite import Suite
from evals.variant import Variant
from serving.endpoint import Endpoint

GONE_AFTER = 50
"""So many samples of one model in a row without reaching it, and it is asked no more: the rest would fail alike."""

_GONE = frozenset({ErrorClass.UNREACHABLE, ErrorClass.TIMEOUT})
_NEVER_WELL = _GONE | {ErrorClass.REFUSED, ErrorClass.SERVER_ERROR, ErrorClass.RATE_LIMITED}
"""As long as nothing was answered: a wrong key or a model that fails to run refuses every sample."""
_ORDER_SEED = 0

OnSample = Callable[[Sample], None]


@dataclass
class Asked:
    """What asking came to."""

    answered: int = 0
    errored: int = 0
    first_error: str | None = None
    errors: Counter[str] = field(default_factory=Counter)
    """By error class."""
    gone: dict[str, str] = field(default_factory=dict)
    """Models that were given up, with the last error of each."""

    def add(self, sample: Sample) -> None:
        """Count a sample in."""
        if sample.error is None:
            self.answered += 1
            return
        self.errored += 1
        self.errors[str(sample.error_class)] += 1
        self.first_error = self.first_error or sample.error


def ask(
    folder: RunFolder,
    endpoints: Mapping[str, Endpoint],
    *,
    pace: Suite | None = None,
    done: bytearray | None = None,
    cache: AnswerCache | None = None,
    on_sample: OnSample = lambda _sample: None,
) -> Asked:
    """Ask what is not done yet, `suite.concurrency` samples at a time and model, and write each one as it arrives.

    endpoints: by model name, with their keys. pace: whose concurrency, timeout and retries hold; None for the plan's.
    done: per sample, 1 where it needs no asking. The caller holds the folder's lock. Raises CannotJudge when a sample
    cannot be written.
    """
    writer = SampleWriter(folder)
    try:
        todo = done or bytearray(folder.plan.samples)
        return uvloop.run(_ask_all(folder, endpoints, pace or folder.plan.suite, todo, cache, writer, on_sample))
    finally:
        writer.close()


async def _ask_all(
    folder: RunFolder,
    endpoints: Mapping[str, Endpoint],
    suite: Suite,
    done: bytearray,
    cache: AnswerCache | None,
    writer: SampleWriter,
    on_sample: OnSample,
) -> Asked:
    asked, questions = Asked(), _Questions(folder)

    def arrived(sample: Sample) -> None:
        writer.write(sample)
        asked.add(sample)
        on_sample(sample)

    try:
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            for name, endpoint in endpoints.items():
                # Slots of its own: a slow model must not hold up the others.
                client = await stack.enter_async_context(
                    make_client(
                        endpoint,
                        timeout_s=suite.timeout_s,
                        max_retries=suite.max_retries,
                        concurrency=suite.concurrency,
                    )
                )
                line = _Line(name, order(folder.plan, name, done), client, cache, questions, asked)
                for _ in range(suite.concurrency):
                    tasks.create_task(line.work(arrived))
    except BaseExceptionGroup as group:
        raise _first(group) from None
    return asked


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def order(plan: Plan, model: str, done: bytearray) -> Iterator[int]:
    """The samples of one model that are not done: cases in a shuffled order, each case's own samples shuffled too.

    A case is rendered and labelled once for all its samples, and no variant has the run's quiet start for itself.
    """
    variants = [number for number, variant in enumerate(plan.variants) if variant.model.name == model]
    cases = list(range(plan.cases))
    by_chance = random.Random(_ORDER_SEED)  # noqa: S311 - reproducible, not secret
    by_chance.shuffle(cases)
    for case in cases:
        todo = [plan.index(case, variant, repeat) for variant in variants for repeat in range(plan.repeats)]
        by_chance.shuffle(todo)
        yield from (index for index in todo if not done[index])


class _Questions:
    """What to ask for each sample, worked out when it is its turn."""

    def __init__(self, folder: RunFolder) -> None:
        self.plan = folder.plan
        self._cases = folder.cases
        self._policies = self.plan.policies
        self._prompts = kept(self._prompt_of)

    def __call__(self, index: int) -> tuple[Case, Variant, int, PromptVariant, Labels]:
        """Case, variant, repeat, the prompt with that repeat's seed, and the labels."""
        case, variant, repeat = self.plan.place(index)
        labels = self._cases.labels(case, self._policies[variant])
        return self._cases[case], self.plan.variants[variant], repeat, self._prompts(variant, repeat), labels

    def _prompt_of(self, variant: int, repeat: int) -> PromptVariant:
        return with_seed(self.plan.variants[variant].prompt, repeat)


def with_seed(prompt: PromptVariant, repeat: int) -> PromptVariant:
    """The prompt as repeat number `repeat` is asked: its sampling's seed plus that number."""
    sampling = prompt.sampling.model_copy(update={"seed": prompt.sampling.seed + repeat})
    return prompt.model_copy(update={"sampling": sampling})


@dataclass
class _Line:
    """One model's samples, and the workers that draw from them."""

    model: str
    indexes: Iterator[int]
    client: ChatClient
    cache: AnswerCache | None
    questions: _Questions
    asked: Asked
    failed_in_a_row: int = 0

    async def work(self, arrived: OnSample) -> None:
        """Ask until nothing is left, or the model is given up."""
        for index in self.indexes:
            sample = await self._sample(index)
            arrived(sample)
            fatal = _GONE if self.asked.answered else _NEVER_WELL
            self.failed_in_a_row = self.failed_in_a_row + 1 if sample.error_class in fatal else 0
            if self.failed_in_a_row >= GONE_AFTER:
                self.asked.gone.setdefault(self.model, sample.error or "")
            if self.model in self.asked.gone:
                return

    async def _sample(self, index: int) -> Sample:
        case, variant, repeat, prompt, labels = self.questions(index)
        client = SampleClient(self.client, variant.model, repeat, self.cache)
        try:
            if variant.guardrails is GuardrailMode.OFF:
                # The agent would read the answer for guardrails that are off; scorers read it anyway.
                request = stage_request(case.stage, case.spec, prompt, labels, variant.model.model)
                came: dict[str, object] = {"replies": (await client.complete(request.body),)}
            else:
                agent = AGENTS[case.stage](client, variant.model.model, prompt, variant.policy, variant.guardrails)
                came = _of_answer(await agent.recommend(case.spec, labels))
        except AgentError as error:
            came = _of_error(error)
        except BadInput as error:
            came = {"error": str(error), "error_class": ErrorClass.BAD_INPUT}
        return Sample(
            index=index,
            variant=variant.name,
            case_id=case.id,
            repeat=repeat,
            request=client.first,
            **came,  # type: ignore[arg-type]
        )


def _of_error(error: AgentError) -> dict[str, object]:
    """An answer that does not fit the schema is an answer, and is scored; no answer is an error."""
    if error.reply:
        return {"replies": (error.reply,)}
    return {"error": str(error), "error_class": error.error_class}


def _of_answer(answer: Answer) -> dict[str, object]:
    if answer.error:
        # The endpoint failed in the middle: what the variant would have given is not known.
        return {"replies": answer.replies, "error": str(answer.error), "error_class": answer.error.error_class}
    rejected = (violation for one in answer.rejected for violation in one.violations)
    return {
        "replies": answer.replies,
        "source": "rules" if answer.because else "model",
        "because": answer.because,
        "recommendation": answer.recommendation if answer.because else None,
        "broken_rules": tuple(violation.rule for violation in (*rejected, *answer.violations)),
    }
