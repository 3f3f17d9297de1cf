"""The orchestrator: local rules give the labels, three agents answer at once, every pipeline gets its report."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from agents.asking.client import ChatClient
from agents.asking.reply import AgentError, Reply
from agents.asking.requests import Labels, labels_for
from agents.asking.variant import PromptVariant
from agents.deciding.agent import (
    ANSWER_CHARACTERS,
    Answer,
    DataIngestionAgent,
    DataQualityAgent,
    InfrastructureOptimizationAgent,
)
from agents.destructive import destructive
from agents.facts.pipeline_files import Entry, InvalidPipeline
from agents.facts.spec import PipelineSpec
from agents.guardrails import GuardrailMode
from agents.labels.policy import DEFAULT_POLICY, Policy, load_policy
from agents.schema import PipelineReport, Stage, StageReport
from common.console import BadInput

OnReport = Callable[[int, Entry, PipelineReport], Awaitable[None]]
"""Gets an entry's number (from 0), the entry and its report."""

REPORTS_KEPT = 10_000
"""Reports an orchestrator remembers for its summary unless told otherwise: the newest."""

SUMMARY_COLUMNS = [
    "Pipeline ID",
    "Start Time",
    "Status",
    "Stages Completed",
    "Severity",
    "Priority",
    "From Rules",
    "Needs Approval",
    "Error",
]


class AgenticDataOrchestrator:
    """Runs pipelines through the three agents, which share one client and so one endpoint."""

    def __init__(
        self,
        client: ChatClient,
        model: str,
        prompt: PromptVariant | None = None,
        policy: Policy | None = None,
        *,
        guardrails: GuardrailMode = GuardrailMode.ENFORCE,
        deadline_s: float | None = None,
        reports_kept: int = REPORTS_KEPT,
    ) -> None:
        self.policy = policy or load_policy(DEFAULT_POLICY)
        self.deadline_s = deadline_s
        self.ingestion = DataIngestionAgent(client, model, prompt, self.policy, guardrails)
        self.quality = DataQualityAgent(client, model, prompt, self.policy, guardrails)
        self.infrastructure = InfrastructureOptimizationAgent(client, model, prompt, self.policy, guardrails)
        self.reports: deque[PipelineReport] = deque(maxlen=reports_kept)

    async def process_data_pipeline(self, spec: PipelineSpec, where: str | None = None) -> PipelineReport:
        """Label one pipeline by the rules and ask all three agents concurrently.

        Never raises for what the input, an agent or the endpoint does: a stage that failed is a row with its error.
        What the model has not answered within deadline_s comes from the rules.
        """
        start_time = datetime.now(UTC)
        try:
            labels = labels_for(spec, self.policy)
        except BadInput as error:
            refused = InvalidPipeline(spec.id, where or spec.id, f"{where or spec.id}: {error}")
            return self._kept(invalid_report(refused))
        stages = await self._stages(spec, labels)
        failed = [stage for stage in stages if stage.status == "failed"]
        reasons = approval_reasons(labels, stages)
        report = PipelineReport(
            pipeline_id=spec.id,
            where=where,
            start_time=start_time,
            end_time=datetime.now(UTC),
            status="completed" if not failed else "partial" if len(failed) < len(stages) else "failed",
            severity=labels[Stage.QUALITY],
            priority=labels[Stage.INFRASTRUCTURE],
            stages=stages,
            requires_approval=bool(reasons),
            approval_reasons=tuple(reasons),
            error="; ".join(f"{stage.stage}: {stage.error}" for stage in failed) or None,
        )
        return self._kept(report)

    async def _stages(self, spec: PipelineSpec, labels: Labels) -> tuple[StageReport, ...]:
        """All three agents at once, in the order of their stages."""
        until_s = None if self.deadline_s is None else asyncio.get_running_loop().time() + self.deadline_s
        return await asyncio.gather(
            _stage(Stage.INGESTION, self.ingestion.analyze_data_source(spec, labels, until_s=until_s)),
            _stage(Stage.QUALITY, self.quality.assess_quality(spec, labels, until_s=until_s)),
            _stage(Stage.INFRASTRUCTURE, self.infrastructure.optimize_infrastructure(spec, labels, until_s=until_s)),
        )

    async def process_each(self, entries: Iterable[Entry], on_report: OnReport, *, concurrency: int = 16) -> None:
        """Run a stream of pipelines, at most `concurrency` at a time; on_report gets each entry's report when ready.

        Entries are drawn as there is room for them and nothing is kept, so a stream may be of any length.
        """
        source = enumerate(entries)

        async def worker() -> None:
            for number, entry in source:  # shared: each entry is drawn once
                if isinstance(entry, InvalidPipeline):
                    report = self._kept(invalid_report(entry))
                else:
                    report = await self.process_data_pipeline(entry.spec, entry.where)
                await on_report(number, entry, report)

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(concurrency):
                    workers.create_task(worker())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None  # a full disk, say: it stopped all workers, and one line tells it

    async def process_all(self, entries: Iterable[Entry], *, concurrency: int = 16) -> list[PipelineReport]:
        """A report for every entry, in the entries' order."""
        reports: dict[int, PipelineReport] = {}

        async def keep(number: int, _entry: Entry, report: PipelineReport) -> None:
            reports[number] = report

        await self.process_each(entries, keep, concurrency=concurrency)
        return [reports[number] for number in sorted(reports)]

    def generate_summary_report(self) -> pd.DataFrame:
        """One row per pipeline so far (the newest REPORTS_KEPT of them); see summary() for the columns."""
        return summary(self.reports)

    def _kept(self, report: PipelineReport) -> PipelineReport:
        self.reports.append(report)
        return report


