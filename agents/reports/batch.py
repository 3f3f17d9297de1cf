"""A run over pipelines of any number: client, orchestrator, traces and counts, each report handed on as it is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from agents.asking.endpoint.client import make_client
from agents.asking.endpoint.reply import ErrorClass
from agents.asking.requests import stage_request
from agents.asking.variant import PromptVariant
from agents.facts.pipeline_files import Entry, ReadPipeline
from agents.labels.policy import Policy
from agents.reports.approvals import EXPERIMENT, TraceMode, replace, trace_of, waiting_traces, wants_trace
from agents.reports.orchestrator import AgenticDataOrchestrator
from agents.reports.report import PipelineReport
from agents.reports.tally import Tally
from agents.specialists.registry import labels_for, specialists, stages
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

    endpoint: Endpoint | None
    """None: the rules decide, and nothing is asked."""
    variant: PromptVariant
    policy: Policy
    deadline_ms: float | None = None
    timeout_s: float = 120.0
    max_retries: int = 2
    concurrency: int = 16
    """Pipelines at a time; each asks one question or more for every specialist."""
    trace: TraceMode = TraceMode.AUTO

    def condition(self) -> dict[str, object]:
        """What every output stands under; `simulated` tells that no model wrote the answers."""
        rules = {
            "policy": self.policy.name,
            "policy_digest": digest(self.policy.model_dump_json()),
            "actions_digest": digest("".join(a.model_dump_json() for one in specialists() for a in one.catalogue)),
        }
        if self.endpoint is None:
            return {"by": "rules", "simulated": False, **rules}
        return {
            "by": "model",
            "endpoint": self.endpoint.base_url,
            "model": self.endpoint.model,
            "simulated": self.endpoint.simulated,
            "prompt": f"{self.variant.name} v{self.variant.version}",
            "prompt_digest": digest(self.variant.model_dump_json()),
            **rules,
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


async def decide_all(setup: Setup, entries: Iterable[Entry], on_ended: OnEnded, *, small: bool) -> Outcome:
    """Every entry gets its report, which on_ended is given as soon as it is ready and traced.

    small: a run whose every pipeline is worth a trace under TraceMode.AUTO.
    """
    tally, traces = Tally(), _Traces(setup, small=small)

    async def ended(number: int, entry: Entry, report: PipelineReport) -> None:
        report = await traces.traced(entry, report)
        tally.add(report)
        on_ended(number, entry, report)

    try:
        if not small and setup.trace is not TraceMode.NONE:
            await traces.open()  # a store that is not there is told before hours of work
        async with AsyncExitStack() as stack:
            client = None
            if setup.endpoint:
                client = await stack.enter_async_context(
                    make_client(
                        setup.endpoint,
                        timeout_s=setup.timeout_s,
                        max_retries=setup.max_retries,
                        concurrency=setup.concurrency * len(stages()),
                    )
                )
            orchestrator = AgenticDataOrchestrator(
                client,
                setup.endpoint.model if setup.endpoint else None,
                setup.variant,
                setup.policy,
                deadline_s=None if setup.deadline_ms is None else setup.deadline_ms / 1000,
                reports_kept=0,  # each is handed on; keeping them would cost memory in a long run
            )
            await orchestrator.process_each(entries, ended, concurrency=setup.concurrency)
    finally:
        traces.close()
    return Outcome(tally, traces.problem, traces.failures_untraced)


class _Traces:
    """Writes the traces that are wanted, one at a time beside the event loop, and takes off the list of what waits
    those of pipelines that are decided again."""

    def __init__(self, setup: Setup, *, small: bool) -> None:
        self.setup = setup
        self.small = small
        self.problem: str | None = None
        self.failures_untraced = 0
        self._failures = 0
        self._log: TraceLog | None = None
        self._waiting: dict[str, list[str]] = {}
        """By pipeline, the traces of earlier runs that wait for a person; read once, when the run begins to write."""
        self._thread = ThreadPoolExecutor(1, "traces")

    async def open(self) -> None:
        """Reach the store. Raises CannotJudge."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._opened)

    async def traced(self, entry: Entry, report: PipelineReport) -> PipelineReport:
        """The report with its trace's id, if it is to have one."""
        if self.problem or self.setup.trace is TraceMode.NONE:
            return report
        wanted = wants_trace(report, self.setup.trace, batch=not self.small)
        if wanted and self._is_one_failure_too_many(report):
            self.failures_untraced += 1
            wanted = False
        if not wanted and report.pipeline_id not in self._waiting:
            return report
        try:
            loop = asyncio.get_running_loop()
            trace_id = await loop.run_in_executor(self._thread, self._write, entry, report, wanted)
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
            log = TraceLog(EXPERIMENT)
            simulated = self.setup.endpoint is not None and self.setup.endpoint.simulated
            self._waiting = waiting_traces(log, simulated_only=simulated)
            self._log = log
        return self._log

    def _write(self, entry: Entry, report: PipelineReport, wanted: bool) -> str | None:
        log, trace_id = self._opened(), None
        if wanted:
            spec = entry.spec if isinstance(entry, ReadPipeline) else None
            trace_id = log.write(trace_of(report, spec, self._messages(entry, report), self.setup.condition()))
        if report.status == "completed" or (trace_id and report.requires_approval):
            for earlier in self._waiting.pop(report.pipeline_id, []):
                replace(log, earlier)
        return trace_id

    def _messages(self, entry: Entry, report: PipelineReport) -> Mapping[str, list[dict[str, Any]]]:
        """What was asked, rendered once more: keeping every prompt until its report is ready would cost memory."""
        endpoint = self.setup.endpoint
        if endpoint is None or not isinstance(entry, ReadPipeline) or not report.stages:
            return {}
        labels = labels_for(entry.spec, self.setup.policy)
        return {
            told.stage: stage_request(told.stage, entry.spec, self.setup.variant, labels, endpoint.model).body[
                "messages"
            ]
            for told in report.stages
            if told.error_class is not ErrorClass.BAD_INPUT
        }

    def close(self) -> None:
        """Wait for the trace under way."""
        self._thread.shutdown()
