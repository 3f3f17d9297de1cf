"""The simulator's log-probabilities: OpenAI's shape, probabilities that add up, labels read by letter and by id."""

from __future__ import annotations

import asyncio
import json
import math
import string
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import aiohttp
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.simulator import Fault, SimulatorSettings
from serving.simulator_answer import reply_to
from serving.simulator_logprobs import label_reading, offered_labels, token_logprobs
from serving.simulator_request import ChatRequest
from serving.simulator_tokens import TokenizeRequest, token_id, token_text, tokenized

Start = Callable[..., str]

MODEL = "plumbline-simulator"
FAST = {"ttft_ms": 0, "itl_ms": 0}
MENU = "Which mode?\nA: batch\nB: streaming\nC: cdc\nAnswer with one letter."
SCHEMA = {
    "type": "object",
    "properties": {
        "mode": {"enum": ["batch", "streaming", "cdc"]},
        "actions": {"type": "array", "items": {"enum": ["add_queue", "scale_out"]}, "minItems": 1, "maxItems": 2},
        "only": {"enum": ["forced"]},
        "note": {"type": "string", "maxLength": 40},
    },
    "required": ["mode", "actions", "only", "note"],
    "additionalProperties": False,
}
BY_SCHEMA = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}


def asked(content: str = MENU, **more: Any) -> ChatRequest:
    """A request for one token with log-probabilities, with `more` over it."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 1, "logprobs": True}
    return ChatRequest.model_validate_json(json.dumps({**body, **more}))


def content_of(request: ChatRequest, **settings: Any) -> list[dict[str, Any]]:
    """What `logprobs.content` would hold."""
    reply = reply_to(request, SimulatorSettings(**settings), Fault.NONE, None)
    assert reply.logprobs is not None
    assert len(reply.logprobs) == len(reply.pieces)
    return reply.logprobs


def listed(entry: dict[str, Any]) -> dict[str, float]:
    """`top_logprobs` as token -> log-prob."""
    return {other["token"]: other["logprob"] for other in entry["top_logprobs"]}


def _says(text: str, _request: ChatRequest) -> str:
    return text


def post(url: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Status and JSON of one request."""

    async def run() -> tuple[int, Any]:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session,
            session.post(url, json=body) as answer,
        ):
            return answer.status, await answer.json(content_type=None)

    return asyncio.run(run())


# --- label readings --------------------------------------------------------------------------------------


def test_a_label_is_a_capital_letter_that_begins_a_line_with_a_colon_and_a_space() -> None:
    text = "A: one\n B: indented\nC:no space\nDE: two letters\nd: small\nZ: last\nA: again"
    assert offered_labels(asked(text)) == ["A", "Z"]


def test_labels_are_found_in_all_messages_and_text_parts() -> None:
    messages = [
        {"role": "system", "content": "B: first"},
        {"role": "user", "content": [{"type": "text", "text": "A: second"}, {"type": "text", "text": "C: third"}]},
    ]
    assert offered_labels(asked(messages=messages)) == ["B", "A", "C"]


@given(labels=st.sets(st.sampled_from(string.ascii_uppercase), min_size=1), seed=st.integers(0, 10_000))
def test_offered_labels_share_about_nine_tenths_and_the_likeliest_is_answered(labels: set[str], seed: int) -> None:
    request = asked("\n".join(f"{label}: an option" for label in sorted(labels)), top_logprobs=20)
    reading = label_reading(request, seed)
    assert reading is not None
    by_label = {label: reading.shares[label] for label in labels}
    assert 0.88 <= math.fsum(by_label.values()) <= 0.92
    assert math.fsum(reading.shares.values()) < 1
    assert reading.label == max(by_label, key=by_label.__getitem__)
    if len(labels) > 1:
        assert min(by_label.values()) < max(by_label.values())


def test_a_reading_is_one_letter_whose_log_prob_stands_in_its_own_list() -> None:
    (entry,) = content_of(asked(top_logprobs=20))
    top = listed(entry)
    assert entry["token"] in {"A", "B", "C"}
    assert entry["bytes"] == [ord(entry["token"])]
    assert len(top) == 20
    assert list(top.values()) == sorted(top.values(), reverse=True)
    assert top[entry["token"]] == entry["logprob"]
    assert {"A", "B", "C", "The", "I"} <= top.keys()
    assert sum(math.exp(top[label]) for label in "ABC") == pytest.approx(0.9, abs=0.021)


