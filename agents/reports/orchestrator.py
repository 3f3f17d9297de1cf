"""The orchestrator: local rules give the labels, all specialists decide at once, every pipeline gets its report."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from agents.asking.endpoint.client import ChatClient
from agents.asking.endpoint.reply import AgentError, Reply
from agents.asking.variant import PromptVariant
from agents.deciding.agent import (
    Answer,
    DataIngestionAgent,
    DataQualityAgent,
    Decider,
    InfrastructureOptimizationAgent,
    LightweightLLMAgent,
)
from agents.deciding.approval import approval_reasons
from agents.deciding.rules_agent import RulesAgent
from agents.facts.pipeline_files import Entry, InvalidPipeline
from agents.facts.spec import PipelineSpec
from agents.labels.policy import DEFAULT_POLICY, Policy, ask_below_for, load_policy, policy_for
from agents.reports.report import PipelineReport, StageReport
from agents.specialists.registry import Labels, labels_for, specialist_of, specialists, stages
from agents.specialists.wording import actions_in_words, choice_in_words
from common.console import BadInput

OnReport = Callable[[int, Entry, PipelineReport], Awaitable[None]]
"""Gets an entry's number (from 0), the entry and its report."""

REPORTS_KEPT = 10_000
"""Reports an orchestrator remembers for its summary unless told otherwise: the newest."""

ANSWER_CHARACTERS = 16_000
"""Of an answer that cannot be used, how much is kept: a decision has some 150."""

_AGENTS = {agent.stage: agent for agent in (DataIngestionAgent, DataQualityAgent, InfrastructureOptimizationAgent)}


class AgenticDataOrchestrator:
    """Runs pipelines through all specialists, which share one client and one endpoint, or through the rules alone."""

    def __init__(
        self,
        client: ChatClient | None,
        model: str | None,
        prompt: PromptVariant | None = None,
        policy: Policy | None = None,
        *,
        deadline_s: float | None = None,
        reports_kept: int = REPORTS_KEPT,
    ) -> None:
        """client, model: None for both lets the rules decide, without an endpoint."""
        self.policy = policy or load_policy(DEFAULT_POLICY)
        self.deadline_s = deadline_s
        self.deciders = {stage: self._decider(stage, client, model, prompt) for stage in stages()}
        self.reports: deque[PipelineReport] = deque(maxlen=reports_kept)

    def _decider(
        self, stage: str, client: ChatClient | None, model: str | None, prompt: PromptVariant | None
    ) -> Decider:
        if client is None or model is None:
            return RulesAgent(self.policy, stage)
        return _AGENTS.get(stage, LightweightLLMAgent)(client, model, prompt, self.policy, stage=stage)

    async def process_data_pipeline(self, spec: PipelineSpec, where: str | None = None) -> PipelineReport:
        """Label one pipeline by the rules and have all specialists decide concurrently.

        Never raises for what the input, an agent or the endpoint does: a stage that failed is a row with its error.
        What the model has not answered within deadline_s the rules decide.
        """
        start_time = datetime.now(UTC)
        try:
            labels = labels_for(spec, self.policy)
            ask_below = ask_below_for(self.policy, policy_for(spec, self.policy))
        except BadInput as error:
            refused = InvalidPipeline(spec.id, where or spec.id, f"{where or spec.id}: {error}")
            return self._kept(invalid_report(refused))
        done = await self._stages(spec, labels)
        failed = [stage for stage in done if stage.status == "failed"]
        decisions = [(stage.stage, stage.decision) for stage in done if stage.decision]
        reasons = approval_reasons(labels, decisions, ask_below)
        report = PipelineReport(
            pipeline_id=spec.id,
            where=where,
            start_time=start_time,
            end_time=datetime.now(UTC),
            status="completed" if not failed else "partial" if len(failed) < len(done) else "failed",
            labels={label.kind: label for label in labels.values() if label},
            stages=done,
            # Where nothing was decided there is nothing to approve, however grave the label.
            requires_approval=bool(reasons and decisions),
            approval_reasons=tuple(reasons),
            error="; ".join(f"{stage.stage}: {stage.error}" for stage in failed) or None,
        )
        return self._kept(report)

    async def _stages(self, spec: PipelineSpec, labels: Labels) -> tuple[StageReport, ...]:
        """All specialists at once, in their order."""
        until_s = None if self.deadline_s is None else asyncio.get_running_loop().time() + self.deadline_s
        deciding = (
            _stage(stage, spec, labels, decider.decide(spec, labels, until_s=until_s))
            for stage, decider in self.deciders.items()
        )
        return tuple(await asyncio.gather(*deciding))

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


