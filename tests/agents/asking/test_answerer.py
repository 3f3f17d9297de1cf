"""One question from end to end against the simulator, sound and with each fault of an answer's form."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from agents.asking.answerer import ModelAnswer, ask
from agents.asking.endpoint.client import make_client
from agents.asking.endpoint.parameters import Parameters
from agents.asking.endpoint.reply import EndpointFailed, ErrorClass
from agents.asking.variant import PromptVariant, load_prompt, prompt_names
from serving.endpoint import Endpoint
from serving.faults import REFUSAL_TEXT
from serving.simulator import Fault
from tests.agents.asking.toy import asked, label, spec_of, variant_of

Start = Callable[..., str]
MODEL = "plumbline-simulator"
FAST = {"ttft_ms": 0, "itl_ms": 0}


def answer_of(base_url: str, variant: PromptVariant) -> ModelAnswer:
    async def run() -> ModelAnswer:
        async with make_client(Endpoint(base_url, MODEL, SecretStr("EMPTY")), backoff_s=0) as client:
            return await ask(client, MODEL, variant, asked(variant, spec_of(), label()))

    return asyncio.run(run())


def failure(base_url: str, variant: PromptVariant) -> EndpointFailed:
    with pytest.raises(EndpointFailed) as failed:
        answer_of(base_url, variant)
    return failed.value


@pytest.mark.parametrize("name", prompt_names())
def test_each_packaged_prompt_gets_a_decision_with_probabilities(start_simulator: Start, name: str) -> None:
    answer = answer_of(start_simulator(**FAST), load_prompt(name))
    assert answer.problem is None
    assert answer.decision is not None
    assert answer.decision.by == "model"
    assert answer.decision.least_probability is not None
    assert all(reply.prompt_tokens for reply in answer.replies)


def test_without_log_probs_a_written_decision_stays_and_a_read_one_does_not(start_simulator: Start) -> None:
    base_url = start_simulator(**FAST, fault=Fault.NO_LOGPROBS)
    written = answer_of(base_url, load_prompt("write")).decision
    assert written is not None
    assert written.least_probability is None
    read = answer_of(base_url, load_prompt("read"))
    assert read.decision is None
    assert (read.problem or "").startswith("no log-probs: ")


@pytest.mark.parametrize("fault", [Fault.HALF_ANSWER, Fault.WRONG_SCHEMA])
def test_an_answer_that_is_no_decision_is_a_problem_with_its_reply(start_simulator: Start, fault: Fault) -> None:
    answer = answer_of(start_simulator(**FAST, fault=fault), load_prompt("write"))
    assert answer.decision is None
    assert answer.problem
    assert len(answer.replies) == 1


def test_an_answer_cut_off_by_max_tokens_says_so(start_simulator: Start) -> None:
    answer = answer_of(start_simulator(**FAST), variant_of(sampling={"max_tokens": 3}))
    assert answer.decision is None
    assert (answer.problem or "").endswith("; it was cut off at 3 tokens (sampling.max_tokens)")


@pytest.mark.parametrize("ask", ["write", "reason"])
@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (Fault.REFUSAL, "a refusal"),
        (Fault.REASONING_ONLY, "its reasoning"),
        (Fault.TOOL_CALL, "the call of a tool"),
    ],
)
def test_an_answer_without_text_is_a_failure_of_its_own_class(
    start_simulator: Start, ask: str, fault: Fault, what: str
) -> None:
    failed = failure(start_simulator(**FAST, fault=fault), variant_of(ask))
    assert failed.error_class is ErrorClass.NO_CONTENT
    assert str(failed).startswith(f"the endpoint's answer has no text but {what}: ")
    assert failed.reply is not None
    assert failed.reply.text
    if fault is Fault.REFUSAL:
        assert failed.reply.text == REFUSAL_TEXT


@pytest.mark.parametrize("name", ["seed", "logprobs", "response_format", "max_tokens"])
def test_a_parameter_that_is_refused_can_be_left_out_or_renamed(start_simulator: Start, name: str) -> None:
    base_url = start_simulator(**FAST, refused_parameters=(name,))
    variant = load_prompt("write")
    told = str(failure(base_url, variant))
    assert told.endswith(
        f"; if it does not take {name}, leave it out by the prompt's parameters.leave_out, or --leave-out {name}"
    )
    changes: dict[str, Any] = {"leave_out": (name,)}
    if name == "max_tokens":
        changes = {"rename": {"max_tokens": "max_completion_tokens"}}
    answer = answer_of(base_url, variant.with_parameters(Parameters(**changes)))
    assert (answer.decision is None) == (name == "response_format")  # plain words are no decision


@pytest.mark.parametrize("name", ["seed", "logprob_token_ids"])
def test_labels_are_read_from_a_server_that_refuses_a_parameter(start_simulator: Start, name: str) -> None:
    base_url = start_simulator(**FAST, refused_parameters=(name,))
    variant = load_prompt("read").with_parameters(Parameters(leave_out=("seed",)))
    assert answer_of(base_url, variant).decision is not None