def test_fewer_are_listed_when_fewer_are_asked_for() -> None:
    for count in (0, 1, 2):
        (entry,) = content_of(asked(top_logprobs=count))
        assert len(entry["top_logprobs"]) == count
    assert content_of(asked())[0]["top_logprobs"] == []


def test_a_reading_hangs_on_seed_and_messages_alone() -> None:
    first = content_of(asked(top_logprobs=5))
    assert content_of(asked(top_logprobs=5, seed=9, temperature=1.5)) == first
    assert content_of(asked(top_logprobs=5), seed=1) != first
    assert content_of(asked("Another case.\n" + MENU, top_logprobs=5)) != first


@pytest.mark.parametrize(
    "other", [{"max_tokens": 2}, {"max_tokens": None}, BY_SCHEMA, {"messages": [{"role": "user", "content": "hi"}]}]
)
def test_any_other_request_is_no_reading(other: dict[str, Any]) -> None:
    assert label_reading(asked(**other), 0) is None
    assert label_reading(asked(), 0) is not None


def test_a_reading_ends_by_its_limit_as_an_engine_says_it(start_simulator: Start) -> None:
    base_url = start_simulator(**FAST)
    _, answer = post(f"{base_url}/chat/completions", asked().model_dump())
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == choice["logprobs"]["content"][0]["token"]
    assert answer["usage"]["completion_tokens"] == 1


def test_an_answerers_label_is_the_likeliest_and_nothing_else_changes() -> None:
    plain = content_of(asked(top_logprobs=20))[0]
    for label in "ABC":
        reply = reply_to(asked(top_logprobs=20), SimulatorSettings(), Fault.NONE, partial(_says, label))
        assert reply.pieces == [label]
        assert reply.logprobs is not None
        top = listed(reply.logprobs[0])
        assert max(top, key=top.__getitem__) == label
        assert sorted(top.values()) == sorted(listed(plain).values())


def test_an_answerers_word_that_is_no_label_is_unlikely() -> None:
    reply = reply_to(asked(top_logprobs=3), SimulatorSettings(), Fault.NONE, lambda _: "Perhaps")
    assert reply.logprobs is not None
    assert reply.logprobs[0]["logprob"] < -15


def test_without_labels_the_made_up_word_has_a_seeded_list() -> None:
    request = asked("no options here", top_logprobs=4)
    (entry,) = content_of(request, output_tokens=4)
    assert len(entry["top_logprobs"]) == 4
    assert -1.5 < entry["logprob"] < 0
    assert listed(entry)[entry["token"]] == entry["logprob"]
    assert sum(map(math.exp, listed(entry).values())) <= 1
    assert content_of(request, output_tokens=4) == [entry]


# --- by token id -----------------------------------------------------------------------------------------


def test_exactly_the_ids_asked_for_are_listed_and_the_token_answered() -> None:
    ids = [token_id(label) for label in "BDZ"]
    plain = listed(content_of(asked(top_logprobs=20))[0])
    (entry,) = content_of(asked(logprob_token_ids=ids, top_logprobs=2))
    top = listed(entry)
    assert set(top) == {entry["token"], "B", "D", "Z"}
    assert top["B"] == plain["B"]
    assert max(top["D"], top["Z"]) < -15  # nobody offered them


def test_an_id_asked_for_twice_or_answered_is_listed_once() -> None:
    ids = [token_id(label) for label in "ABCABC"]
    (entry,) = content_of(asked(logprob_token_ids=ids))
    assert sorted(other["token"] for other in entry["top_logprobs"]) == ["A", "B", "C"]


def test_tokens_are_written_as_ids_on_request_and_only_the_answered_one_keeps_its_bytes() -> None:
    ids = [token_id("A"), token_id("B"), token_id("C"), 31_337]
    (entry,) = content_of(asked(logprob_token_ids=ids, return_tokens_as_token_ids=True))
    named = {other["token"]: bytes(other["bytes"]).decode() for other in entry["top_logprobs"]}
    assert named == {f"token_id:{token}": f"token_id:{token}" for token in ids}
    assert entry["token"] == f"token_id:{entry['bytes'][0]}"
    as_text = content_of(asked(logprob_token_ids=ids))[0]
    assert [other["logprob"] for other in as_text["top_logprobs"]] == [
        other["logprob"] for other in entry["top_logprobs"]
    ]


