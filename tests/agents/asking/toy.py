"""A specialist made up for these tests: small enough to compute by hand what is asked and read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from agents.asking.endpoint.reply import Reply, TokenLogprob
from agents.asking.question import StageQuestion, question_for
from agents.asking.variant import PromptVariant
from agents.facts.spec import PipelineSpec
from agents.labels.label import Label, RuleFired
from agents.specialists import registry
from agents.specialists.specialist import Action, Choice, Facts, LabelRule, Option, Specialist

STAGE = "toy"
LEVELS = ("LOW", "HIGH")


def action(name: str, **more: Any) -> Action:
    return Action(id=name, do=f"Do {name}", means=f"what {name} means", source="ours", can_be_undone=True, **more)


def _told(spec: PipelineSpec) -> Facts:
    known: Facts = {"type": spec.source.type}
    if spec.infrastructure_metrics.cpu_percent is not None:
        known["cpu_percent"] = spec.infrastructure_metrics.cpu_percent
        known["cpu_percent_history"] = [61.0, 72.46]
    return known | ({"description": spec.source.description} if spec.source.description else {})


def label(value: str = "HIGH", **more: Any) -> Label:
    rule = RuleFired(rule="hot", level=value, reason="cpu_percent is 88, above 75", facts={"cpu_percent": 88.0})
    return Label(kind="heat", value=value, policy="standard", rules=(rule,), **more)


TOY = Specialist(
    name=STAGE,
    role="toy specialist",
    subject="what to do about this toy",
    told=_told,
    choice=Choice(
        name="mode",
        asks="How is it to be played with?",
        options=(
            Option(value="batch", means="all at once"),
            Option(value="batch_load", means="all at once, and loaded"),
            Option(value="stream", means="bit by bit"),
        ),
        ruled_out=lambda spec, _: {"stream": "it is slow"} if spec.source.type == "slow" else {},
        preferred=lambda *_: "batch",
    ),
    predicates={"is_slow": lambda spec, _: spec.source.type == "slow"},
    catalogue=(
        action("wash"),
        action("wash_all"),
        action("mend", wrong_when=("is_slow",)),
        action("paint"),
    ),
    label=LabelRule(kind="heat", levels=LEVELS, findings=lambda *_: (), approval_from="HIGH"),
)


@contextmanager
def registered(specialist: Specialist = TOY) -> Iterator[Specialist]:
    """The specialist among the known ones, for as long as the block lasts."""
    before = registry._SPECIALISTS.get(specialist.name)
    registry.register(specialist)
    try:
        yield specialist
    finally:
        del registry._SPECIALISTS[specialist.name]
        if before:
            registry.register(before)


def spec_of(kind: str = "quick", cpu: float | None = 88, **source: Any) -> PipelineSpec:
    metrics = {} if cpu is None else {"cpu_percent": cpu}
    return PipelineSpec.model_validate(
        {"id": "a", "source": {"type": kind, **source}, "infrastructure_metrics": metrics}
    )


def variant_of(ask: str = "write", **changes: Any) -> PromptVariant:
    return PromptVariant.model_validate({"name": "mine", "version": 1, "description": "d", "ask": ask, **changes})


def asked(variant: PromptVariant, spec: PipelineSpec | None = None, given: Label | None = None) -> StageQuestion:
    """The toy's question; the toy must be registered."""
    return question_for(variant, STAGE, spec or spec_of(), given)


def reply_of(text: str, *tokens: tuple[str, float], finish_reason: str = "stop", **more: Any) -> Reply:
    """A reply with these tokens and their log-probs; without any, one without log-probs."""
    logprobs = tuple(TokenLogprob(token, value, len(token.encode())) for token, value in tokens) or None
    usual: dict[str, Any] = {"prompt_tokens": 9, "output_tokens": 7, "latency_s": 0.5, "logprobs": logprobs}
    return Reply(text=text, finish_reason=finish_reason, **{**usual, **more})