def approval_reasons(labels: Labels, stages: Iterable[StageReport]) -> list[str]:
    """Why a person has to decide: a CRITICAL priority, a HIGH severity, or an action that cannot be undone.

    Where a label is UNKNOWN, the worst that is known counts.
    """
    reasons = []
    if (severity := labels[Stage.QUALITY]) and severity.worst_known == "HIGH":
        reasons.append(f"severity {severity.worst_known}")
    if (priority := labels[Stage.INFRASTRUCTURE]) and priority.worst_known == "CRITICAL":
        reasons.append(f"priority {priority.worst_known}")
    for stage in stages:
        if stage.recommendation and (words := destructive(stage.recommendation)):
            reasons.append(f"{stage.stage}: cannot be undone: {words!r}")
    return reasons


def summary(reports: Iterable[PipelineReport]) -> pd.DataFrame:
    """One row per report: Pipeline ID, Start Time, Status, Stages Completed, Severity, Priority, From Rules,
    Needs Approval, Error.

    From Rules counts the stages whose recommendation is the rules' and not the model's. A pipeline whose input was
    refused has the labels UNKNOWN: nothing is known of it.
    """
    rows = [
        {
            "Pipeline ID": report.pipeline_id,
            "Start Time": report.start_time,
            "Status": report.status,
            "Stages Completed": report.stages_completed,
            "Severity": report.severity.value if report.severity else "UNKNOWN",
            "Priority": report.priority.value if report.priority else "UNKNOWN",
            "From Rules": sum(stage.source == "fallback" for stage in report.stages),
            "Needs Approval": "yes" if report.requires_approval else "no",
            "Error": report.error or "",
        }
        for report in reports
    ]
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def invalid_report(entry: InvalidPipeline) -> PipelineReport:
    """The row of a pipeline that was refused on reading."""
    now = datetime.now(UTC)
    return PipelineReport(
        pipeline_id=entry.pipeline_id or "(no id)",
        where=entry.where,
        start_time=now,
        end_time=now,
        status="invalid",
        error=entry.error,
    )


async def _stage(stage: Stage, asked: Awaitable[Answer]) -> StageReport:
    try:
        answer = await asked
    except AgentError as error:
        reply = error.reply
        return StageReport(
            stage=stage,
            status="failed",
            error=str(error),
            error_class=error.error_class,
            answer=reply.text[:ANSWER_CHARACTERS] if reply else None,
            **_cost(reply),
        )
    failure = answer.error
    return StageReport(
        stage=stage,
        status="completed",
        source="fallback" if answer.because else "model",
        fallback_because=answer.because,
        recommendation=answer.recommendation,
        violations=answer.violations,
        rejected=answer.rejected,
        error=str(failure) if failure else None,
        error_class=failure.error_class if failure else None,
        **_cost(answer.reply),
    )


def _cost(reply: Reply | None) -> dict[str, Any]:
    if reply is None:
        return {}
    return reply.model_dump(include={"prompt_tokens", "output_tokens", "latency_s"})
