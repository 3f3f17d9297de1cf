"""What became of the pipelines of a run, in counts: what a long run can show of itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from agents.schema import PipelineReport, StageReport
from common.console import ExitCode


@dataclass
class Tally:
    """Counts over reports; the memory it takes does not grow with them."""

    statuses: Counter[str] = field(default_factory=Counter)
    severities: Counter[str] = field(default_factory=Counter)
    priorities: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    """Stages by who recommends: model, or fallback with the reason."""
    violations: Counter[str] = field(default_factory=Counter)
    """Broken rules, in rejected answers and in those given all the same."""
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
        self.severities[report.severity.value if report.severity else "UNKNOWN"] += 1
        self.priorities[report.priority.value if report.priority else "UNKNOWN"] += 1
        self.need_approval += report.requires_approval
        for stage in report.stages:
            self._add_stage(stage)

    def _add_stage(self, stage: StageReport) -> None:
        self.output_tokens += stage.output_tokens or 0
        if stage.error_class:
            self.errors[stage.error_class.value] += 1
        if stage.recommendation:
            why = f" ({stage.fallback_because})" if stage.fallback_because else ""
            self.sources[f"{stage.source}{why}"] += 1
        for broken in (*stage.violations, *(one for rejected in stage.rejected for one in rejected.violations)):
            self.violations[broken.rule] += 1

    def exit_code(self) -> ExitCode:
        """2 when input was refused (its owner can mend it), else 3 when an answer is missing, else 0."""
        if self.statuses["invalid"]:
            return ExitCode.BAD_INPUT
        missing = self.statuses["failed"] or self.statuses["partial"] or self.sources["fallback (endpoint)"]
        return ExitCode.NOT_JUDGED if missing else ExitCode.DONE

    def document(self) -> dict[str, object]:
        """The counts as plain JSON."""
        return {
            "statuses": dict(self.statuses),
            "severities": dict(self.severities),
            "priorities": dict(self.priorities),
            "recommendations_from": dict(self.sources),
            "violations": dict(self.violations),
            "errors": dict(self.errors),
            "need_approval": self.need_approval,
            "output_tokens": self.output_tokens,
        }
