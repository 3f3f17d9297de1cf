"""From log-probabilities to probabilities. Pure; all logarithms are natural."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from agents.asking.endpoint.reply import TokenLogprob

_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]')

LEAST_LOGPROB = -100.0
"""What is taken for less than can be told: a probability of 0 would be a certainty that nobody has."""


# --- of what was written ---------------------------------------------------------------------------------


def value_spans(text: str) -> Iterator[tuple[str, str, int, int]]:
    """Of a flat JSON object, each string value, alone or in a list: its key, itself, where it begins and ends.

    In characters; it begins after its opening quote and ends with its closing one.
    """
    key, depth, before = "", 0, ""
    for found in _PIECE.finditer(text):
        piece = found.group()
        if piece in "{[":
            depth += 1
        elif piece in "}]":
            depth -= 1
        elif piece.startswith('"'):
            value = piece[1:-1]
            if depth == 1 and before in "{,":
                key = value
            else:
                yield key, value, found.start() + 1, found.end()
        before = piece


def span_probability(
    tokens: Sequence[TokenLogprob], text: str, first: int, last: int, offered: Sequence[str] = ()
) -> float | None:
    """The probability that this value was written, by whatever tokens.

    At each token that has a share in it, listed tokens count too that would have gone on with the same value and with
    no other one that is offered: `m`, `mod` and `mode` spell one name. What is not listed is left out, so it is the
    least it can be. first, last: characters, the closing quote included. offered: the values that might have stood
    there; without them only tokens count that write the value to its end. None where the tokens do not add up to the
    text.
    """
    ends = list(accumulate(token.size for token in tokens))
    written = text.encode()
    begin, end = (len(text[:at].encode()) for at in (first, last))
    if len(written) not in ends:  # a token for the end of the answer may follow
        return None
    starts = [0, *ends[:-1]]
    spelling = [
        min(0.0, _agreeing(token, written, (begin, end), token_begin, offered))
        for token, token_begin, token_end in zip(tokens, starts, ends, strict=True)
        if token_begin < end and begin < token_end
    ]
    return math.exp(sum(spelling)) if spelling else None


def _agreeing(token: TokenLogprob, written: bytes, value: tuple[int, int], at: int, offered: Sequence[str]) -> float:
    """The log-probability of any token that goes on to this value alone: the one that was taken, and its alternatives.

    value: where it begins and ends; at: where the token begins. Bytes.
    """
    begin, end = value
    before, rest = written[begin:at], written[at:end]

    def to_this_value(word: bytes) -> bool:
        if word.startswith(rest):
            return True
        begun = before + word[max(0, begin - at) :]
        return rest.startswith(word) and sum(f'{one}"'.encode().startswith(begun) for one in offered) == 1

    others = (
        logprob for other, logprob in token.top if other != token.token and other and to_this_value(other.encode())
    )
    return logsumexp([token.logprob, *others])


# --- of labels -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelLogprob:
    """How likely one label was as the next token."""

    value: float
    censored: bool = False
    """Whether it was not among the tokens listed: then `value` is the most it can be."""


def logsumexp(values: Iterable[float]) -> float:
    """The log-probability of any of several that exclude each other."""
    found = list(values)
    most = max(found)
    if most == -math.inf:
        return most
    return most + math.log(sum(math.exp(value - most) for value in found))


def label_logprob(listed: Mapping[str, float], variants: Sequence[str]) -> LabelLogprob:
    """A label's log-probability out of a list of tokens, all of its spellings (`A`, ` A`) together.

    A label of which no spelling is listed is no likelier than the least likely token that is.
    """
    found = [listed[one] for one in variants if one in listed]
    if found:
        return LabelLogprob(max(LEAST_LOGPROB, logsumexp(found)))
    return LabelLogprob(max(LEAST_LOGPROB, min(listed.values())), censored=True)


def mass(logprobs: Iterable[LabelLogprob]) -> float:
    """The share of all probability that fell on labels; those that were not listed add nothing."""
    return min(1.0, sum(math.exp(one.value) for one in logprobs if not one.censored))


def normalised(logprobs: Mapping[str, float]) -> dict[str, float]:
    """Probabilities that add up to one."""
    total = logsumexp(logprobs.values())
    return {name: math.exp(value - total) for name, value in logprobs.items()}


def without_prior(logprobs: Mapping[str, float], prior: Mapping[str, float]) -> dict[str, float]:
    """Log-probabilities with the labels' own attraction (probabilities without facts) taken out."""
    return {name: value - math.log(prior[name]) for name, value in logprobs.items()}


def mean(of: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean, name by name: of log-probabilities over orders, of probabilities over texts."""
    return {name: sum(one[name] for one in of) / len(of) for name in of[0]}


def winner(scores: Mapping[str, float]) -> str:
    """The name with the highest score, the first of those where several have it."""
    return max(scores, key=scores.__getitem__)
