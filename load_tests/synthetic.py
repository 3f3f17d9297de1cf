"""Prompts of an exact number of tokens, a share of them the same for all requests.

A prompt is words between spaces, each of them one token to the model that is asked. Which words are, and how many
tokens its chat template adds, is asked of the server itself (POST /tokenize, which vLLM has), so no tokenizer is needed
here and none can differ from the server's. The simulator counts words between spaces, so nothing needs to be asked.

Same seed, same bytes: a prompt depends on the seed and its own number, not on what was sent before it.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

import orjson

from common.console import BadInput, CannotJudge, shorten
from load_tests.prepared import PreparedRequest
from load_tests.profiles import SyntheticWorkload
from serving.endpoint import Endpoint, is_loopback

TIMEOUT_S = 30.0
FEWEST_WORDS = 32
"""With fewer, prompts that should differ would often begin alike."""
_STREAM = 0x5E7E7
_SHARED = 1_000_000_007
"""The number of the shared prefix among the prompts of a seed."""

_VOCABULARY = """
able about above action after again air all also always animal answer any area arm around art ask away back bad
bank base be bed best better big bird black blood blue board boat body book both box boy bring build business
call camp car care case catch cause change child city class clear cold color common complete control cook corn
cost could country course cover cross cry cut dark day deal deep did door down draw dream drive drop dry each
early earth east easy eat end enough even event every eye face fact fall family far farm fast father fear feel
few field figure fill final fine fire first fish five floor fly follow food foot force form found four free
friend from front full game gave girl give glass go gold good great green ground group grow had half hand hard
have head hear heart heat heavy help here high hold home horse hot hour house how ice idea inch island job join
jump just keep kind king knew know land language large last late laugh law lead learn leave left leg less let
letter level lie life light like line list listen little live long look lost lot love low machine made main make
man many map mark market may mean measure meet men might mile mind minute miss money month moon more morning
most mother mountain mouth move much music must name near need never new next night north note nothing notice
now number object ocean off office often oil old once one only open order other our out over own page paper part
pass past pay people person pick picture piece place plan plant play point poor power press problem product pull
push put question quick rain ran read ready real reason record red rest rich ride right river road rock roll
room rule run said same sand save say school science sea season seat second see seem sell send sense serve set
shall shape ship shop short should show side sign simple since sing sister sit six size skin sleep slow small
snow soft soil some song soon sound south space speak special spring square stand star start state stay step
still stone stop store story street strong study such summer sun sure system table take talk teach tell test
than that then there these thing think this those thought three through time together told tone took top town
trade train travel tree true try turn two type under unit until up use usual value very view voice wait walk
wall want war warm wash watch water wave way weather week weight well went were west what wheel when where which
while white whole why wide wife will wind window winter wish with woman wonder wood word work world would write
year yellow yes you young
"""
_WORDS = _VOCABULARY.split()

Count = Callable[[str], list[int]]
"""Tokens of a chat whose one message is this text."""


@dataclass(frozen=True)
class SyntheticPrompts:
    """A maker of prompts that all have the length that was asked for."""

    model: str
    output_tokens: int
    seed: int
    words: tuple[str, ...]
    """Each one token."""
    shared: str
    """What every prompt begins with, ended by a space where more follows."""
    own_words: int
    """How many words differ from prompt to prompt."""

    def request(self, *number: int) -> PreparedRequest:
        """The request of a number, or of several that together name one."""
        text = self.text(*number)
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": self.output_tokens,
            # vLLM's: go on where the model would end, so that every answer has the length that was asked for.
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return PreparedRequest("-".join(["synthetic", *map(str, number)]), "synthetic", orjson.dumps(body))

    def text(self, *number: int) -> str:
        """The message of a number."""
        return self.shared + _drawn(self.words, self.own_words, self.seed, *number)


def synthetic_prompts(workload: SyntheticWorkload, endpoint: Endpoint, seed: int) -> SyntheticPrompts:
    """Find out how the endpoint counts, and build a maker of prompts by it.

    Raises BadInput when it cannot be asked, or when no prompt can have that length; CannotJudge when it is down.
    """
    if endpoint.simulated:
        return _maker(workload, endpoint.model, seed, tuple(_WORDS), 0, 0)
    tokens = _Tokenizer(endpoint)
    tokens.refuse_too_long(workload)
    words = single_tokens(_WORDS, tokens)
    if len(words) < FEWEST_WORDS:
        raise BadInput(
            f"workload.kind: synthetic needs words of one token each; of {len(_WORDS)} tried {endpoint.model} has "
            f"{len(words)}: use workload kind agents"
        )
    first, second = tokens(words[0]), tokens(words[1])
    made = _maker(workload, endpoint.model, seed, words, len(first) - 1, _alike(first, second))
    _check(made, workload, tokens)
    return made


def single_tokens(words: Sequence[str], count: Count) -> tuple[str, ...]:
    """Those words that add one token each to a text they are added to; by halving, since most do."""
    begun = len(count(words[0]))

    def kept(some: Sequence[str]) -> list[str]:
        if len(count(" ".join([words[0], *some]))) == begun + len(some):
            return list(some)
        if len(some) == 1:
            return []
        return kept(some[: len(some) // 2]) + kept(some[len(some) // 2 :])

    return tuple(kept(words))


def _maker(
    workload: SyntheticWorkload, model: str, seed: int, words: tuple[str, ...], template: int, head: int
) -> SyntheticPrompts:
    """template: tokens that the chat template adds; head: how many of them stand before the text."""
    in_all = workload.prompt_tokens - template
    if in_all < 1:
        raise BadInput(
            f"workload.prompt_tokens: found {workload.prompt_tokens}; {model}'s chat template alone takes {template}, "
            f"so allowed is {template + 1} or more"
        )
    shared = min(in_all, max(0, round(workload.shared_prefix * workload.prompt_tokens) - head))
    # A first word has no space before it, which to many tokenizers is another token: so it is always the same one.
    shared = max(shared, 1) if template else shared
    text = _prefix(words, shared, seed)
    return SyntheticPrompts(
        model, workload.output_tokens, seed, words, text + " " if 0 < shared < in_all else text, in_all - shared
    )


def _prefix(words: tuple[str, ...], count: int, seed: int) -> str:
    return " ".join([words[0], *_drawn(words, count - 1, seed, _SHARED).split()]) if count else ""


def _drawn(words: tuple[str, ...], count: int, *key: int) -> str:
    import numpy as np

    places = np.random.Generator(np.random.PCG64([_STREAM, *key])).integers(0, len(words), count)
    return " ".join([words[place] for place in places.tolist()])


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin with alike."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _check(made: SyntheticPrompts, workload: SyntheticWorkload, tokens: Count) -> None:
    """Count some whole prompts: a tokenizer that joins words would make them shorter than asked for."""
    for number in range(3):
        found = len(tokens(made.text(number)))
        if found != workload.prompt_tokens:
            raise BadInput(
                f"workload.prompt_tokens: asked for {workload.prompt_tokens}, and {made.model} counts {found} in a "
                f"prompt made for it: its tokenizer joins words; use workload kind agents"
            )


class _Tokenizer:
    """The server's own tokenizer, over HTTP."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._url = f"{endpoint.base_url.removesuffix('/v1')}/tokenize"

    def __call__(self, text: str) -> list[int]:
        return [int(token) for token in self._asked(text)["tokens"]]

    def refuse_too_long(self, workload: SyntheticWorkload) -> None:
        """Raise BadInput for what does not fit the model's context."""
        most, wanted = self._asked("a").get("max_model_len"), workload.prompt_tokens + workload.output_tokens
        if isinstance(most, int) and wanted > most:
            raise BadInput(
                f"workload: prompt_tokens {workload.prompt_tokens} + output_tokens {workload.output_tokens} is "
                f"{wanted}; {self._endpoint.model} takes {most} in all"
            )

    def _asked(self, text: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": text}]
        body = orjson.dumps({"model": self._endpoint.model, "messages": messages, "add_generation_prompt": True})
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})  # noqa: S310 - checked by connect
        # A redirect may lead to another host, which has no business with the key.
        key = self._endpoint.api_key.get_secret_value()
        request.add_unredirected_header("Authorization", f"Bearer {key}")
        proxies = [urllib.request.ProxyHandler({})] if is_loopback(self._url) else []
        try:
            with urllib.request.build_opener(*proxies).open(request, timeout=TIMEOUT_S) as answer:
                found = json.load(answer)
                return {"tokens": list(found["tokens"]), "max_model_len": found.get("max_model_len")}
        except urllib.error.HTTPError as error:
            raise BadInput(
                f"workload.kind: synthetic prompts of an exact length need the server's tokenizer, and {self._url} "
                f"answered HTTP {error.code}; vLLM has one: use it, or workload kind agents"
            ) from None
        except (OSError, HTTPException, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = shorten(str(getattr(error, "reason", error)))
            raise CannotJudge(f"{self._url} does not tell tokens ({reason}): is the endpoint up?") from None
