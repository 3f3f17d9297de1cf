"""Answers kept across runs: the same request to the same model need not be asked twice.

A SQLite file, off unless --cache asks for it. It is a help and no record: what a run rests on is its own samples.jsonl,
so writes are gathered, and a row that is damaged is asked anew. An answer from here has `tries` 0, so that its old
latency enters no figure.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
from pydantic import ValidationError

from agents.asking.endpoint.client import ChatClient
from agents.asking.endpoint.reply import Reply
from agents.asking.endpoint.transport import Route
from common.console import BadInput, CannotJudge
from evals.variant import ServedModel

_FORMAT = 1
_GATHERED = 200
"""Answers a commit is for: a commit of each would cost more than asking a simulator does."""


def request_digest(model: ServedModel, body: Mapping[str, Any], repeat: int, route: Route = "chat/completions") -> str:
    """Names a request: the model by name and served id, route, messages, schema, sampling, seed, and which repeat.

    Not where the model is served: the same one behind another port gives the same answers. A simulator's answer
    never passes for a model's.
    """
    parts = (model.name, model.model, model.simulated, repeat, route, body)
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()[:32]


class AnswerCache:
    """Replies by request digest. Use it as a context manager; it may be shared by processes."""

    def __init__(self, path: Path) -> None:
        """Open or make it. Raises BadInput when the file is something else or cannot be written."""
        self.path = path
        self.hits = 0
        self.corrupt = 0
        """Rows that were not as they had been written; they were asked anew."""
        self._waiting: dict[str, bytes] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=20.0)
            self._prepare()
        except (sqlite3.Error, OSError) as error:
            raise BadInput(f"--cache {path}: cannot be used ({error}); name another file, or remove it") from None

    def _prepare(self) -> None:
        found = self._db.execute("pragma user_version").fetchone()[0]
        tables = {name for (name,) in self._db.execute("select name from sqlite_master where type = 'table'")}
        if found not in {0, _FORMAT} or (tables and found == 0):
            raise BadInput(f"--cache {self.path}: is a database, but no cache of this version; name another file")
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = normal")
        self._db.execute(
            "create table if not exists answers (request text primary key, digest blob, reply blob) without rowid"
        )
        self._db.execute(f"pragma user_version = {_FORMAT}")
        self._db.commit()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        try:
            self._commit()
        except CannotJudge:
            if kind is None:
                raise
        finally:
            self._db.close()

    def get(self, request: str) -> Reply | None:
        """The reply, if it is known and as it was written. Raises CannotJudge when the file cannot be read."""
        try:
            row = self._db.execute("select digest, reply from answers where request = ?", (request,)).fetchone()
        except sqlite3.Error as error:
            raise self._broken(error) from None
        if row is None:
            return self._read(self._waiting[request]) if request in self._waiting else None
        digest, text = row
        if isinstance(text, bytes) and digest == _digest(request, text):
            with contextlib.suppress(ValidationError):
                return self._read(text)
        self.corrupt += 1
        return None

    def _read(self, text: bytes) -> Reply:
        reply = Reply.model_validate_json(text)
        self.hits += 1
        return reply.model_copy(update={"tries": 0})

    def put(self, request: str, reply: Reply) -> None:
        """Keep a reply. Raises CannotJudge when the file cannot be written."""
        self._waiting[request] = reply.model_dump_json().encode()
        if len(self._waiting) >= _GATHERED:
            self._commit()

    def _commit(self) -> None:
        rows = [(request, _digest(request, text), text) for request, text in self._waiting.items()]
        try:
            with self._db:
                self._db.executemany("insert or replace into answers values (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise self._broken(error) from None
        self._waiting.clear()

    def _broken(self, error: sqlite3.Error) -> CannotJudge:
        return CannotJudge(f"--cache {self.path}: {error}; go on by --resume without --cache, or remove the file")


def _digest(request: str, text: bytes) -> bytes:
    """Of the reply with its request, so that a row that has another one's reply is found too."""
    return hashlib.sha256(request.encode() + text).digest()[:16]


class SampleClient:
    """One sample's way to its model: what is in the cache is not asked again."""

    def __init__(self, client: ChatClient, model: ServedModel, repeat: int, cache: AnswerCache | None = None) -> None:
        self.client = client
        self.memory = client.memory
        self.model = model
        self.repeat = repeat
        self.cache = cache

    async def complete(self, body: dict[str, Any], route: Route = "chat/completions") -> Reply:
        """As ChatClient.complete. Raises EndpointFailed."""
        if self.cache is None:
            return await self.client.complete(body, route)
        request = request_digest(self.model, body, self.repeat, route)
        known = self.cache.get(request)
        if known is None:
            known = await self.client.complete(body, route)
            self.cache.put(request, known)
        return known

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...
