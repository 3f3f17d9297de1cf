"""Ways to ask side by side: what is asked, kept, scored, and set beside answers without a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agents.labels.policy import load_policy
from benchmarks.decision_ways import Asked, Bench, chosen, cost_of, named_cases
from common.console import BadInput
from evals.generate import generate
from serving.endpoint import connect


def bench(count: int = 40) -> Bench:
    return Bench(generate(count, 7), f"generated:{count}:7", load_policy("standard"))


@pytest.mark.parametrize("ways", ["write", "write:some", ":all"])
def test_a_way_is_a_prompt_and_what_it_offers(ways: str) -> None:
    with pytest.raises(BadInput, match=r"--ways: found .*; allowed: PROMPT:OFFER, offers: permitted, all"):
        chosen(ways)


def test_the_offer_is_the_ways_own_whatever_the_prompt_says() -> None:
    found = chosen("write:all,read_all:permitted")
    assert {way: (variant.name, variant.offer) for way, variant in found.items()} == {
        "write:all": ("write", "all"),
        "read_all:permitted": ("read_all", "permitted"),
    }


@pytest.mark.parametrize("name", ["other", "generated", "generated:3", "generated:a:b"])
def test_cases_that_are_not_known_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match="--cases"):
        named_cases(name)
    assert len(named_cases("generated:5:1")) == 5


def test_answers_are_kept_and_a_way_that_is_whole_is_not_asked_again(
    tmp_path: Path, start_simulator: Callable[..., str]
) -> None:
    work, endpoint = bench(), connect(start_simulator(ttft_ms=0, itl_ms=0))
    ((way, variant),) = chosen("write:permitted").items()
    found, seconds = work.asked(way, variant, endpoint, 8, tmp_path)
    assert {one.case_id for one in found} == {case.id for case in work.cases}
    assert all(one.decision and one.output_tokens and one.prompt_tokens for one in found)
    assert work.asked(way, variant, endpoint, 8, tmp_path) == (found, seconds)
    line = work.line_of(way, found, seconds)
    assert (line.headline.n, line.means["decided"], line.means["permitted"]) == (40, 1.0, 1.0)
    with pytest.raises(BadInput, match="was asked of another model, prompt, policy or cases"):
        bench(41).asked(way, variant, endpoint, 8, tmp_path)


def test_a_way_that_broke_off_starts_anew(tmp_path: Path, start_simulator: Callable[..., str]) -> None:
    (tmp_path / "read-all.part").write_text("half a li")
    ((way, variant),) = chosen("read:all").items()
    found, _ = bench(10).asked(way, variant, connect(start_simulator(ttft_ms=0, itl_ms=0)), 4, tmp_path)
    assert len(found) == 10
    assert all(one.decision and one.decision.reading and one.decision.reading.label_mass for one in found)


def test_what_failed_is_counted_and_in_no_mean() -> None:
    sound = Asked(case_id="a", prompt_tokens=100, cached_tokens=75, output_tokens=30, problem="not JSON")
    cost = cost_of([sound, Asked(case_id="b", error="timeout")], 9.0)
    assert (cost.failed, cost.prompt_tokens, cost.cached, cost.output_tokens) == (1, 100.0, 0.75, 30.0)
    untold = cost_of([sound, sound.model_copy(update={"cached_tokens": None})], 9.0)
    assert untold.cached is None


@pytest.mark.slow
def test_rules_stand_above_what_is_earned_without_looking() -> None:
    lines = {line.way: line.headline.mean for line in bench(96).without_model()}
    assert list(lines) == ["rules", "chance:permitted", "chance:all", "constant"]
    assert lines["rules"] > lines["chance:permitted"] > lines["chance:all"] > 0
    assert lines["rules"] > lines["constant"]
