"""The simulator's stand-in for a tokenizer: the ids that POST /tokenize tells and `logprob_token_ids` asks for.

A capital letter is one token, and with a space before it another one, as in real vocabularies; their ids are fixed. Any
other text is a token a word. The tokens of an answer are none of these: they are pieces of equal length.
"""

from __future__ import annotations

import re
import string
import zlib

from pydantic import BaseModel, ConfigDict

from serving.schema_answers import WORDS

CONTEXT_TOKENS = 4096
"""What the simulator says it can take."""

OTHER_STARTS = (
    *("The", "I", "To", "It", "Based", "In", "This", "We", "Answer", "As", "For", "Here", "Given", "You", "Since"),
    *("Yes", "No", "Option", "**", "(", "1", "\n", "Sure", "If"),
)
"""What an answer may begin with in place of a label, the likeliest first."""

_WORD = re.compile(r"\s?\S+|\s+")
_FIXED = {
    **{letter: ord(letter) for letter in string.ascii_uppercase},
    **{f" {letter}": 256 + ord(letter) for letter in string.ascii_uppercase},
    **{text: 1000 + place for place, text in enumerate((*OTHER_STARTS, *WORDS))},
}
_TEXTS = {token: text for text, token in _FIXED.items()}
_FIRST_FREE, _VOCABULARY = 2000, 49_152
_NAMELESS = re.compile(r"<(\d+)>")


class TokenizeRequest(BaseModel):
    """What is to be cut into tokens; other fields of vLLM's request are let through unread."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    model: str | None = None
    prompt: str


def token_id(text: str) -> int:
    """The id of a text as one token; texts without an id of their own share the rest of the vocabulary."""
    if text in _FIXED:
        return _FIXED[text]
    if nameless := _NAMELESS.fullmatch(text):
        return int(nameless.group(1))
    return _FIRST_FREE + zlib.crc32(text.encode("utf8", "replace")) % (_VOCABULARY - _FIRST_FREE)


def token_text(token: int) -> str:
    """The text of a token; of one without a text of its own, its id in brackets."""
    return _TEXTS.get(token, f"<{token}>")


def tokenized(asked: TokenizeRequest) -> dict[str, object]:
    """vLLM's answer to POST /tokenize."""
    tokens = [token_id(word) for word in _WORD.findall(asked.prompt)]
    return {"count": len(tokens), "max_model_len": CONTEXT_TOKENS, "tokens": tokens, "token_strs": None}
