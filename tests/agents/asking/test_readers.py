"""Labels are read in whatever form an endpoint offers, and what cannot be read is never a guess."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from agents.asking.endpoint.client import make_client
from agents.asking.endpoint.reply import EndpointFailed, ErrorClass, Reply, TokenLogprob
from agents.asking.endpoint.transport import Route
from agents.asking.ways.chat_reader import ChatReader, label_body, read_labels
from agents.asking.ways.decisions_reader import DecisionsReader, decisions_body, read_decision_answer
from agents.asking.ways.label_question import LETTERS
from agents.asking.ways.label_reading import Reader, Unread
from agents.asking.ways.probabilities import LEAST_LOGPROB, LabelLogprob
from agents.asking.ways.readers import reader_for
from serving.endpoint import Endpoint
from serving.simulator import Fault
from serving.simulator_settings import DecisionsRoute
from tests.agents.asking.reader_contract import CONTRACT, READ, Check, checked, likely, question
from tests.agents.asking.scripted_client import ScriptedClient, listing, not_found
from tests.agents.asking.toy import reply_of

Start = Callable[..., str]
MODEL = "plumbline-simulator"
FAST = {"ttft_ms": 0, "itl_ms": 0}
FORMS: dict[str, dict[str, Any]] = {
    "ids": {},
    "text": {"label_ids": False},
    "decisions": {"decisions": DecisionsRoute.ON},
    "501": {"decisions": DecisionsRoute.REFUSE_501, "label_ids": False},
}


def endpoint(base_url: str) -> Endpoint:
    return Endpoint(base_url, MODEL, SecretStr("EMPTY"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: str(check.__name__))
def test_the_contract_holds_on_the_simulator(start_simulator: Start, form: str, check: Check) -> None:
    asyncio.run(checked(endpoint(start_simulator(**FAST, **FORMS[form])), check))


@pytest.mark.parametrize(("form", "kind", "by_id"), [
    ("ids", ChatReader, True),
    ("text", ChatReader, False),
    ("decisions", DecisionsReader, None),
    ("501", ChatReader, False),
])  # fmt: skip
def test_the_best_form_an_endpoint_offers_is_taken(
    start_simulator: Start, form: str, kind: type, by_id: bool | None
) -> None:
    async def run() -> Reader:
        there = endpoint(start_simulator(**FAST, **FORMS[form]))
        async with make_client(there) as client:
            return await reader_for(client, there.model, READ)

    reader = asyncio.run(run())
    assert type(reader) is kind
    if isinstance(reader, ChatReader):
        assert (reader.ids is not None) == by_id


def test_log_probs_that_are_not_given_are_no_reading(start_simulator: Start) -> None:
    async def run() -> None:
        there = endpoint(start_simulator(**FAST, fault=Fault.NO_LOGPROBS))
        async with make_client(there) as client:
            with pytest.raises(Unread, match=r"^no log-probs: the endpoint gives none"):
                await (await reader_for(client, there.model, READ)).read(question())

    asyncio.run(run())


# --- finding out the form --------------------------------------------------------------------------------

SPELLINGS = [f"{space}{letter}" for letter in LETTERS for space in ("", " ")]
IDS = {spelling: 100 + place for place, spelling in enumerate(SPELLINGS)}


def tokenizer(body: dict[str, Any]) -> Reply:
    return reply_of(json.dumps({"tokens": [IDS[body["prompt"]]]}))


def by_id(body: dict[str, Any], share: float = 0.01) -> Reply:
    """Exactly the tokens asked for, equally likely, and another one that was answered."""
    asked = [(f"token_id:{one}", math.log(share)) for one in body["logprob_token_ids"]]
    return reply_of("The", logprobs=(TokenLogprob("token_id:7", -0.1, 3, (("token_id:7", -0.1), *asked)),))


def engine(body: dict[str, Any], route: Route) -> Reply:
    if route == "decisions":
        raise not_found()
    return tokenizer(body) if route == "tokenize" else by_id(body)


def reader_of(client: ScriptedClient) -> Reader:
    return asyncio.run(reader_for(client, "m", READ))


def test_an_endpoint_is_asked_what_it_offers_once() -> None:
    client = ScriptedClient(engine)

    async def run() -> None:
        await asyncio.gather(*(reader_for(client, "m", READ) for _ in range(9)))

    asyncio.run(run())
    routes = [route for route, _ in client.asked]
    assert {route: routes.count(route) for route in routes} == {"decisions": 1, "tokenize": 52, "chat/completions": 1}


def test_a_server_that_lets_the_unknown_parameter_pass_is_read_by_text() -> None:
    def answer(body: dict[str, Any], route: Route) -> Reply:
        return listing({"A": 0.5, "B": 0.3}) if route == "chat/completions" else engine(body, route)

    reader = reader_of(ScriptedClient(answer))
    assert isinstance(reader, ChatReader)
    assert reader.ids is None


def test_letters_that_are_several_tokens_are_read_by_text() -> None:
    def answer(body: dict[str, Any], route: Route) -> Reply:
        return reply_of('{"tokens": [1, 2]}') if route == "tokenize" else engine(body, route)

    reader = reader_of(ScriptedClient(answer))
    assert isinstance(reader, ChatReader)
    assert reader.ids is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"tokens": "A"}', '{"tokens": [-1]}'])
def test_a_tokenizer_of_another_form_is_none(text: str) -> None:
    client = ScriptedClient(lambda body, route: reply_of(text) if route == "tokenize" else engine(body, route))
    assert reader_of(client) == ChatReader(client, "m", READ, None)


@pytest.mark.parametrize("text", ["", "{}", '{"answers": {}}', '{"answers": []}', '{"answers": [{"type": "yes_no"}]}'])
def test_a_decisions_route_of_another_form_is_none(text: str) -> None:
    client = ScriptedClient(lambda body, route: reply_of(text) if route == "decisions" else engine(body, route))
    assert isinstance(reader_of(client), ChatReader)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, ErrorClass.REFUSED),
        (429, ErrorClass.RATE_LIMITED),
        (503, ErrorClass.SERVER_ERROR),
        (None, ErrorClass.TIMEOUT),
    ],
)
def test_an_endpoint_in_trouble_is_asked_again_the_next_time(status: int | None, kind: ErrorClass) -> None:
    trouble = [EndpointFailed("trouble", kind, status=status)]

    def answer(body: dict[str, Any], route: Route) -> Reply:
        if trouble:
            raise trouble.pop()
        return engine(body, route)

    client = ScriptedClient(answer)
    with pytest.raises(EndpointFailed, match="trouble"):
        reader_of(client)
    assert isinstance(reader_of(client), ChatReader)


# --- chat completions ------------------------------------------------------------------------------------


def test_one_form_is_asked_for_and_never_both() -> None:
    by_text = label_body(question(), "m", READ)
    assert (by_text["max_tokens"], by_text["logprobs"], by_text["top_logprobs"]) == (1, True, 20)
    assert "logprob_token_ids" not in by_text
    ids = {letter: (IDS[letter], IDS[f" {letter}"]) for letter in "ABC"}
    body = label_body(question(), "m", READ, ids)
    assert body["logprob_token_ids"] == [100, 101, 102, 103, 104, 105]
    assert body["return_tokens_as_token_ids"] is True
    assert "top_logprobs" not in body


def test_both_spellings_of_a_letter_are_its_probability() -> None:
    reading = read_labels(question(), listing({"A": 0.3, " A": 0.1, "B": 0.2, " C": 0.2}), None)
    assert likely(reading) == pytest.approx({"batch": 0.5, "stream": 0.25, "push": 0.25})
    assert reading.mass == pytest.approx(0.8)


def test_the_mass_is_that_of_the_options_offered() -> None:
    reading = read_labels(question("stream", "push"), listing({"A": 0.6, "B": 0.1, "C": 0.1}), None)
    assert reading.mass == pytest.approx(0.2)


def test_a_letter_that_is_not_listed_is_known_to_be_unlikely_only() -> None:
    reading = read_labels(question(), listing({"A": 0.6, "B": 0.2}), None)
    assert [one.censored for one in reading.logprobs.values()] == [False, False, True]
    assert reading.logprobs["push"].value == pytest.approx(math.log(0.2 / 1000))
    assert reading.mass == pytest.approx(0.8)


@pytest.mark.parametrize("listed", [(), (("A", -0.1),), (("A", -0.1), ("!", -9999.0))])
def test_a_list_too_short_to_be_one_is_no_certainty(listed: tuple[tuple[str, float], ...]) -> None:
    reply = reply_of("A", logprobs=(TokenLogprob("A", -0.1, 1, listed),))
    with pytest.raises(Unread, match=f"^no log-probs: the endpoint lists {len(listed)} of 20") as refused:
        read_labels(question(), reply, None)
    assert refused.value.reply == reply


def test_by_id_every_token_asked_for_has_to_be_there() -> None:
    ids = {letter: (IDS[letter],) for letter in "ABC"}
    whole = by_id(label_body(question(), "m", READ, ids))
    reading = read_labels(question(), whole, ids)
    assert reading.mass == pytest.approx(0.03)
    assert not any(one.censored for one in reading.logprobs.values())
    first = (whole.logprobs or ())[0]
    short = whole.model_copy(update={"logprobs": (first._replace(top=first.top[:-1]),)})
    with pytest.raises(Unread, match="leaves out tokens that were asked for by id"):
        read_labels(question(), short, ids)


# --- POST /v1/decisions ----------------------------------------------------------------------------------


def decided(*likely: tuple[str, float], **changes: Any) -> Reply:
    listed = [{"value": value, "probability": share} for value, share in likely]
    answer = {"type": "choice", "name": "choice", "choice": "batch", "confidence": None, "probabilities": listed}
    return reply_of(json.dumps({"answers": [{**answer, **changes}]}))


ALL = (("batch", 0.5), ("stream", 0.3), ("push", 0.2))


def test_the_decisions_route_is_asked_about_what_is_offered_alone() -> None:
    body = decisions_body(question("batch", "push"), "m")
    assert body["input"] == question().state
    [asked] = body["questions"]
    assert [one["value"] for one in asked["choices"]] == ["batch", "push"]
    assert set(body) == {"model", "input", "questions"}
    with_reason = replace(question(), reason=("Say why.", "Seconds matter."))
    assert decisions_body(with_reason, "m")["input"].endswith("</facts>\nSeconds matter.")


def test_the_label_mass_is_the_confidence_by_the_highest_probability() -> None:
    reading = read_decision_answer(question(), decided(*ALL, confidence=0.45))
    assert reading.mass == pytest.approx(0.9)
    assert likely(reading) == pytest.approx(dict(ALL))
    assert math.exp(reading.logprobs["batch"].value) == pytest.approx(0.45)


@pytest.mark.parametrize("confidence", [None, 0.9, 0])
def test_a_confidence_that_cannot_be_mass_times_probability_tells_no_mass(confidence: float | None) -> None:
    reading = read_decision_answer(question(), decided(*ALL, confidence=confidence))
    assert reading.mass is None
    assert likely(reading) == pytest.approx(dict(ALL))


def test_a_probability_of_nothing_is_a_bound() -> None:
    reading = read_decision_answer(question(), decided(("batch", 1), ("stream", 0), ("push", 0)))
    assert reading.logprobs["push"] == LabelLogprob(LEAST_LOGPROB, censored=True)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (decided(type="refusal"), "the model refuses to answer"),
        (decided(*ALL[:2]), "answers another question"),
        (decided(*ALL, ("pigeon", 0.1)), "answers another question"),
        (decided(("batch", 0), ("stream", 0), ("push", 0)), "answers another question"),
        (decided(("batch", 2), ("stream", 0), ("push", 0)), "answers in another form"),
        (decided(*ALL, type="score"), "answers another question"),
        (reply_of('{"answers": {"choice": 1}}'), "answers in another form"),
        (reply_of("words"), "answers in another form"),
    ],
)
def test_any_other_answer_of_the_route_is_no_reading(reply: Reply, told: str) -> None:
    with pytest.raises(Unread, match=told):
        read_decision_answer(question(), reply)


def test_of_one_option_nothing_has_to_be_asked() -> None:
    client = ScriptedClient(engine)
    reading = asyncio.run(DecisionsReader(client, "m").read(question("push")))
    assert (reading.logprobs, reading.reply, client.asked) == ({"push": LabelLogprob(0.0)}, None, [])
