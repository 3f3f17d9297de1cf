"""What every reader of labels does: run on the simulator in each of its forms, and on the real engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from agents.asking.answerer import ask
from agents.asking.endpoint.client import ChatClient, make_client
from agents.asking.endpoint.reply import EndpointFailed
from agents.asking.ways.chat_reader import ChatReader
from agents.asking.ways.label_question import LabelQuestion, Shown
from agents.asking.ways.label_reading import LabelReading
from agents.asking.ways.probabilities import normalised
from agents.asking.ways.readers import reader_for
from serving.endpoint import Endpoint
from tests.agents.asking.toy import asked, registered, spec_of, variant_of

READ = variant_of("read")
JITTER = 0.05
"""How far two readings of one question may be apart: an engine's numbers depend on what else is in the batch."""

Check = Callable[[ChatClient, str], Coroutine[Any, Any, None]]


def question(*offered: str) -> LabelQuestion:
    """A question with three options, of which some count."""
    options = (
        Shown("batch", "hours are early enough"),
        Shown("stream", "seconds matter"),
        Shown("push", "it calls us"),
    )
    return LabelQuestion(
        part="choice",
        order=0,
        asks="How is the data to be brought in?",
        introduction="You are a data engineer.",
        options=options,
        offered=frozenset(offered or ("batch", "stream", "push")),
        state='<facts>\n{"latency_need": "1 s"}\n</facts>',
    )


def likely(reading: LabelReading, *names: str) -> dict[str, float]:
    """Probabilities of these options among themselves."""
    return normalised({name: reading.logprobs[name].value for name in names or reading.logprobs})


async def each_option_has_a_probability(client: ChatClient, model: str) -> None:
    reading = await (await reader_for(client, model, READ)).read(question())
    assert set(reading.logprobs) == {"batch", "stream", "push"}
    assert all(one.value <= 0 for one in reading.logprobs.values())
    assert any(not one.censored for one in reading.logprobs.values())
    assert reading.mass is not None
    assert 0 < reading.mass <= 1
    assert reading.reply is not None
    assert reading.reply.prompt_tokens


async def the_same_question_reads_the_same(client: ChatClient, model: str) -> None:
    reader = await reader_for(client, model, READ)
    readings = await asyncio.gather(*(reader.read(question()) for _ in range(4)))
    for reading in readings[1:]:
        assert likely(reading) == pytest.approx(likely(readings[0]), abs=JITTER)


async def what_is_not_offered_is_left_out(client: ChatClient, model: str) -> None:
    reading = await (await reader_for(client, model, READ)).read(question("batch", "push"))
    assert {"batch", "push"} <= set(reading.logprobs)
    assert sum(likely(reading, "batch", "push").values()) == pytest.approx(1)


async def both_chat_forms_read_the_same(client: ChatClient, model: str) -> None:
    reader = await reader_for(client, model, READ)
    if not isinstance(reader, ChatReader) or reader.ids is None:
        return
    by_id = await reader.read(question())
    # One after the other: in one step of vLLM the two forms spoil each other.
    by_text = await ChatReader(client, model, READ, None).read(question())
    assert likely(by_text) == pytest.approx(likely(by_id), abs=JITTER)


async def a_stage_is_decided_with_probabilities(client: ChatClient, model: str) -> None:
    for variant in (READ, variant_of("read", orders=2, prior=True), variant_of("reason", then="read")):
        with registered():
            asking = asked(variant, spec_of())
            answer = await ask(client, model, variant, asking)
        assert answer.problem is None
        decision = answer.decision
        assert decision is not None
        assert decision.reading is not None
        assert asking.permitted.refuses(decision.choice.id, decision.ids) is None
        assert len(decision.actions) == 2
        assert all(0 < (one.probability or 0) <= 1 for one in (decision.choice, *decision.actions))
        assert len(answer.replies) == 2 * variant.orders + (variant.ask == "reason")


async def an_unknown_model_is_told(client: ChatClient, _: str) -> None:
    with pytest.raises(EndpointFailed, match="no-such-model"):
        await (await reader_for(client, "no-such-model", READ)).read(question())


CONTRACT: tuple[Check, ...] = (
    each_option_has_a_probability,
    the_same_question_reads_the_same,
    what_is_not_offered_is_left_out,
    both_chat_forms_read_the_same,
    a_stage_is_decided_with_probabilities,
    an_unknown_model_is_told,
)


async def checked(endpoint: Endpoint, check: Check) -> None:
    """One check with a client of its own."""
    async with make_client(endpoint) as client:
        await check(client, endpoint.model)


def check_reader_contract(endpoint: Endpoint) -> None:
    """All of it, each check on an event loop of its own."""
    for check in CONTRACT:
        asyncio.run(checked(endpoint, check))
