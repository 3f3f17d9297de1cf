"""What MLflow keeps of single samples: all of them in one Parquet file a variant, a few of them to look at.

Samples and scores are read once, in the plan's order, and never held as a whole: 100 000 of them must fit.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from hashlib import sha256
from mmap import ACCESS_READ, mmap
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import parquet

from agents.specialists.decision import Decision
from common.console import CannotJudge
from evals.by_rules import decided_by_rules
from evals.case import Case
from evals.decision_words import groups_in_words
from evals.gate_rules import HEADLINE
from evals.run_folder import RunFolder
from evals.sample import Sample
from evals.scoring import sample_starts, scores

MOST_WORST = 100
MOST_FAILED = 100
"""Traces of failures: a storm of errors says the same thing a thousand times, at 30 ms each."""
SAMPLED = 25
"""Answers drawn for traces, whatever their scores; over all variants, at least one of each."""
_GROUP = 1000
_GROUP_CHARACTERS = 4_000_000
"""Rows, or characters of answers, that are held until they are written together."""
_SHOWN_CHARACTERS = 8000
"""Of an answer that is held to be looked at; samples.parquet has it whole."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sample with what it is about and what scorers said of it."""

    case: Case
    sample: Sample
    scores: Mapping[str, Mapping[str, Any]]
    """As in scores.jsonl; empty where no answer came."""
    rules: Decision
    """What the rules decide on this case, under the variant's policy."""

    @property
    def from_cache(self) -> bool:
        """Whether an answer was not asked for in this run: its latency is not of this run."""
        return any(reply.tries == 0 for reply in self.sample.replies)

    @property
    def latency_s(self) -> float | None:
        """Over all replies; None where there is none, or one is from the cache."""
        if not self.sample.replies or self.from_cache:
            return None
        return sum(reply.latency_s for reply in self.sample.replies)

    def tokens(self, kind: str) -> int | None:
        """Over all replies; None where the endpoint did not say. kind: `prompt_tokens` or `output_tokens`."""
        counts = [getattr(reply, kind) for reply in self.sample.replies]
        return sum(counts) if counts and None not in counts else None

    @property
    def answer(self) -> str | None:
        """What the model wrote, its last reply; the decision read from it is in `sample`."""
        return self.sample.replies[-1].text if self.sample.replies else None

    @property
    def as_rules(self) -> bool | None:
        """Whether the model decided as the rules do; None where it decided nothing."""
        return self.sample.decision.agrees_with(self.rules) if self.sample.decision else None

    def to_look_at(self) -> Row:
        """The same with no reply longer than anybody reads, an endpoint may send megabytes, and without its tokens."""
        cut = (
            reply.model_copy(update={"text": reply.text[:_SHOWN_CHARACTERS], "logprobs": None})
            for reply in self.sample.replies
        )
        return replace(self, sample=self.sample.model_copy(update={"replies": tuple(cut)}))


def rows(folder: RunFolder) -> Iterator[Row]:
    """Every sample that has its line in scores.jsonl, in the plan's order.

    Raises CannotJudge when a sample was scored that is no longer there.
    """
    if not folder.samples_path.stat().st_size:
        return  # and an empty file cannot be mapped
    starts, rules_of = sample_starts(folder), _Rules(folder)
    # Mapped, since samples lie in another order: to seek and read a line each costs twenty times as much.
    with folder.samples_path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as lines:
        for row in scores(folder):
            start = int(starts[row["index"]])
            if start < 0:
                told = f"{folder.samples_path}: sample {row['index']} was scored and is not there"
                raise CannotJudge(f"{told}; score it anew: python -m evals rescore {folder.path}")
            sample = Sample.model_validate_json(lines[start : lines.find(b"\n", start)])
            number, which, _ = folder.plan.place(sample.index)
            yield Row(folder.cases[number], sample, row["scores"], rules_of(number, which))


class _Rules:
    """The rules' decisions, each worked out once for all samples of its case: rows come case by case."""

    def __init__(self, folder: RunFolder) -> None:
        self._cases = folder.cases
        self._policies = folder.plan.policies
        self._case = -1
        self._decided: dict[str, Decision] = {}

    def __call__(self, number: int, variant: int) -> Decision:
        if number != self._case:
            self._case, self._decided = number, {}
        policy = self._policies[variant]
        if policy.name not in self._decided:
            labels = self._cases.labels(number, policy)
            self._decided[policy.name] = decided_by_rules(self._cases[number], labels)
        return self._decided[policy.name]


# --- the file --------------------------------------------------------------------------------------------


def columns(scorers: Iterable[str]) -> pa.Schema:
    """Names and types of samples.parquet; missing is null."""
    text, number, whole = pa.string(), pa.float64(), pa.int64()
    known = {
        "index": whole,
        "case_id": text,
        "family": text,
        "stage": text,
        "relation": text,
        "repeat": whole,
        "chosen": text,
        "chosen_probability": number,
        "picked": text,
        "picked_probabilities": pa.list_(number),
        "rests_on": text,
        "note": text,
        "problem": text,
        "rules_chosen": text,
        "rules_picked": text,
        "as_rules": pa.bool_(),
        "right_choices": text,
        "right_actions": text,
        "harmful_actions": text,
        "answer": text,
        "error": text,
        "error_class": text,
        "finish_reason": text,
        "prompt_tokens": whole,
        "output_tokens": whole,
        "latency_s": number,
        "from_cache": pa.bool_(),
    }
    for name in scorers:
        known |= {name: number, f"{name}_why": text}
    return pa.schema(list(known.items()))


