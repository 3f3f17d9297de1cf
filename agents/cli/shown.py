"""How a run's decisions are shown to people: on stderr, one pipeline after the other, or counts for a long run."""

from __future__ import annotations

from agents.reports.approvals import TraceMode
from agents.reports.batch import Setup
from agents.reports.orchestrator import summary
from agents.reports.report import PipelineReport, StageReport
from agents.reports.tally import Tally
from agents.specialists.decision import Decision, Picked
from agents.specialists.registry import specialist_of
from common import console
from common.console import one_line, say

_BECAUSE = {
    "unusable": "the model's answer is no decision",
    "not_permitted": "the model decided what the rules do not permit",
    "deadline": "the model was late",
    "endpoint": "the endpoint gave no answer",
}


class Shown:
    """The reports that are shown one by one, in their entries' order: all, or the first few of a run of any length."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.ended = 0
        self._reports: list[tuple[int, PipelineReport]] = []

    def add(self, number: int, report: PipelineReport) -> None:
        """Note that an entry has its report."""
        self.ended += 1
        if self.most is None or len(self._reports) < self.most:
            self._reports.append((number, report))

    @property
    def reports(self) -> list[PipelineReport]:
        """Those to show."""
        return [report for _, report in sorted(self._reports, key=lambda one: one[0])]

    @property
    def complete(self) -> bool:
        """Whether they are all there are."""
        return self.ended == len(self._reports)


def print_run(setup: Setup, tally: Tally, shown: Shown) -> None:
    """Every pipeline with its decisions and a summary; of a long run the counts."""
    if shown.complete:
        for report in shown.reports:
            print_report(report)
        _print_summary(setup, shown.reports)
    else:
        console.table(
            _title(setup, tally.pipelines),
            ["what", "how many"],
            [(name.replace("_", " "), _counts(value)) for name, value in tally.document().items()],
        )
    if tally.need_approval and setup.trace is not TraceMode.NONE:
        say(f"{tally.need_approval} wait for a person: python -m agents approvals list")
    elif tally.need_approval:
        say(f"{tally.need_approval} need a person, who cannot decide on them here: --trace none keeps no trace")


def print_report(report: PipelineReport) -> None:
    """One pipeline: its labels, each stage's decision beside the rules', and what a person has to approve."""
    say(f"\n{one_line(report.pipeline_id)}  ({report.status})")
    if not report.stages and report.error:
        say(f"  refused: {one_line(report.error)}")
    for label in report.labels.values():
        say(f"  {label.kind} {label.value}: {'; '.join(rule.reason for rule in label.rules)}")
    for stage in report.stages:
        _print_stage(stage)
    if report.requires_approval:
        where = f" (trace {report.trace_id})" if report.trace_id else ""
        say(f"  a person has to decide{where}: {one_line('; '.join(report.approval_reasons))}")


def _print_stage(stage: StageReport) -> None:
    decision = stage.decision
    if decision is None:
        say(f"  {stage.stage}  (failed{_cost(stage)})")
        say(f"    {one_line(stage.error or '')}")
        return
    say(f"  {stage.stage}  (by the {decision.by}{_cost(stage)})")
    if stage.because:
        said = f": {one_line(stage.problem)}" if stage.problem else ""
        say(f"    the rules decide, since {_BECAUSE[stage.because]}{said}")
    picks = (decision.choice, *decision.actions)
    for number, (picked, told) in enumerate(zip(picks, stage.told, strict=True)):
        say(f"    {'- ' if number else ''}{one_line(told)}{_sure(picked)}")
    if decision.note:
        say(f"    the model's note: {one_line(decision.note)}")
    if stage.note_dropped:
        say(f"    the model's note was left out: {one_line(stage.note_dropped)}")
    if stage.rules and decision.by != "rules":
        say(f"    the rules: {_compared(stage.stage, decision, stage.rules)}")


def _sure(picked: Picked) -> str:
    return "" if picked.probability is None else f"  [p {picked.probability:.2f}]"


def _compared(stage: str, decision: Decision, rules: Decision) -> str:
    """What the rules would have decided, or that it is the same: ``the same mode; they add back_off``."""
    if decision.agrees_with(rules):
        return "the same"
    name = specialist_of(stage).choice.name
    told = [f"the same {name}" if decision.choice.id == rules.choice.id else f"{name} {rules.choice.id}"]
    for what, ids, others in (("add", rules.ids, decision.ids), ("leave out", decision.ids, rules.ids)):
        if only := [one for one in ids if one not in others]:
            told.append(f"they {what} {', '.join(only)}")
    return "; ".join(told)


def _cost(stage: StageReport) -> str:
    if stage.latency_s is None:
        return ""
    tokens = "unknown" if stage.output_tokens is None else stage.output_tokens
    return f", {tokens} tokens, {stage.latency_s:.1f} s"


def _counts(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in sorted(value.items(), key=lambda one: -one[1])) or "none"
    return str(value)


def _title(setup: Setup, count: int) -> str:
    if setup.endpoint is None:
        return f"{count} pipelines (by the rules; policy {setup.policy.name})"
    made_by = "SIMULATOR, answers are made up" if setup.endpoint.simulated else setup.endpoint.model
    variant = setup.variant
    return f"{count} pipelines ({made_by}; prompt {variant.name} v{variant.version}; policy {setup.policy.name})"


def _print_summary(setup: Setup, reports: list[PipelineReport]) -> None:
    frame = summary(reports)
    frame["Start Time"] = [report.start_time.astimezone().strftime("%H:%M:%S") for report in reports]
    console.table(
        _title(setup, len(reports)),
        list(frame.columns),
        frame.itertuples(index=False),
        right=["Stages Completed", "From Rules", "Unlike Rules"],
    )
    if setup.endpoint is not None:
        say("p: what the model reports of itself, not calibrated; it opens no gate")
