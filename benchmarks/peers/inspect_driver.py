"""inspect_ai on the rows: its openai-api provider, 256 connections, no display, no live log, three scorers.

log_realtime is off, which its users were told to switch off for speed (its issue 3173): the default is dearer.
"""

from __future__ import annotations

import os
from typing import Any

from inspect_ai import Task, eval  # type: ignore[import-not-found]
from inspect_ai.dataset import MemoryDataset, Sample  # type: ignore[import-not-found]
from inspect_ai.model import (  # type: ignore[import-not-found]
    ChatMessageSystem,
    ChatMessageUser,
)
from inspect_ai.scorer import Score, mean, scorer  # type: ignore[import-not-found]
from inspect_ai.solver import solver  # type: ignore[import-not-found]

from benchmarks.peers.work import SCORERS, Row, done, job, read_rows

_CONNECTIONS = 256
_MESSAGES = {"system": ChatMessageSystem, "user": ChatMessageUser}


def main() -> None:
    """Run one task over all rows; its log has every sample."""
    work = job()
    os.environ |= {"PEER_BASE_URL": work.base_url, "PEER_API_KEY": "EMPTY"}
    samples = [sample(row) for row in read_rows(work.rows)]
    logs = eval(
        Task(dataset=MemoryDataset(samples), solver=asked(), scorer=[scored_by(name)() for name in SCORERS]),
        model=f"openai-api/peer/{work.model}",
        max_connections=_CONNECTIONS,
        max_samples=_CONNECTIONS,
        display="none",
        log_realtime=False,
        log_dir=str(work.folder),
    )
    done(logs[0].results.completed_samples if logs[0].status == "success" else 0)


def sample(row: Row) -> Any:
    """A row as inspect's sample; what goes with the request travels as metadata."""
    messages = [_MESSAGES[one["role"]](content=one["content"]) for one in row.messages]
    return Sample(id=row.id, input=messages, metadata={"options": row.options, "words": row.words})


def _asked() -> Any:
    async def solve(state: Any, generate: Any) -> Any:
        return await generate(state, extra_body=state.metadata["options"])

    return solve


asked = solver(_asked)


def scored_by(name: str) -> Any:
    """One of the plain scorers as inspect's."""

    def made() -> Any:
        async def score(state: Any, _target: Any) -> Any:
            return Score(value=SCORERS[name](state.output.completion, state.metadata["words"]))

        return score

    return scorer(metrics=[mean()], name=name)(made)


if __name__ == "__main__":
    main()
