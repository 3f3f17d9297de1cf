"""What the comparison with the tutorial's way asks and concludes."""

from __future__ import annotations

import pytest

from agents.specialists.registry import stages
from benchmarks.tutorial_way import THEIRS, Round, asked, ratios, some_pipelines


def test_each_pipeline_is_asked_about_by_three_agents_that_are_told_neither_label_nor_rules() -> None:
    pipelines = some_pipelines(4)
    assert len({spec.id for spec in pipelines}) == 4
    calls = list(asked(pipelines))
    assert [stage for stage, _ in calls] == [*stages()] * 4
    words = " ".join(one["content"] for _, messages in calls for one in messages)
    assert "severity" not in words
    assert "priority" not in words


def test_ratios_are_to_the_mean_of_their_two_rounds() -> None:
    def found(rate: float) -> Round:
        return Round(3, rate, output_tokens=300, prompt_tokens=200, computed_tokens=50)

    seen = {THEIRS: [found(1.0), found(3.0)], "write": [found(20.0), found(30.0)]}
    assert ratios(seen) == {THEIRS: [0.5, 1.5], "write": [10.0, 15.0]}
    assert found(1.0).cached == pytest.approx(0.75)