def test_a_letter_is_one_token_and_another_one_after_a_space() -> None:
    ids = [tokenized(TokenizeRequest(prompt=text))["tokens"] for text in (*string.ascii_uppercase, " A", " Z")]
    assert all(isinstance(one, list) and len(one) == 1 for one in ids)
    assert len({tuple(one) for one in ids if isinstance(one, list)}) == 28
    assert ids[0] == [65]
    assert token_text(token_id(" A")) == " A"


@given(st.lists(st.text(st.characters(codec="ascii", exclude_categories=["Z", "C"]), min_size=1), max_size=6))
def test_a_text_has_a_token_a_word_the_same_each_time(words: list[str]) -> None:
    told = tokenized(TokenizeRequest(prompt=" ".join(words)))
    assert told == tokenized(TokenizeRequest(prompt=" ".join(words)))
    assert told["count"] == len(words)
    assert isinstance(told["tokens"], list)
    assert len(told["tokens"]) == len(words)


def test_tokenize_stands_at_the_root_and_labels_can_be_read_with_what_it_tells(start_simulator: Start) -> None:
    base_url = start_simulator(**FAST)
    url = base_url.replace("/v1", "/tokenize")
    ids = []
    for label in "ABC":
        status, told = post(url, {"model": MODEL, "prompt": label, "add_special_tokens": False})
        assert (status, told["count"], told["max_model_len"]) == (200, 1, 4096)
        ids += told["tokens"]
    body = {**asked().model_dump(), "logprob_token_ids": ids, "return_tokens_as_token_ids": True}
    _, answer = post(f"{base_url}/chat/completions", body)
    top = listed(answer["choices"][0]["logprobs"]["content"][0])
    assert set(top) == {f"token_id:{token}" for token in ids}
    assert sum(map(math.exp, top.values())) == pytest.approx(0.9, abs=0.021)


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"model": "gpt-9", "prompt": "A"}, 404, "gpt-9"),
        ({"model": MODEL}, 400, "prompt"),
        ({"prompt": 3}, 400, "prompt"),
    ],
)
def test_tokenize_refuses_what_it_cannot_do(start_simulator: Start, body: Any, status: int, named: str) -> None:
    found, told = post(start_simulator(**FAST).replace("/v1", "/tokenize"), body)
    assert found == status
    assert named in told["error"]["message"]


def test_a_server_without_label_ids_has_no_tokenize_and_says_nothing_of_the_field(start_simulator: Start) -> None:
    base_url = start_simulator(**FAST, label_ids=False)

    async def tokenize() -> int:
        async with (
            aiohttp.ClientSession() as session,
            session.post(base_url.replace("/v1", "/tokenize"), json={"prompt": "A"}) as answer,
        ):
            return answer.status

    assert asyncio.run(tokenize()) == 404
    body = {**asked(top_logprobs=2).model_dump(), "logprob_token_ids": [90], "return_tokens_as_token_ids": True}
    status, answer = post(f"{base_url}/chat/completions", body)
    assert status == 200
    (entry,) = answer["choices"][0]["logprobs"]["content"]
    assert len(entry["top_logprobs"]) == 2
    assert set(listed(entry)) <= {"A", "B", "C"}


# --- answers to a schema ---------------------------------------------------------------------------------


@pytest.mark.parametrize("output_tokens", [3, 20, 64, 400])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_only_pieces_of_an_enum_with_a_choice_in_it_are_less_than_certain(output_tokens: int, seed: int) -> None:
    request = asked("decide", max_tokens=None, top_logprobs=3, **BY_SCHEMA)
    entries = content_of(request, output_tokens=output_tokens, seed=seed)
    text = "".join(entry["token"] for entry in entries)
    answer = json.loads(text)
    end = 0
    chosen = {place for value in [answer["mode"], *answer["actions"]] for place in places(text, f'{value}"')}
    for entry in entries:
        begin, end = end, end + len(entry["token"])
        if chosen & set(range(begin, end)):
            assert -1.5 < entry["logprob"] < 0
        else:
            assert entry["logprob"] == 0
            assert [other["logprob"] for other in entry["top_logprobs"]] == [0, -9999, -9999]