def record_of(row: Row) -> dict[str, object]:
    """A row of samples.parquet. Units: seconds, tokens; scores and probabilities from 0 to 1. A list of names is one
    text, by commas; groups of right actions are parted by semicolons, alternatives within one by "or"."""
    sample, case, decision = row.sample, row.case, row.sample.decision
    record: dict[str, object] = {
        "index": sample.index,
        "case_id": case.id,
        "family": case.family,
        "stage": case.stage,
        "relation": case.relation,
        "repeat": sample.repeat,
        "chosen": decision.choice.id if decision else None,
        "chosen_probability": decision.choice.probability if decision else None,
        "picked": ", ".join(decision.ids) if decision else None,
        "picked_probabilities": [one.probability for one in decision.actions] if decision else None,
        "rests_on": ", ".join(decision.facts) if decision else None,
        "note": decision.note if decision else None,
        "problem": sample.problem,
        "rules_chosen": row.rules.choice.id,
        "rules_picked": ", ".join(row.rules.ids),
        "as_rules": row.as_rules,
        "right_choices": ", ".join(case.right_choices) or None,
        "right_actions": groups_in_words(case) or None,
        "harmful_actions": ", ".join(case.harmful_actions) or None,
        "answer": row.answer,
        "error": sample.error,
        "error_class": sample.error_class.value if sample.error_class else None,
        "finish_reason": sample.replies[-1].finish_reason if sample.replies else None,
        "prompt_tokens": row.tokens("prompt_tokens"),
        "output_tokens": row.tokens("output_tokens"),
        "latency_s": row.latency_s,
        "from_cache": row.from_cache,
    }
    for name, score in row.scores.items():
        record |= {name: score["value"], f"{name}_why": score["explanation"]}
    return record


class SampleFile:
    """A samples.parquet being written."""

    def __init__(self, path: Path, scorers: Iterable[str]) -> None:
        self.path = path
        self.rows = 0
        self._schema = columns(scorers)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._waiting: list[dict[str, object]] = []
        self._characters = 0

    def add(self, record: dict[str, object]) -> None:
        """One more row."""
        self._waiting.append(record)
        self._characters += len(str(record["answer"]))
        self.rows += 1
        if len(self._waiting) == _GROUP or self._characters > _GROUP_CHARACTERS:
            self._write()

    def _write(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=self._schema))
            self._waiting, self._characters = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        if kind is None:
            self._write()
        self._writer.close()


# --- the few to look at ----------------------------------------------------------------------------------


@dataclass
class First:
    """The rows with the smallest keys of all that were offered; holds at most twice the limit."""

    limit: int
    offered: int = 0
    _held: list[tuple[tuple[object, ...], Row]] = field(default_factory=list)

    def offer(self, key: tuple[object, ...], row: Row) -> None:
        """key: unique."""
        self.offered += 1
        self._held.append((key, row))
        if len(self._held) > 2 * self.limit:
            self._cut()

    @property
    def rows(self) -> list[Row]:
        """By key."""
        self._cut()
        return [row for _, row in self._held]

    def _cut(self) -> None:
        self._held = sorted(self._held, key=lambda one: one[0])[: self.limit]


@dataclass
class Gathered:
    """What one pass over a variant's samples leaves."""

    file: SampleFile
    scored: int = 0
    errored: int = 0
    from_cache: int = 0
    latencies_s: array[float] = field(default_factory=lambda: array("d"))
    """Of answers that are not from the cache."""
    prompt_tokens: array[int] = field(default_factory=lambda: array("q"))
    output_tokens: array[int] = field(default_factory=lambda: array("q"))
    worst: First = field(default_factory=lambda: First(MOST_WORST))
    failed: First = field(default_factory=lambda: First(MOST_FAILED))
    sampled: First = field(default_factory=lambda: First(SAMPLED))

    def add(self, row: Row) -> None:
        """One more sample."""
        self.file.add(record_of(row))
        self.from_cache += row.from_cache
        self._count_cost(row)
        index, row = row.sample.index, row.to_look_at()
        if row.sample.error is not None:
            self.errored += 1
            self.failed.offer((index,), row)
            return
        self.scored += 1
        self.sampled.offer((_drawn(index),), row)
        if HEADLINE in row.scores:
            self.worst.offer((row.scores[HEADLINE]["value"], index), row)

    def _count_cost(self, row: Row) -> None:
        if (latency_s := row.latency_s) is not None:
            self.latencies_s.append(latency_s)
        for kind, counts in (("prompt_tokens", self.prompt_tokens), ("output_tokens", self.output_tokens)):
            if (count := row.tokens(kind)) is not None:
                counts.append(count)


def _drawn(index: int) -> bytes:
    """A draw by a fixed seed that takes no account of how many samples there are."""
    return sha256(f"plumbline {index}".encode()).digest()


def gather(folder: RunFolder, scorers: Iterable[str], into: Path) -> dict[str, Gathered]:
    """Write every variant's samples.parquet, each in a folder of its own in `into`, and gather what else is logged."""
    names = tuple(scorers)
    with ExitStack() as files:
        drawn = max(1, SAMPLED // len(folder.plan.variants))
        found = {
            variant.name: Gathered(
                files.enter_context(SampleFile(into / str(number) / "samples.parquet", names)), sampled=First(drawn)
            )
            for number, variant in enumerate(folder.plan.variants)
        }
        for row in rows(folder):
            found[row.sample.variant].add(row)
    return found
