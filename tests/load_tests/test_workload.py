"""What a load test sends: the same bytes for the same seed, and synthetic prompts of exactly the length asked for."""

from __future__ import annotations

import json
import re
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from agents.specialists.registry import stages
from common.console import BadInput, CannotJudge
from load_tests import synthetic as synthetic_module
from load_tests.profiles import ROOT, LoadProfile, load_profile
from load_tests.synthetic import single_tokens
from load_tests.workload import LoadPlan, content_digest, plan_load, warm_up_requests
from serving.endpoint import Endpoint, connect

SIMULATED = Endpoint("http://127.0.0.1:9/v1", "m", SecretStr("k"), simulated=True)
KEY = "sk-secret-7"
WORDS = synthetic_module._WORDS[::8]
TWO = {WORDS[place] for place in (0, 9, 10, 40)}
"""Words that the tokenizer below makes two tokens of; the very first, which begins every prompt, is among them."""


@pytest.fixture(autouse=True)
def _fewer_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic_module, "_WORDS", WORDS)


def profile(workload: dict[str, Any], **changes: Any) -> LoadProfile:
    values = {"name": "t", "arrivals": {"kind": "poisson", "rate_per_s": 5.0}, "duration_s": 5, "workload": workload}
    return LoadProfile.model_validate({**values, **changes})


def agents(**workload: Any) -> dict[str, Any]:
    return {"kind": "agents", "cases": {"count": 8}, **workload}


def synthetic(prompt_tokens: int = 50, shared_prefix: float = 0.0, output_tokens: int = 8) -> dict[str, Any]:
    return {
        "kind": "synthetic",
        "prompt_tokens": prompt_tokens,
        "shared_prefix": shared_prefix,
        "output_tokens": output_tokens,
    }


def bodies(plan: LoadPlan, count: int = 30) -> list[bytes]:
    return [plan.request_at(index).body for index in range(count)]


def content(body: bytes) -> str:
    text: str = json.loads(body)["messages"][-1]["content"]
    return text


# --- the agents' requests --------------------------------------------------------------------------------


def test_same_seed_same_bytes_and_another_seed_others() -> None:
    one, two, other = (plan_load(profile(agents(), seed=seed), SIMULATED) for seed in (3, 3, 4))
    assert bodies(one) == bodies(two)
    assert bodies(one) != bodies(other)


def test_each_request_comes_once_before_any_comes_again_and_in_another_order() -> None:
    plan = plan_load(profile(agents()), SIMULATED)
    order = [plan.request_at(index).pipeline_id for index in range(24)]
    rounds = [order[start : start + 8] for start in range(0, 24, 8)]
    assert all(len(set(one)) == 8 for one in rounds)
    assert rounds[0] != rounds[1]


def test_request_at_a_place_does_not_depend_on_what_was_asked_for_before() -> None:
    """A worker asks for its share alone."""
    one, two = (plan_load(profile(agents()), SIMULATED) for _ in range(2))
    assert one.request_at(29) == two.request_at(29)
    assert [two.request_at(index) for index in range(30)] == [one.request_at(index) for index in range(30)]


def test_content_is_of_what_the_profile_only_names(tmp_path: Path) -> None:
    pipelines = tmp_path / "pipelines.yaml"
    pipelines.write_text((ROOT / "examples" / "pipelines.yaml").read_text())
    asked = profile({"kind": "agents", "pipelines": str(pipelines)})
    before = content_digest(asked, SIMULATED)
    assert before == content_digest(asked, SIMULATED)
    pipelines.write_text(pipelines.read_text().replace("10GB/day", "20GB/day"))
    assert content_digest(asked, SIMULATED) != before
    assert content_digest(profile(synthetic()), SIMULATED) == ""


@pytest.mark.parametrize("workload", [agents(), synthetic()], ids=["agents", "synthetic"])
def test_share_that_is_hung_up_on_is_drawn_by_seed_and_place(workload: dict[str, Any]) -> None:
    changes: dict[str, Any] = {"cancel_after_chunks": 3, "cancel_share": 0.25}
    one, two, other = (plan_load(profile(workload, seed=seed, **changes), SIMULATED) for seed in (3, 3, 4))
    drawn = [plan.request_at(index).cancel_after_chunks for plan in (one, two, other) for index in range(400)]
    assert drawn[:400] == drawn[400:800] != drawn[800:]
    assert set(drawn) == {3, None}
    assert 70 < drawn[:400].count(3) < 130  # 100 expected, 8.7 one standard deviation
    closed = [one.request_for(user, turn).cancel_after_chunks for user in range(20) for turn in range(20)]
    assert 70 < closed.count(3) < 130
    every = plan_load(profile(workload, cancel_after_chunks=3), SIMULATED)
    assert {every.request_at(index).cancel_after_chunks for index in range(20)} == {3}


