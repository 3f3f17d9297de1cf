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

from agents.asking import answerer
from agents.asking.answerer import ModelAnswer
from agents.asking.endpoint.client import ChatClient, make_client
from agents.asking.endpoint.reply import AgentError, ErrorClass, Reply
from agents.asking.question import StageQuestion, question_for
from agents.asking.requests import chat_body
from agents.asking.variant import PromptVariant
from common.console import BadInput
from evals.cache import AnswerCache, SampleClient, request_digest
from evals.plan import Plan
from evals.run_folder import RunFolder, SampleWriter
from evals.sample import Sample
from evals.suite import Suite
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
                line = _Line(name, order(folder.plan, name, done), client, cache, folder, questions, asked.gone)
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

    def __call__(self, index: int) -> tuple[PromptVariant, StageQuestion]:
        """The prompt with its repeat's seed, and the question it puts about its case. Raises BadInput."""
        number, variant, repeat = self.plan.place(index)
        case, prompt = self._cases[number], self._prompts(variant, repeat)
        label = self._cases.labels(number, self._policies[variant])[case.stage]
        return prompt, question_for(prompt, case.stage, case.spec, label)

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
    folder: RunFolder
    questions: _Questions
    gone: dict[str, str]
    answers: bool = False
    """Whether this model has answered at all."""
    failed_in_a_row: int = 0

    async def work(self, arrived: OnSample) -> None:
        """Ask until nothing is left, or the model is given up."""
        for index in self.indexes:
            sample = await self._sample(index)
            arrived(sample)
            self.answers = self.answers or sample.error is None
            fatal = _GONE if self.answers else _NEVER_WELL
            self.failed_in_a_row = self.failed_in_a_row + 1 if sample.error_class in fatal else 0
            if self.failed_in_a_row >= GONE_AFTER:
                self.gone.setdefault(self.model, sample.error or "")
            if self.model in self.gone:
                return

    async def _sample(self, index: int) -> Sample:
        plan = self.folder.plan
        number, which, repeat = plan.place(index)
        variant, request = plan.variants[which], ""
        client = SampleClient(self.client, variant.model, repeat, self.cache)
        try:
            prompt, question = self.questions(index)
            # Of the question alone: what is sent first may be a probe, and label ids are the endpoint's.
            request = request_digest(variant.model, chat_body(prompt, question, variant.model.model), repeat)
            came = _of_answer(await answerer.ask(client, variant.model.model, prompt, question))
        except AgentError as error:
            came = _of_error(error)
        except BadInput as error:
            came = {"error": str(error), "error_class": ErrorClass.BAD_INPUT}
        return Sample(
            index=index,
            variant=variant.name,
            case_id=self.folder.cases[number].id,
            repeat=repeat,
            request=request,
            **came,  # type: ignore[arg-type]
        )


def _of_answer(answer: ModelAnswer) -> dict[str, object]:
    return {"replies": _kept(answer.replies), "decision": answer.decision, "problem": answer.problem}


def _of_error(error: AgentError) -> dict[str, object]:
    """A sound answer without a text (a refusal, say) is an answer, and is scored; no answer is an error."""
    if error.error_class is ErrorClass.NO_CONTENT and error.reply:
        return {"replies": _kept((error.reply,)), "problem": str(error)}
    return {"error": str(error), "error_class": error.error_class}


def _kept(replies: tuple[Reply, ...]) -> tuple[Reply, ...]:
    return tuple(reply.model_copy(update={"logprobs": None}) for reply in replies)
