"""A run over pipelines of any number: client, orchestrator, traces and counts, each report handed on as it is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from agents.asking.client import ClientKind, make_client
from agents.asking.requests import stage_request
from agents.asking.variant import PromptVariant
from agents.facts.pipeline_files import Entry, ReadPipeline
from agents.guardrails import GuardrailMode
from agents.labels.policy import Policy
from agents.reports.approvals import EXPERIMENT, TraceMode, replace, trace_of, wants_trace
from agents.reports.orchestrator import AgenticDataOrchestrator
from agents.reports.tally import Tally
from agents.schema import ErrorClass, PipelineReport, Stage
from common.console import PlumblineError
from serving.endpoint import Endpoint
from tracking.runs import digest
from tracking.traces import TraceLog

SMALL_RUN = 20
"""Up to so many pipelines each one is shown, and each is a trace."""
FAILURES_TRACED = 100
"""In a longer run: an endpoint that is down fails everything, and each trace costs the store some 40 ms."""


@dataclass(frozen=True)
class Setup:
    """How the pipelines of a run are treated: what its rows stand under."""

    endpoint: Endpoint
    variant: PromptVariant
    policy: Policy
    guardrails: GuardrailMode = GuardrailMode.ENFORCE
    deadline_ms: float | None = None
    timeout_s: float = 120.0
    max_retries: int = 2
    concurrency: int = 16
    """Pipelines at a time; each asks for three answers."""
    client: ClientKind = "lean"
    trace: TraceMode = TraceMode.AUTO

    def condition(self) -> dict[str, object]:
        """What every output stands under; `simulated` tells that no model wrote the answers."""
        return {
            "endpoint": self.endpoint.base_url,
            "model": self.endpoint.model,
            "simulated": self.endpoint.simulated,
            "prompt": f"{self.variant.name} v{self.variant.version}",
            "prompt_digest": digest(self.variant.model_dump_json()),
            "policy": self.policy.name,
            "policy_digest": digest(self.policy.model_dump_json()),
            "guardrails": self.guardrails.value,
            "deadline_ms": self.deadline_ms,
        }


OnEnded = Callable[[int, Entry, PipelineReport], None]
"""Gets an entry's number (from 0), the entry and its report."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    tally: Tally
    trace_problem: str | None
    """Why traces that were wanted are missing."""
    failures_untraced: int
    """Failed pipelines of a long run beyond FAILURES_TRACED; their rows are all there is."""


async def ask_all(
    setup: Setup,
    entries: Iterable[Entry],
    on_ended: OnEnded,
    *,
    small: bool,
    earlier_trace: Callable[[Entry], str | None] = lambda _entry: None,
) -> Outcome:
    """Every entry gets its report, which on_ended is given as soon as it is ready and traced.

    small: a run whose every pipeline is worth a trace under TraceMode.AUTO. earlier_trace: the trace of an earlier run
    in which the same pipeline waits, and which its new report replaces.
    """
    tally, traces = Tally(), _Traces(setup, earlier_trace, small=small)

    async def ended(number: int, entry: Entry, report: PipelineReport) -> None:
        report = await traces.traced(entry, report)
        tally.add(report)
        on_ended(number, entry, report)

    client = make_client(
        setup.endpoint,
        setup.client,
        timeout_s=setup.timeout_s,
        max_retries=setup.max_retries,
        concurrency=setup.concurrency * len(Stage),
    )
    try:
        if not small and setup.trace is not TraceMode.NONE:
            await traces.open()  # a store that is not there is told before hours of work
        async with client:
            orchestrator = AgenticDataOrchestrator(
                client,
                setup.endpoint.model,
                setup.variant,
                setup.policy,
                guardrails=setup.guardrails,
                deadline_s=None if setup.deadline_ms is None else setup.deadline_ms / 1000,
                reports_kept=0,  # each is handed on; keeping them would cost memory in a long run
            )
            await orchestrator.process_each(entries, ended, concurrency=setup.concurrency)
    finally:
        traces.close()
    return Outcome(tally, traces.problem, traces.failures_untraced)


class _Traces:
    """Writes the traces that are wanted, one at a time beside the event loop."""

    def __init__(self, setup: Setup, earlier_trace: Callable[[Entry], str | None], *, small: bool) -> None:
        self.setup = setup
        self.earlier_trace = earlier_trace
        self.small = small
        self.problem: str | None = None
        self.failures_untraced = 0
        self._failures = 0
        self._log: TraceLog | None = None
        self._thread = ThreadPoolExecutor(1, "traces")

    async def open(self) -> None:
        """Reach the store. Raises CannotJudge."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._opened)

    async def traced(self, entry: Entry, report: PipelineReport) -> PipelineReport:
        """The report with its trace's id, if it is to have one; an earlier trace of the pipeline waits no longer."""
        if self.problem or self.setup.trace is TraceMode.NONE:
            return report
        wanted = wants_trace(report, self.setup.trace, batch=not self.small)
        if wanted and self._is_one_failure_too_many(report):
            self.failures_untraced += 1
            wanted = False
        earlier = self.earlier_trace(entry)
        if not wanted and not earlier:
            return report
        try:
            loop = asyncio.get_running_loop()
            trace_id = await loop.run_in_executor(self._thread, self._write, entry, report, wanted, earlier)
        except PlumblineError as error:
            # The answers were paid for: the run goes on, and tells at its end what its traces lack.
            self.problem = str(error)
            return report
        return report.model_copy(update={"trace_id": trace_id})

    def _is_one_failure_too_many(self, report: PipelineReport) -> bool:
        if self.small or self.setup.trace is TraceMode.ALL or report.requires_approval:
            return False
        self._failures += 1
        return self._failures > FAILURES_TRACED

    def _opened(self) -> TraceLog:
        if self._log is None:
            self._log = TraceLog(EXPERIMENT)
        return self._log

    def _write(self, entry: Entry, report: PipelineReport, wanted: bool, earlier: str | None) -> str | None:
        log, trace_id = self._opened(), None
        if wanted:
            spec = entry.spec if isinstance(entry, ReadPipeline) else None
            trace_id = log.write(trace_of(report, spec, self._messages(entry, report), self.setup.condition()))
        if earlier:
            replace(log, earlier)
        return trace_id

    def _messages(self, entry: Entry, report: PipelineReport) -> Mapping[Stage, list[dict[str, Any]]]:
        """What was asked, rendered once more: keeping every prompt until its report is ready would cost memory."""
        if not isinstance(entry, ReadPipeline) or not report.stages:
            return {}
        labels = {Stage.INGESTION: None, Stage.QUALITY: report.severity, Stage.INFRASTRUCTURE: report.priority}
        variant, model = self.setup.variant, self.setup.endpoint.model
        return {
            stage: stage_request(stage, entry.spec, variant, labels, model).body["messages"]
            for stage, told in zip(Stage, report.stages, strict=True)
            if told.error_class is not ErrorClass.BAD_INPUT
        }

    def close(self) -> None:
        """Wait for the trace under way."""
        self._thread.shutdown()
