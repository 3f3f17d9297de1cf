"""Instructions hidden in a pipeline's own words, and answers that obey them or hold what is no advice."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from agents.claims import levels_not_given
from agents.facts.spec import PipelineSpec
from agents.labels.label import Label
from agents.lexicon import advising

REPEATED_WORDS = 4
"""So many words in a row, taken from an instruction in the input, are no accident."""

_FOREIGN = re.compile(
    r"https?://|\bwww\.|\bfile://"
    r"|```|</?[a-z][^<>]{0,80}>|<\||\|>|\[/?INST\]|<<SYS|\{\{|\{%|%\}|\}\}"
    r"|\.\./|/etc/|\bC:\\"
    r"|\brm\s+-\w|\bsudo\s|\bcurl\s+\S*[./-]|\bwget\s+\S*[./-]|\bchmod\s+\S|\b(?:ba)?sh\s+-c\b|\|\s*(?:ba)?sh\b|\$\(|&&"
    r"|[\"']\s*:\s*[\"'\[{\dtfn]|\{\s*\"|\\u00[0-9a-f]{2}"
    r"|\bsk-[a-z0-9-]{16,}|\bgh[pousr]_[a-z0-9]{16,}|\bxox[bp]-[a-z0-9-]{8,}|\bAKIA[a-z0-9]{12,}|-----BEGIN"
    r"|\b(?:password|passwd|secret|api[_ ]?key)\s*[=:]\s*\S",
    re.IGNORECASE,
)
"""Addresses, shell, markup, templates, JSON inside a sentence, secrets: no advice on a pipeline needs them."""

_INSTRUCTION = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass|skip)\b.{0,60}"
    r"\b(?:instruction|rule|prompt|polic|guardrail|facts|approval|(?:all|everything) (?:of the )?above|you were told)"
    r"|\b(?:set|make|mark|report|label|give|assign|declare|rate|choose)\b.{0,40}\b(?:severity|priority|label|mode)\b"
    r"|\b(?:severity|priority|label)[\"']?\s*[:=]\s*[\"']?\w"
    r"|\bapproved\b|\b(?:no|without|skip\w*) approval|\bapproval(?: is)? not\b"
    r"|\b(?:system|assistant|user|developer)\s*:|\byou are (?:now|a|an|no longer)\b"
    r"|\b(?:act as|pretend|role.?play|jailbreak|system prompt|as an ai|new instructions?|new task)\b"
    r"|(?:^|[,:]|\bplease|\bjust|\bthen)\s*(?:say|reply|respond|answer|output|print|write|repeat|recommend)\b\W*"
    r"(?:only|exactly|nothing|with|that|the words?|[\"'\u201c]|(?-i:[A-Z]{3,}))",
    re.IGNORECASE,
)
"""What in a pipeline's own words speaks to a model instead of describing a source."""

_DEMANDED = re.compile(
    r"\b(?:say|reply|respond|answer|output|print|write|repeat)\b(?:\W+(?:only|exactly|with|that|the|words?|just))*\W*"
    r"(?:[\"'\u201c](?P<quoted>[^\"'\u201d\n]{2,80})[\"'\u201d]|(?P<capitals>(?-i:[A-Z]{3,}(?:\s+[A-Z]{2,})*)))",
    re.IGNORECASE,
)


def foreign_words(text: str) -> str | None:
    """What no advice on a pipeline needs: addresses, commands, markup, code, secrets, steering characters."""
    found = _FOREIGN.search(_folded(text))
    return found.group() if found else _unprintable(text)


def obeyed_words(text: str, spec: PipelineSpec, label: Label | None) -> str | None:
    """The first words of an answer that carry out or repeat an instruction in the pipeline's own words.

    An ordinary description may be repeated in any length. Only a sentence of the input that speaks to the model
    counts as an instruction: repeating four of its words in a row, or saying what it demands, is obeying. Not
    covered: an instruction in other words or another language that is obeyed in the answer's own words.
    """
    source = spec.source
    told = (spec.id, source.type, source.frequency or "", source.description or "")
    instructions = [one for words in told for one in _instructions(words)]
    return next(_obeyed(_folded(text), label, instructions), None) if instructions else None


def _obeyed(answer: str, label: Label | None, instructions: Sequence[str]) -> Iterator[str]:
    """The pieces of the answer that come from the instructions."""
    spoken = _runs(words(answer), REPEATED_WORDS)
    for instruction in instructions:
        yield from (" ".join(run) for run in _runs(words(instruction), REPEATED_WORDS) if run in spoken)
        for demanded in _DEMANDED.finditer(instruction):
            wanted = demanded["quoted"] or demanded["capitals"]
            if re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", answer, re.IGNORECASE if " " in wanted else 0):
                yield wanted
    told = "\n".join(instructions).lower()
    if "approv" in told:
        yield from (match.group() for match in advising(answer, "claims_approval", conditional=False))
    if "severity" in told or "priority" in told:
        yield from levels_not_given(answer, label)


@lru_cache(maxsize=1024)
def _instructions(told: str) -> tuple[str, ...]:
    """The sentences of the input's free text that speak to a model; remembered, since each stage asks."""
    sentences = re.split(r"[.!?;\n]+", _folded(told))
    return tuple(one for one in sentences if _INSTRUCTION.search(one) or _FOREIGN.search(one))


def _folded(text: str) -> str:
    """The text with look-alikes of letters brought to one form, and invisible characters removed."""
    if text.isascii():
        return text
    plain = unicodedata.normalize("NFKC", text)
    return "".join(char for char in plain if unicodedata.category(char) != "Cf")


def _unprintable(text: str) -> str | None:
    """The name of the first character that steers a terminal or the direction of text."""
    if text.replace("\n", "").isprintable():
        return None
    steering = (char for char in text if unicodedata.category(char) in ("Cc", "Cf") and char not in "\n\t")
    return next((f"character U+{ord(char):04X}" for char in steering), None)


_WORD = re.compile(r"[^\W_]+(?:['\u2019_][^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return _WORD.findall(text.lower())


def _runs(spoken: Sequence[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(spoken[at : at + length]) for at in range(len(spoken) - length + 1)}