def places(text: str, part: str) -> Sequence[int]:
    """Where in a text every occurrence of a part stands."""
    starts = [at for at in range(len(text)) if text.startswith(f'"{part}', at)]
    return [place for at in starts for place in range(at + 1, at + 1 + len(part))]


def test_a_name_that_reads_like_an_option_is_still_forced() -> None:
    schema = {"properties": {"batch": {"enum": ["batch", "cdc"]}}, "required": ["batch"], "type": "object"}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    entries = token_logprobs(['{"batch":"', "batch", '"}'], asked("x", response_format=form), None, 0)
    assert entries is not None
    assert [entry["logprob"] < 0 for entry in entries] == [False, True, True]


@given(text=st.text(min_size=1), seed=st.integers(0, 100))
def test_words_have_probabilities_that_do_not_exceed_one(text: str, seed: int) -> None:
    entries = token_logprobs(list(text), asked("x", max_tokens=None, top_logprobs=20), None, seed)
    assert entries is not None
    for entry in entries:
        assert -1.5 < entry["logprob"] < 0
        assert math.fsum(map(math.exp, listed(entry).values())) < 1
        assert len(entry["top_logprobs"]) == 20


# --- on the wire -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_more", [BY_SCHEMA, {"max_tokens": 1}, {}])
@pytest.mark.parametrize("tokens_per_chunk", [1, 5])
def test_the_sdk_reads_the_same_log_probs_streamed_and_whole(
    start_simulator: Start, request_more: dict[str, Any], tokens_per_chunk: int
) -> None:
    base_url = start_simulator(**FAST, output_tokens=16, tokens_per_chunk=tokens_per_chunk)
    request: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": MENU}], **request_more}

    async def work() -> None:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="EMPTY", max_retries=0) as client:
            whole = await client.chat.completions.create(**request, logprobs=True, top_logprobs=3)
            chunks = await client.chat.completions.create(**request, logprobs=True, top_logprobs=3, stream=True)
            streamed = [
                entry async for chunk in chunks for choice in chunk.choices if choice.logprobs
                for entry in choice.logprobs.content or ()
            ]  # fmt: skip
        choice = whole.choices[0]
        assert choice.logprobs is not None
        assert choice.logprobs.content == streamed
        assert "".join(entry.token for entry in streamed) == choice.message.content
        assert all(bytes(entry.bytes or ()).decode() == entry.token for entry in streamed)
        assert all(len(entry.top_logprobs) == 3 for entry in streamed)

    asyncio.run(work())


@pytest.mark.parametrize("stream", [False, True])
def test_without_logprobs_there_are_none(start_simulator: Start, stream: bool) -> None:
    base_url = start_simulator(**FAST, output_tokens=3)

    async def work() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="EMPTY", max_retries=0) as client:
            request: Any = {"model": MODEL, "messages": [{"role": "user", "content": MENU}], "stream": stream}
            got = await client.chat.completions.create(**request)
            chunks = [chunk async for chunk in got] if stream else [got]
        return [choice.logprobs for chunk in chunks for choice in chunk.choices]

    assert set(asyncio.run(work())) == {None}


@pytest.mark.parametrize(
    ("wrong", "param", "said"),
    [
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs", "0"),
        ({"top_logprobs": 2}, "top_logprobs", "`logprobs` must be set to true"),
        ({"logprob_token_ids": [65]}, "logprob_token_ids", "`logprobs` must be set to true"),
        ({"logprobs": True, "logprob_token_ids": list(range(129))}, "logprob_token_ids", "128"),
    ],
)
def test_what_cannot_be_listed_is_refused_by_field(
    start_simulator: Start, wrong: dict[str, Any], param: str, said: str
) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **wrong}
    status, answer = post(f"{start_simulator(**FAST)}/chat/completions", body)
    assert (status, answer["error"]["param"]) == (400, param)
    assert said in answer["error"]["message"]
