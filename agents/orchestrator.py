"""The orchestrator: local rules give the labels, three agents answer at once, every pipeline gets its report."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime

import pandas as pd
from openai import AsyncOpenAI

from agents.agent import (
    AgentError,
    Answer,
    DataIngestionAgent,
    DataQualityAgent,
    InfrastructureOptimizationAgent,
)
from agents.files import InvalidPipeline, ReadPipeline
from agents.policy import DEFAULT_POLICY, Policy, load_policy, priority, severity
from agents.prompt import PromptVariant
from agents.schema import PipelineReport, PipelineSpec, Stage, StageReport

Asks = Callable[[PipelineSpec], Awaitable[Answer]]


class AgenticDataOrchestrator:
    """Runs pipelines through the three agents, which share one client and so one endpoint."""

    def __init__(
        self,
        client: AsyncOpenAI,
        model: str,
        prompt: PromptVariant | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.policy = policy or load_policy(DEFAULT_POLICY)
        self.ingestion = DataIngestionAgent(client, model, prompt, self.policy)
        self.quality = DataQualityAgent(client, model, prompt, self.policy)
        self.infrastructure = InfrastructureOptimizationAgent(client, model, prompt, self.policy)
        self.reports: list[PipelineReport] = []

    async def process_data_pipeline(self, spec: PipelineSpec, where: str | None = None) -> PipelineReport:
        """Label one pipeline by the rules and ask all three agents concurrently.

        Never raises for what an agent or the endpoint does: a stage that failed is a row with its error.
        """
        start_time = datetime.now(UTC)
        stages = await asyncio.gather(
            _stage(Stage.INGESTION, self.ingestion.analyze_data_source, spec),
            _stage(Stage.QUALITY, self.quality.assess_quality, spec),
            _stage(Stage.INFRASTRUCTURE, self.infrastructure.optimize_infrastructure, spec),
        )
        failed = [stage for stage in stages if stage.status == "failed"]
        report = PipelineReport(
            pipeline_id=spec.id,
            where=where,
            start_time=start_time,
            end_time=datetime.now(UTC),
            status="completed" if not failed else "partial" if len(failed) < len(stages) else "failed",
            severity=severity(spec.quality_metrics, self.policy),
            priority=priority(spec.infrastructure_metrics, self.policy),
            stages=tuple(stages),
            error="; ".join(f"{stage.stage}: {stage.error}" for stage in failed) or None,
        )
        self.reports.append(report)
        return report

    async def process_all(
        self,
        entries: Iterable[ReadPipeline | InvalidPipeline],
        *,
        concurrency: int = 16,
        on_report: Callable[[PipelineReport], None] = lambda report: None,
    ) -> list[PipelineReport]:
        """A report for every entry, in the entries' order; at most `concurrency` pipelines at a time.

        on_report is called as each one ends. What was refused on reading comes back as status `invalid`.
        """
        gate = asyncio.Semaphore(concurrency)

        async def one(entry: ReadPipeline | InvalidPipeline) -> PipelineReport:
            if isinstance(entry, InvalidPipeline):
                report = invalid_report(entry)
                self.reports.append(report)
            else:
                async with gate:
                    report = await self.process_data_pipeline(entry.spec, entry.where)
            on_report(report)
            return report

        return list(await asyncio.gather(*(one(entry) for entry in entries)))

    def generate_summary_report(self) -> pd.DataFrame:
        """One row per pipeline so far; see summary() for the columns."""
        return summary(self.reports)


def summary(reports: Iterable[PipelineReport]) -> pd.DataFrame:
    """One row per report: Pipeline ID, Start Time, Status, Stages Completed, Severity, Priority, Error.

    A pipeline whose input was refused has the labels UNKNOWN: nothing is known of it.
    """
    columns = ["Pipeline ID", "Start Time", "Status", "Stages Completed", "Severity", "Priority", "Error"]
    rows = [
        (
            report.pipeline_id,
            report.start_time,
            report.status,
            report.stages_completed,
            report.severity.value if report.severity else "UNKNOWN",
            report.priority.value if report.priority else "UNKNOWN",
            report.error or "",
        )
        for report in reports
    ]
    return pd.DataFrame(rows, columns=columns)


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


async def _stage(stage: Stage, ask: Asks, spec: PipelineSpec) -> StageReport:
    try:
        answer = await ask(spec)
    except AgentError as error:
        reply = error.reply
        return StageReport(
            stage=stage,
            status="failed",
            error=str(error),
            answer=reply.text if reply else None,
            prompt_tokens=reply.prompt_tokens if reply else None,
            output_tokens=reply.output_tokens if reply else None,
            latency_s=reply.latency_s if reply else None,
        )
    return StageReport(
        stage=stage,
        status="completed",
        recommendation=answer.recommendation,
        prompt_tokens=answer.reply.prompt_tokens,
        output_tokens=answer.reply.output_tokens,
        latency_s=answer.reply.latency_s,
    )
