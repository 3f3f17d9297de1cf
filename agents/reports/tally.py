"""What became of the pipelines of a run, in counts: what a long run can show of itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from agents.reports.report import PipelineReport, StageReport
from common.console import ExitCode


@dataclass
class Tally:
    """Counts over reports; the memory it takes does not grow with them."""

    statuses: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    """Pipelines by label: ``severity HIGH``."""
    decided_by: Counter[str] = field(default_factory=Counter)
    """Stages by who decided: model, or rules, with the reason where a model had been asked."""
    unlike_rules: int = 0
    """Stages where a model decided otherwise than the rules would have."""
    notes_dropped: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """What the endpoint or the input failed with, by class, whether or not the rules stood in."""
    need_approval: int = 0
    output_tokens: int = 0

    @property
    def pipelines(self) -> int:
        """How many reports were counted."""
        return self.statuses.total()

    def add(self, report: PipelineReport) -> None:
        """Count one report."""
        self.statuses[report.status] += 1
        self.labels.update(f"{kind} {label.value}" for kind, label in report.labels.items())
        self.need_approval += report.requires_approval
        for stage in report.stages:
            self._add_stage(stage)

    def _add_stage(self, stage: StageReport) -> None:
        self.output_tokens += stage.output_tokens or 0
        self.notes_dropped += stage.note_dropped is not None
        self.unlike_rules += stage.differs
        if stage.error_class:
            self.errors[stage.error_class.value] += 1
        if stage.decision:
            why = f" ({stage.because})" if stage.because else ""
            self.decided_by[f"{stage.decision.by}{why}"] += 1

    def exit_code(self) -> ExitCode:
        """2 when input was refused (its owner can mend it), else 3 when an answer is missing, else 0."""
        if self.statuses["invalid"]:
            return ExitCode.BAD_INPUT
        missing = self.statuses["failed"] or self.statuses["partial"] or self.decided_by["rules (endpoint)"]
        return ExitCode.NOT_JUDGED if missing else ExitCode.DONE

    def document(self) -> dict[str, object]:
        """The counts as plain JSON."""
        return {
            "statuses": dict(self.statuses),
            "labels": dict(self.labels),
            "decided_by": dict(self.decided_by),
            "unlike_rules": self.unlike_rules,
            "notes_dropped": self.notes_dropped,
            "errors": dict(self.errors),
            "need_approval": self.need_approval,
            "output_tokens": self.output_tokens,
        }
