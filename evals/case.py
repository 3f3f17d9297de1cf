"""A case: one pipeline, one stage, and what a right recommendation must and must not say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError, field_validator

from agents.files import describe
from agents.lexicon import LEXICON_PATH, lexicon
from agents.schema import IngestionMode, Name, Stage, Strict
from agents.spec import PipelineSpec
from console import BadInput, shorten


class Case(Strict):
    """One question with a known answer."""

    id: Name
    row: int = Field(ge=1, le=34)
    """Row of the oracle table (docs/oracle.md) the case was made from; cases of one row are related."""
    source: str
    """Where the row's truth comes from, as the oracle table names it."""
    stage: Stage
    spec: PipelineSpec
    acceptable_modes: tuple[IngestionMode, ...] = Field((), strict=False)
    """Ingestion modes that are right; empty for the other stages."""
    unacceptable_modes: tuple[IngestionMode, ...] = Field((), strict=False)
    """Ingestion modes that are wrong; what is in neither is debatable and does not count."""
    required: tuple[str, ...] = Field((), strict=False)
    """Concepts of the lexicon that a good answer mentions."""
    forbidden: tuple[str, ...] = Field((), strict=False)
    """Concepts of the lexicon that a good answer does not recommend."""

    @field_validator("required", "forbidden")
    @classmethod
    def _in_the_lexicon(cls, concepts: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [concept for concept in concepts if concept not in lexicon()]:
            raise ValueError(f"concept {shorten(unknown[0], 60)!r} is not in {LEXICON_PATH.name}")
        return concepts


def load_cases(path: Path) -> list[Case]:
    """Cases from a JSONL file, one a line. Raises BadInput naming file and line."""
    try:
        lines = path.read_text("utf-8-sig").split("\n")  # not splitlines(): JSON strings may hold U+2028
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: is not UTF-8 text (byte {error.start})") from None
    cases: dict[str, Case] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            case = Case.model_validate_json(line)
        except ValidationError as error:
            raise BadInput(describe(error, Case, f"{path}:{number}")) from None
        if case.id in cases:
            raise BadInput(f"{path}:{number}: id: {case.id!r} stands twice; ids must differ")
        cases[case.id] = case
    if not cases:
        raise BadInput(f"{path}: holds no case")
    return list(cases.values())


def dump_cases(cases: Sequence[Case]) -> str:
    """Cases as JSONL; the same cases give the same bytes."""
    return "".join(case.model_dump_json(exclude_defaults=True) + "\n" for case in cases)
