"""Asking: what is sent is what agents send, and every sample has a row, whatever the endpoint does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.asking.endpoint.lean_client import LeanTransport
from agents.asking.endpoint.transport import Route
from agents.asking.requests import stage_request
from agents.specialists.registry import labels_for, specialist_of
from common.console import BadInput
from evals.cache import request_digest
from evals.plan import Plan
from evals.runner import GONE_AFTER, order, with_seed
from serving.simulator import Fault
from serving.simulator_settings import DecisionsRoute
from tests.evals.small_runs import CASES, FAST, ask_all, new_run, rows

Start = Callable[..., str]


def test_every_case_is_asked_once_under_each_variant_and_repeat(tmp_path: Path, start_simulator: Start) -> None:
    run = new_run(tmp_path, start_simulator(**FAST), repeats=2)
    asked = ask_all(run)
    assert (asked.answered, asked.errored) == (2 * 2 * CASES, 0)
    places = {(row["variant"], row["case_id"], row["repeat"]) for row in rows(run)}
    assert places == {
        (variant.name, case.id, repeat) for variant in run.plan.variants for case in run.cases for repeat in (0, 1)
    }
    assert {row["index"] for row in rows(run)} == set(range(run.plan.samples))
    assert all(row["replies"][0]["latency_s"] > 0 for row in rows(run))


WAYS = ["write", "write_all", "write_note", "read", "read_prior", "read_all", "reason"]


@pytest.mark.parametrize(
    "endpoint", [{}, {"label_ids": False}, {"decisions": DecisionsRoute.ON}], ids=["ids", "top", "route"]
)
def test_every_way_of_asking_ends_in_a_decision_of_what_was_offered(
    tmp_path: Path, start_simulator: Start, endpoint: dict[str, Any]
) -> None:
    run = new_run(tmp_path, start_simulator(**FAST, **endpoint), prompts=WAYS)
    assert ask_all(run).answered == len(WAYS) * CASES
    for row in rows(run):
        assert row.get("problem") is None, row
        decision, case = row["decision"], run.cases.by_id(row["case_id"])
        known = specialist_of(case.stage)
        assert decision["by"] == "model"
        assert decision["choice"]["id"] in known.choice.values
        assert {one["id"] for one in decision["actions"]} <= set(known.actions_by_id)
        assert all("logprobs" not in reply for reply in row["replies"])


def test_what_is_sent_is_what_the_agents_send(
    tmp_path: Path, start_simulator: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(
        tmp_path,
        start_simulator(**FAST),
        prompts=["write", "write_all"],
        sampling=[{"name": "as prompt"}, {"name": "free", "temperature": 0.5, "seed": 40, "constrained": False}],
        repeats=2,
    )
    sent: list[dict[str, Any]] = []
    real = LeanTransport.send

    async def noted(self: LeanTransport, body: dict[str, Any], route: Route) -> bytes:
        sent.append(body)
        return await real(self, body, route)

    monkeypatch.setattr(LeanTransport, "send", noted)
    ask_all(run)
    wanted = [
        stage_request(
            case.stage,
            case.spec,
            with_seed(variant.prompt, repeat),
            labels_for(case.spec, variant.policy),
            variant.model.model,
        ).body
        for case in run.cases
        for variant in run.plan.variants
        for repeat in (0, 1)
    ]
    assert sorted(map(repr, sent)) == sorted(map(repr, wanted))
    assert Counter(body["seed"] for body in sent if "response_format" not in body) == {40: 12, 41: 12}
    digests = {row["index"]: row["request"] for row in rows(run)}
    assert [digests[index] for index in range(len(wanted))] == [
        request_digest(run.plan.variants[0].model, body, index % 2) for index, body in enumerate(wanted)
    ]


def test_a_question_has_one_digest_whatever_was_probed_before_it(tmp_path: Path, start_simulator: Start) -> None:
    """The first samples of a run that reads also send probes; what is asked of them is the same."""
    runs = [
        new_run(tmp_path / name, start_simulator(**FAST, label_ids=ids), prompts=["read_prior"], concurrency=1)
        for name, ids in (("a", True), ("b", True), ("c", False))
    ]
    for run in runs:
        ask_all(run)
    first, *others = ({row["index"]: row["request"] for row in rows(run)} for run in runs)
    assert len(set(first.values())) == CASES
    assert others == [first, first]


def test_a_suites_parameters_are_in_every_request(
    tmp_path: Path, start_simulator: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = {"rename": {"max_tokens": "max_completion_tokens"}, "leave_out": ["seed"], "add": {"top_k": 5}}
    run = new_run(tmp_path, start_simulator(**FAST), prompts=["write", "read"], parameters=parameters)
    sent: list[dict[str, Any]] = []
    real = LeanTransport.send

    async def noted(self: LeanTransport, body: dict[str, Any], route: Route) -> bytes:
        if route == "chat/completions":
            sent.append(body)
        return await real(self, body, route)

    monkeypatch.setattr(LeanTransport, "send", noted)
    ask_all(run)
    assert sent
    for body in sent:
        assert {"max_tokens", "seed"}.isdisjoint(body)
        assert (body["top_k"], "max_completion_tokens" in body) == (5, True)


def test_a_prompt_that_cannot_be_rendered_after_all_is_a_row(
    tmp_path: Path, start_simulator: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path, start_simulator(**FAST))

    def fails(*_: object) -> None:
        raise BadInput("prompt plain: no such fact")

    monkeypatch.setattr("evals.runner.chat_body", fails)
    assert ask_all(run).errored == 2 * CASES
    assert {(row["error"], row["error_class"], row["request"]) for row in rows(run)} == {
        ("prompt plain: no such fact", "bad_input", "")
    }


def test_the_order_is_the_same_each_time_and_mixes_the_variants(tmp_path: Path, start_simulator: Start) -> None:
    plan = new_run(tmp_path, start_simulator(), cases={"count": 60, "seed": 3}).plan
    first = list(order(plan, "plumbline-simulator", bytearray(plan.samples)))
    assert first == list(order(plan, "plumbline-simulator", bytearray(plan.samples)))
    assert sorted(first) == list(range(plan.samples))
    assert first != sorted(first)
    earliest = [plan.place(index)[1] for index in first[::2]]  # which variant is asked first about each case
    assert 15 < sum(earliest) < 45


def test_what_is_done_is_not_asked(tmp_path: Path, start_simulator: Start) -> None:
    run = new_run(tmp_path, start_simulator(**FAST))
    done = bytearray(run.plan.samples)
    done[3] = done[7] = 1
    ask_all(run, done=done)
    assert {row["index"] for row in rows(run)} == set(range(run.plan.samples)) - {3, 7}


def test_models_run_side_by_side_each_on_its_own_endpoint(tmp_path: Path, start_simulator: Start) -> None:
    urls = {name: start_simulator(**FAST, model=f"{name}-id", seed=seed) for seed, name in enumerate(("a", "b"))}
    models = [{"name": name, "base_url": url} for name, url in urls.items()]
    run = new_run(tmp_path, None, prompts=["write"], models=models)
    assert ask_all(run).answered == 2 * CASES
    assert Counter(row["variant"] for row in rows(run)) == {"a": CASES, "b": CASES}


@pytest.mark.slow
def test_a_model_that_is_down_does_not_stop_the_other(tmp_path: Path, start_simulator: Start) -> None:
    models = [
        {"name": "up", "base_url": start_simulator(**FAST)},
        {"name": "down", "base_url": start_simulator(**FAST, fault=Fault.DISCONNECT)},
    ]
    count = GONE_AFTER + 30
    cases = {"count": count, "seed": 3}
    run = new_run(tmp_path, None, prompts=["write"], models=models, cases=cases, max_retries=0, concurrency=4)
    asked = ask_all(run)
    assert asked.answered == count
    assert set(asked.gone) == {"down"}
    assert GONE_AFTER <= asked.errored < GONE_AFTER + 4  # what was in flight came too
    assert len(rows(run)) == asked.answered + asked.errored


@pytest.mark.parametrize("fault", [Fault.HALF_BODY, Fault.HTTP_400, Fault.HTTP_500, Fault.HTTP_429, Fault.DISCONNECT])
def test_no_answer_is_a_row_with_its_reason(tmp_path: Path, start_simulator: Start, fault: Fault) -> None:
    run = new_run(tmp_path, start_simulator(**FAST, fault=fault), cases={"count": 2}, max_retries=0)
    asked = ask_all(run)
    assert (asked.answered, asked.errored, len(rows(run))) == (0, 4, 4)
    assert all(row["error"] and row["error_class"] and "replies" not in row for row in rows(run))
    assert sum(asked.errors.values()) == 4


@pytest.mark.parametrize("fault", [Fault.HALF_ANSWER, Fault.WRONG_SCHEMA])
def test_an_answer_that_does_not_fit_is_an_answer(tmp_path: Path, start_simulator: Start, fault: Fault) -> None:
    run = new_run(tmp_path, start_simulator(**FAST, fault=fault), cases={"count": 4}, prompts=["write"])
    assert ask_all(run).answered == 4
    for row in rows(run):
        assert row["problem"]
        assert row["replies"][0]["text"]
        assert {"error", "decision"}.isdisjoint(row)


@pytest.mark.parametrize("prompt", ["write", "read"])
@pytest.mark.parametrize("fault", [Fault.REFUSAL, Fault.REASONING_ONLY, Fault.TOOL_CALL])
def test_a_refusal_is_the_models_answer_and_its_words_are_kept(
    tmp_path: Path, start_simulator: Start, fault: Fault, prompt: str
) -> None:
    run = new_run(tmp_path, start_simulator(**FAST, fault=fault), cases={"count": 4}, prompts=[prompt])
    assert ask_all(run).answered == 4
    for row in rows(run):
        assert row["problem"].startswith("the endpoint's answer has no text but ")
        assert row["replies"][0]["text"]


def test_an_endpoint_without_log_probs_still_decides_where_it_writes(tmp_path: Path, start_simulator: Start) -> None:
    run = new_run(tmp_path, start_simulator(**FAST, fault=Fault.NO_LOGPROBS))
    assert ask_all(run).answered == 2 * CASES
    for row in rows(run):
        if row["variant"] == "write":
            assert "probability" not in row["decision"]["choice"]
        else:
            assert row["problem"].startswith("no log-probs: ")


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault.HTTP_429, Fault.HTTP_500])
def test_a_storm_that_ends_costs_tries_and_no_sample(tmp_path: Path, start_simulator: Start, fault: Fault) -> None:
    url = start_simulator(**FAST, fault=fault, fault_first=8)
    run = new_run(tmp_path, url, prompts=["write", "write_all"], max_retries=6, concurrency=8)
    assert ask_all(run).answered == run.plan.samples
    assert len(rows(run)) == run.plan.samples
    tries = sum(row["replies"][0].get("tries", 1) for row in rows(run))
    assert tries == run.plan.samples + 8


def test_the_plan_is_not_changed_by_asking(tmp_path: Path, start_simulator: Start) -> None:
    run = new_run(tmp_path, start_simulator(**FAST))
    before = (run.path / "plan.json").read_bytes()
    ask_all(run)
    assert (run.path / "plan.json").read_bytes() == before
    assert Plan.model_validate_json(before) == run.plan


def test_a_model_that_refuses_everything_is_given_up(tmp_path: Path, start_simulator: Start) -> None:
    run = new_run(tmp_path, start_simulator(**FAST, fault=Fault.HTTP_400), cases={"count": 90, "seed": 3})
    asked = ask_all(run)
    assert asked.answered == 0
    assert GONE_AFTER <= asked.errored < run.plan.samples
    assert "400" in next(iter(asked.gone.values()))


@pytest.mark.slow
def test_a_wrong_key_is_given_up_beside_a_model_that_answers(tmp_path: Path, start_simulator: Start) -> None:
    """Whether a model has ever answered is its own matter, not its neighbour's."""
    models = [
        {"name": "up", "base_url": start_simulator(**FAST)},
        {"name": "refuses", "base_url": start_simulator(ttft_ms=5, itl_ms=0, fault=Fault.HTTP_400)},
    ]
    cases = {"count": 4 * GONE_AFTER, "seed": 3}
    run = new_run(tmp_path, None, prompts=["write"], models=models, cases=cases, concurrency=4)
    asked = ask_all(run)
    assert (asked.answered, set(asked.gone)) == (4 * GONE_AFTER, {"refuses"})
    assert GONE_AFTER <= asked.errored < GONE_AFTER + 4
