"""What the comparison with vLLM's load generator sends, and when it concludes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from agents.asking.requests import stage_request
from agents.asking.variant import PromptVariant
from agents.labels.policy import load_policy
from agents.specialists.registry import labels_for, stages
from benchmarks.engine_rate import PROMPT, Pair, Rate, bench_arguments, cases_of, check_same_work, rate_of
from common.console import CannotJudge
from evals.case import dump_cases, load_cases
from serving.endpoint import Endpoint

BODY = {
    "model": "m",
    "messages": [],
    "max_tokens": 200,
    "temperature": 0.0,
    "seed": 1,
    "response_format": {"type": "x"},
}


def test_theirs_is_asked_with_our_sampling_schema_and_longest_answer() -> None:
    words = bench_arguments(Endpoint("http://127.0.0.1:1/v1", "m", SecretStr("EMPTY")), [BODY, BODY], 8)
    options = json.loads(words[words.index("--extra-body") + 1])
    assert options == {"temperature": 0.0, "seed": 1, "response_format": {"type": "x"}, "max_completion_tokens": 200}
    assert words[words.index("--num-prompts") + 1] == "2"
    assert words[words.index("--base-url") + 1] == "http://127.0.0.1:1"


def test_a_round_in_which_a_request_failed_is_no_figure() -> None:
    result = {"completed": 9, "request_throughput": 1.0, "output_throughput": 2.0, "total_output_tokens": 3}
    assert rate_of(result, 9) == Rate(1.0, 2.0, 3)
    with pytest.raises(CannotJudge, match="completed 9 of 10"):
        rate_of(result, 10)


def test_answers_of_another_length_are_not_compared() -> None:
    ours = Rate(1.0, 1.0, output_tokens=1000)
    check_same_work([Pair("quality", ours, Rate(1.0, 1.0, output_tokens=1040))])
    with pytest.raises(CannotJudge, match="did not do the same work: 1000 and 1100 output tokens"):
        check_same_work([Pair("quality", ours, Rate(1.0, 1.0, output_tokens=1100))])


@pytest.mark.parametrize("stage", stages())
def test_every_stage_has_as_many_cases_as_are_asked_for_and_they_make_a_file(stage: str, tmp_path: Path) -> None:
    for wanted in (2, 50, 72):
        cases = cases_of(stage, wanted)
        (tmp_path / "cases.jsonl").write_text(dump_cases(cases), "utf8")
        assert load_cases(tmp_path / "cases.jsonl") == cases
        assert len({case.id for case in cases}) == wanted
        assert {case.stage for case in cases} == {stage}


@pytest.mark.parametrize("stage", stages())
def test_all_requests_of_a_stage_share_one_schema(stage: str) -> None:
    """vLLM's load generator takes one a run."""
    prompt, policy = PromptVariant.model_validate(PROMPT), load_policy("standard")
    bodies = [
        stage_request(stage, case.spec, prompt, labels_for(case.spec, policy), "m").body for case in cases_of(stage, 20)
    ]
    assert all(body["response_format"] == bodies[0]["response_format"] for body in bodies)