def test_each_request_brings_its_own_schema_and_with_score_its_case() -> None:
    plain, scored = (plan_load(profile(agents(score=score)), SIMULATED).requests for score in (False, True))
    assert {request.stage for request in plain} == set(stages())
    assert all(request.case is None for request in plain)
    assert all(request.case and request.case.stage == request.stage for request in scored)
    held = [json.loads(request.body)["response_format"]["json_schema"]["schema"] for request in plain]
    assert [json.loads(request.schema or b"") for request in plain] == held
    # One object for equal schemas: a hundred thousand cases share a few.
    assert len({id(request.schema) for request in plain}) == len({request.schema for request in plain}) > 3


def test_prompt_that_reads_sends_each_question_as_a_request_of_its_own() -> None:
    plan = plan_load(profile(agents(prompt="read"), max_tokens=7), SIMULATED)
    asked = [json.loads(request.body) for request in plan.requests]
    assert len(asked) > 8
    assert {(body["max_tokens"], body["logprobs"], body["stream"]) for body in asked} == {(1, True, True)}
    assert {request.schema for request in plan.requests} == {None}


def test_decision_of_several_requests_cannot_be_scored() -> None:
    with pytest.raises(BadInput, match="score: prompt read reads its decision off several requests"):
        plan_load(profile(agents(prompt="read", score=True)), SIMULATED)


def test_warm_up_goes_through_the_stages_in_turn() -> None:
    plan = plan_load(profile(agents(cases={"count": 60}, prompt="read")), SIMULATED)
    asked = list(islice(warm_up_requests(plan), len(plan.requests) + 1))
    assert {request.stage for request in asked[:3]} == {request.stage for request in asked[3:6]} == set(stages())
    assert (len({request.body for request in asked}), asked[-1]) == (len(plan.requests), asked[0])
    assert plan.profile.warmup_requests == 3


def test_answers_are_not_validated_where_that_is_not_wanted() -> None:
    plan = plan_load(profile(agents(validate_schema=False)), SIMULATED)
    assert all(request.schema is None for request in plan.requests)


def test_cases_have_the_profiles_seed_unless_they_have_their_own() -> None:
    def ids(seed: int, own: int | None) -> list[bytes]:
        plan = plan_load(profile(agents(cases={"count": 4, "seed": own}), seed=seed), SIMULATED)
        return [request.body for request in plan.requests]

    assert ids(1, None) == ids(9, 1)
    assert ids(1, None) != ids(2, None)
    assert ids(1, 5) == ids(2, 5)


def test_bodies_ask_for_a_stream_with_usage_and_the_profiles_limit() -> None:
    body = json.loads(plan_load(profile(agents(), max_tokens=7), SIMULATED).requests[0].body)
    assert (body["stream"], body["stream_options"], body["max_tokens"]) == (True, {"include_usage": True}, 7)


def test_pipelines_of_a_file_give_every_stage_of_each() -> None:
    plan = plan_load(load_profile(ROOT / "examples" / "load.yaml"), SIMULATED)
    assert Counter(Counter(request.pipeline_id for request in plan.requests).values()) == {3: 2}
    assert (plan.prompt_name, plan.request_for(1, 2)) == ("write", plan.requests[3])


@pytest.mark.parametrize(
    ("changes", "told"), [({"prompt": "nosuch"}, "prompt 'nosuch'"), ({"policy": "nosuch"}, "policy 'nosuch'")]
)
def test_unknown_presets_are_refused(changes: dict[str, str], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        plan_load(profile(agents(**changes)), SIMULATED)


def trace(tmp_path: Path, text: str) -> dict[str, Any]:
    (tmp_path / "trace.csv").write_text(text)
    return {"kind": "trace", "file": str(tmp_path / "trace.csv")}


def test_trace_says_which_request_is_sent(tmp_path: Path) -> None:
    arrivals = trace(tmp_path, "at_s,request\n0,5\n1,0\n2,5\n")
    plan = plan_load(profile(agents(), arrivals=arrivals), SIMULATED)
    assert [plan.request_at(index) for index in range(3)] == [plan.requests[place] for place in (5, 0, 5)]
    made = plan_load(profile(synthetic(), arrivals=arrivals), SIMULATED)
    assert made.request_at(0) == made.request_at(2) != made.request_at(1)


def test_trace_that_names_a_request_too_many_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="request: found 8; the workload has 8, numbered from 0"):
        plan_load(profile(agents(), arrivals=trace(tmp_path, "at_s,request\n0,8\n")), SIMULATED)


def test_trace_without_requests_goes_by_the_seed(tmp_path: Path) -> None:
    plan = plan_load(profile(agents(), arrivals=trace(tmp_path, "at_s\n0\n1\n")), SIMULATED)
    assert bodies(plan) == bodies(plan_load(profile(agents()), SIMULATED))


# --- synthetic prompts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "share"), [(1, 0.0), (1, 1.0), (50, 0.0), (50, 0.5), (50, 1.0), (1000, 0.9)])
def test_simulator_gets_prompts_of_the_length_and_shared_share_asked_for(length: int, share: float) -> None:
    plan = plan_load(profile(synthetic(length, share)), SIMULATED)
    prompts = [content(body).split(" ") for body in bodies(plan)]
    assert {len(words) for words in prompts} == {length}
    shared = round(share * length)
    assert len({tuple(words[:shared]) for words in prompts}) == 1
    if length - shared > 5:
        assert len({tuple(words[shared:]) for words in prompts}) == len(prompts)


