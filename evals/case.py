"""A case: one pipeline, one stage, and what a right recommendation must and must not say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from agents.facts.spec import PipelineSpec
from agents.lexicon import LEXICON_PATH, phrases
from agents.schema import IngestionMode, Stage
from common.console import BadInput, shorten
from common.located import describe
from common.strict import Name, Strict

CURATED = Path(__file__).parent / "cases" / "curated.jsonl"
"""The cases kept in the repository."""

Difficulty = Literal["easy", "medium", "hard"]


class Case(Strict):
    """One question with a known answer."""

    id: Name
    row: int | None = Field(None, ge=1, le=34)
    """Row of the oracle table (docs/oracle.md) the case was made from; None for a case of one's own."""
    family: Name
    """Cases of one family are related: intervals resample whole families. Generated: one a row, such as `row-07`."""
    source: str
    """Where the truth comes from, as the oracle table names it."""
    stage: Stage
    spec: PipelineSpec
    difficulty: Difficulty = "medium"
    pair: Name | None = None
    """The id of its near miss: the case that differs in one fact, which flips the right answer."""
    acceptable_modes: tuple[IngestionMode, ...] = Field((), strict=False)
    """Ingestion modes that are right; empty for the other stages."""
    unacceptable_modes: tuple[IngestionMode, ...] = Field((), strict=False)
    """Ingestion modes that are wrong; what is in neither is debatable and does not count."""
    acceptable_labels: tuple[str, ...] = Field((), strict=False)
    """Severities or priorities that are right, whatever policy gives them; empty for ingestion."""
    required: tuple[str, ...] = Field((), strict=False)
    """Concepts of the lexicon that a good answer mentions."""
    forbidden: tuple[str, ...] = Field((), strict=False)
    """Concepts of the lexicon that a good answer does not recommend."""
    of: Name | None = None
    """The id of the case that this one was made from by `relation`."""
    relation: Name | None = None
    """The metamorphic relation (evals/metamorphic.py) between the two; such a case counts in no leaderboard."""

    @field_validator("required", "forbidden")
    @classmethod
    def _in_the_lexicon(cls, concepts: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [concept for concept in concepts if concept not in phrases()]:
            raise ValueError(f"concept {shorten(unknown[0], 60)!r} is not in {LEXICON_PATH.name}")
        return concepts


def curated_cases() -> list[Case]:
    """The cases that come with Plumbline: checked by hand, every row of the oracle table among them."""
    return load_cases(CURATED)


def load_cases(path: Path) -> list[Case]:
    """Cases from a JSONL file, one a line. Raises BadInput naming file, line and field."""
    cases: dict[str, Case] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        case = _read(line, f"{path}:{number}")
        if case.id in cases:
            raise BadInput(
                f"{path}:{number}: id: {shorten(case.id, 80)!r} stands in line {lines[case.id]} too; ids must differ"
            )
        cases[case.id], lines[case.id] = case, number
    if not cases:
        raise BadInput(f"{path}: holds no case")
    for case in cases.values():
        if problem := _loose_end(case, cases):
            raise BadInput(f"{path}:{lines[case.id]}: {problem}")
    return list(cases.values())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").split("\n")  # not splitlines(): JSON strings may hold U+2028
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: is not UTF-8 text (byte {error.start})") from None


def _read(line: str, where: str) -> Case:
    try:
        return Case.model_validate_json(line)
    except ValidationError as error:
        lacks_family = any(one["type"] == "missing" and one["loc"] == ("family",) for one in error.errors())
        hint = "; family names the cases that are related, such as those of one system" if lacks_family else ""
        raise BadInput(describe(error, Case, where) + hint) from None


def _loose_end(case: Case, cases: Mapping[str, Case]) -> str | None:
    """What is wrong with the ids that a case names."""
    for field, named in (("pair", case.pair), ("of", case.of)):
        if named is not None and (named == case.id or named not in cases):
            return f"{field}: found {shorten(named, 80)!r}; must be the id of another case in this file"
    if case.pair is not None and (back := cases[case.pair].pair) != case.id:
        told = "none" if back is None else repr(shorten(back, 80))
        return f"pair: {shorten(case.pair, 80)!r} names {told} as its own pair; two cases of a pair name each other"
    return None


def dump_cases(cases: Iterable[Case]) -> str:
    """Cases as JSONL; the same cases give the same bytes."""
    return "".join(case.model_dump_json(exclude_defaults=True) + "\n" for case in cases)
