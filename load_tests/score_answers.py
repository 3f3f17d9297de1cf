"""Scoring decisions while the server is under load: by the evaluation's headline score, in a process of its own.

    python -m load_tests.score_answers POLICY PROMPT      a line of JSON in per answer, a number out, in the same order

It takes some milliseconds an answer, in which the sender could not stamp a packet. Unscored is not wrong: an answer
that is not scored, since the test was cut or the scoring failed, has no headline.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from common.console import say
from load_tests.sse import RequestRecord, Status

if TYPE_CHECKING:  # a second to import, which the sender need not spend
    from agents.asking.variant import PromptVariant
    from agents.labels.policy import Policy
    from evals.case import Case

_ROOT = Path(__file__).resolve().parent.parent
_LEAST_URGENT = 19
Keep = Callable[[RequestRecord], None]


class Scoring:
    """A running scorer; rows wait here for their score."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._waiting: deque[tuple[RequestRecord, Keep]] = deque()
        self._over = False
        self._reading = asyncio.get_running_loop().create_task(self._read())

    @classmethod
    async def begin(cls, policy: str, prompt: str) -> Scoring:
        """Start the process. policy, prompt: as the profile names them."""
        argv = [sys.executable, "-m", "load_tests.score_answers", policy, prompt]
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*argv, cwd=_ROOT, stdin=pipe, stdout=pipe))

    def take(self, record: RequestRecord, case: Case | None, text: str, keep: Keep) -> bool:
        """Have an answer scored and then kept; False when it is not to be scored, and the caller's to keep."""
        if case is None or record.status is not Status.OK or self._over or self._process.stdin is None:
            return False
        asked = {"case": case.model_dump(mode="json"), "raw": text, "finish_reason": record.finish_reason}
        self._waiting.append((record, keep))
        self._process.stdin.write(orjson.dumps(asked) + b"\n")
        return True

    async def finish(self) -> None:
        """Wait until every answer is scored and kept."""
        if self._process.stdin:
            self._process.stdin.close()
        await self._reading

    def give_up(self) -> None:
        """Score no more: what waits is kept without a score."""
        if self._process.returncode is None:
            self._process.kill()

    async def _read(self) -> None:
        while self._process.stdout and (line := await self._process.stdout.readline()):
            record, keep = self._waiting.popleft()
            keep(replace(record, headline=orjson.loads(line)))
        self._over = True
        if self._waiting:
            say(f"{len(self._waiting)} answers are not scored: the scoring ended before them")
        while self._waiting:
            record, keep = self._waiting.popleft()
            keep(record)
        await self._process.wait()


def main(policy_name: str, prompt_name: str) -> None:
    """Score each line until there are no more."""
    os.nice(_LEAST_URGENT)  # the measurement goes first
    from agents.asking.variant import load_prompt
    from agents.labels.policy import load_policy
    from evals.case import Case

    policy, variant = load_policy(policy_name), load_prompt(prompt_name)
    for line in sys.stdin.buffer:
        asked = orjson.loads(line)
        case = Case.model_validate_json(orjson.dumps(asked["case"]))
        score = headline_of(case, asked["raw"], asked["finish_reason"], variant, policy)
        sys.stdout.buffer.write(orjson.dumps(score) + b"\n")
        sys.stdout.buffer.flush()


def headline_of(case: Case, raw: str, finish_reason: str | None, variant: PromptVariant, policy: Policy) -> float:
    """What the evaluation gives for an answer to a case. raw: the answer's text."""
    from agents.asking.endpoint.reply import Reply
    from agents.asking.question import question_for
    from agents.asking.ways.write import Unusable, read_written
    from evals.labels import case_labels
    from evals.sample import Sample
    from evals.scorers import score_all
    from evals.scoring import answered

    labels = case_labels(case, policy)
    question = question_for(variant, case.stage, case.spec, labels[case.stage])
    reply = Reply(text=raw, finish_reason=finish_reason or "", prompt_tokens=None, output_tokens=None, latency_s=0.0)
    sample = Sample(index=0, variant=variant.name, case_id=case.id, repeat=0, request="", replies=(reply,))
    try:
        decision, _ = read_written(variant, question, reply)
        sample = sample.model_copy(update={"decision": decision})
    except Unusable as problem:
        sample = sample.model_copy(update={"problem": str(problem)})
    return score_all(answered(case, sample, labels))["headline"].value


if __name__ == "__main__":
    main(*sys.argv[1:])