def summary(reports: Iterable[PipelineReport]) -> pd.DataFrame:
    """One row per report: Pipeline ID, Start Time, Status, Stages Completed, a column for each kind of label,
    From Rules, Unlike Rules, Needs Approval, Error.

    From Rules counts the stages that the rules decided, Unlike Rules those where a model decided otherwise than they
    would have. A pipeline whose input was refused has the labels UNKNOWN: nothing is known of it.
    """
    kinds = [one.label.kind for one in specialists() if one.label]
    columns = [
        *("Pipeline ID", "Start Time", "Status", "Stages Completed"),
        *(kind.title() for kind in kinds),
        *("From Rules", "Unlike Rules", "Needs Approval", "Error"),
    ]
    rows = [
        [
            *(report.pipeline_id, report.start_time, report.status, report.stages_completed),
            *(report.labels[kind].value if kind in report.labels else "UNKNOWN" for kind in kinds),
            sum(stage.decision is not None and stage.decision.by == "rules" for stage in report.stages),
            sum(stage.differs for stage in report.stages),
            "yes" if report.requires_approval else "no",
            report.error or "",
        ]
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


async def _stage(stage: str, spec: PipelineSpec, labels: Labels, deciding: Awaitable[Answer]) -> StageReport:
    try:
        answer = await deciding
    except AgentError as error:
        replies: tuple[Reply, ...] = (error.reply,) if error.reply else ()
        return StageReport(
            stage=stage,
            status="failed",
            error=str(error),
            error_class=error.error_class,
            answer=_words(replies),
            **_cost(replies),
        )
    came = answer.model
    last_words = answer.error.reply if answer.error else None
    replies = came.replies if came else tuple(filter(None, [last_words]))
    return StageReport(
        stage=stage,
        status="completed",
        decision=answer.decision,
        told=_told(stage, answer, spec, labels),
        rules=answer.rules,
        because=answer.because,
        model=came.decision if came and answer.because else None,
        problem=answer.problem,
        note_dropped=came.note_dropped if came else None,
        error=str(answer.error) if answer.error else None,
        error_class=answer.error.error_class if answer.error else None,
        answer=_words(replies) if answer.because in {"unusable", "endpoint"} else None,
        **_cost(replies),
    )


def _told(stage: str, answer: Answer, spec: PipelineSpec, labels: Labels) -> tuple[str, ...]:
    specialist = specialist_of(stage)
    return (
        choice_in_words(specialist, answer.decision.choice.id),
        *actions_in_words(specialist, answer.decision, spec, labels[stage]),
    )


def _words(replies: Iterable[Reply]) -> str | None:
    return "\n".join(reply.text for reply in replies)[:ANSWER_CHARACTERS] or None


def _cost(replies: Sequence[Reply]) -> dict[str, Any]:
    """Tokens and seconds over all requests of a stage; None where one of them does not say."""
    if not replies:
        return {}
    counts = {
        name: None if None in values else sum(value for value in values if value is not None)
        for name in ("prompt_tokens", "cached_tokens", "output_tokens")
        for values in [[getattr(reply, name) for reply in replies]]
    }
    # The questions of a stage are asked at once.
    return {**counts, "latency_s": max(reply.latency_s for reply in replies)}