def test_synthetic_bodies_are_the_same_for_a_seed_and_differ_between_seeds() -> None:
    one, two, other = (plan_load(profile(synthetic(), seed=seed), SIMULATED) for seed in (3, 3, 4))
    assert bodies(one) == bodies(two)
    assert not set(bodies(one)) & set(bodies(other))


def test_warm_up_open_and_closed_loop_ask_different_prompts() -> None:
    """A prompt that was sent before is answered from a prefix cache."""
    plan = plan_load(profile(synthetic()), SIMULATED)
    closed = [plan.request_for(user, turn).body for user in range(5) for turn in range(5)]
    warm_up = [request.body for request in plan.requests]
    assert len({*bodies(plan), *closed, *warm_up}) == 30 + 25 + len(warm_up)


def test_simulator_counts_what_was_asked_for(start_simulator: Callable[..., str]) -> None:
    endpoint = connect(start_simulator(ttft_ms=0, itl_ms=0))
    plan = plan_load(profile(synthetic(37, output_tokens=5)), endpoint)
    body = {**json.loads(plan.request_at(0).body), "stream": False}
    request = urllib.request.Request(
        f"{endpoint.base_url}/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        usage = json.load(answer)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (37, 5)


class Tokenizer:
    """A server's tokenizer: three tokens of template before the text, two after it, and words of one token or two."""

    def __init__(self, two: set[str], *, most: int = 2000, joins: bool = False) -> None:
        self.two, self.most, self.joins = two, most, joins
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()

    def count(self, text: str) -> list[int]:
        tokens = [1, 2, 3]
        for place, word in enumerate(text.split(" ") if text else []):
            # Without a space before it the first word is another token, as in byte-pair encodings.
            tokens += [hash((word, place == 0)) % 10_000 + 10]
            tokens += [7] if word in self.two else []
        if self.joins and len(tokens) > 500:
            tokens = tokens[:-3]
        return [*tokens, 4, 5]


@contextmanager
def served(tokenizer: Tokenizer | None) -> Iterator[Endpoint]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if tokenizer is None or self.path != "/tokenize":
                self.send_error(404)
                return
            tokenizer.asked.append(asked)
            tokenizer.keys.add(self.headers["Authorization"])
            tokens = tokenizer.count(asked["messages"][0]["content"])
            answer = json.dumps({"count": len(tokens), "tokens": tokens, "max_model_len": tokenizer.most}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True).start()
    try:
        yield Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "real", SecretStr(KEY))
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("share", [0.0, 0.9, 1.0])
def test_prompts_have_the_servers_own_length(share: float) -> None:
    tokenizer = Tokenizer(TWO)
    with served(tokenizer) as endpoint:
        plan = plan_load(profile(synthetic(120, share)), endpoint)
    counted = [tokenizer.count(content(body)) for body in bodies(plan)]
    assert {len(tokens) for tokens in counted} == {120}
    shared = {tuple(tokens[: round(share * 120)]) for tokens in counted[: 30 if share < 1 else 1]}
    assert len(shared) == 1
    assert tokenizer.keys == {f"Bearer {KEY}"}
    assert KEY not in repr(plan)


def test_every_worker_that_asks_the_server_makes_the_same_prompts() -> None:
    with served(Tokenizer(TWO)) as endpoint:
        one, two = (plan_load(profile(synthetic(60)), endpoint) for _ in range(2))
    assert bodies(one) == bodies(two)


@pytest.mark.parametrize(
    ("tokenizer", "length", "told"),
    [
        (None, 50, "HTTP 404; vLLM has one: use it, or workload kind agents"),
        (Tokenizer(set()), 5, "chat template alone takes 5, so allowed is 6 or more"),
        (Tokenizer(set()), 1993, "prompt_tokens 1993 + output_tokens 8 is 2001; real takes 2000"),
        (Tokenizer(set(), joins=True), 800, "its tokenizer joins words"),
    ],
)
def test_lengths_that_cannot_be_had_are_refused(tokenizer: Tokenizer | None, length: int, told: str) -> None:
    with served(tokenizer) as endpoint, pytest.raises(BadInput, match=re.escape(told)):
        plan_load(profile(synthetic(length)), endpoint)


def test_model_with_hardly_a_word_of_one_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"word{number}" for number in range(40)]
    monkeypatch.setattr(synthetic_module, "_WORDS", words)
    with served(Tokenizer(set(words[20:]))) as endpoint, pytest.raises(BadInput, match="of 40 tried real has 20"):
        plan_load(profile(synthetic()), endpoint)


def test_server_that_is_gone_cannot_be_asked() -> None:
    with served(None) as endpoint:
        pass
    with pytest.raises(CannotJudge, match="is the endpoint up"):
        plan_load(profile(synthetic()), endpoint)


def test_words_of_one_token_are_found_by_halving() -> None:
    tokenizer = Tokenizer({"b", "e"})
    assert single_tokens(["a", "b", "c", "d", "e"], tokenizer.count) == ("a", "c", "d")
