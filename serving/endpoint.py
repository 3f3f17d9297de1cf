"""Where to send: the one place that reads the environment for an endpoint's address and key."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from urllib.parse import urlsplit

from pydantic import SecretStr

from common.console import BadInput, CannotJudge, shorten
from serving.state import read_records, running

SIMULATOR_OWNER = "plumbline-simulator"
"""`owned_by` of the simulator's model and `system_fingerprint` of its answers: how outputs know to say so."""

START_COMMAND = "python -m serving start --background"


@dataclass(frozen=True)
class Endpoint:
    """One OpenAI-compatible endpoint and the model to ask for there."""

    base_url: str
    """Ends in the API version, e.g. ``http://127.0.0.1:8000/v1``; no trailing slash."""
    model: str
    api_key: SecretStr
    simulated: bool = False
    """True when the answers come from Plumbline's simulator: every output made with it says so."""

    @property
    def origin(self) -> str:
        """Scheme, host and port: where `/health` and `/metrics` are."""
        return origin_of(self.base_url)


def origin_of(base_url: str) -> str:
    """Scheme, host and port of an address."""
    parts = urlsplit(base_url)
    return f"{parts.scheme}://{parts.netloc}"


def find_base_url(base_url: str | None = None) -> str:
    """The endpoint's address: given, else OPENAI_BASE_URL, else what `serving start --background` recorded.

    Raises BadInput for an address that is not http(s) and when several recorded servers run, CannotJudge when no place
    names one.
    """
    if base_url or os.environ.get("OPENAI_BASE_URL"):
        url = (base_url or os.environ["OPENAI_BASE_URL"]).rstrip("/")
        source = "--base-url" if base_url else "OPENAI_BASE_URL"
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise BadInput(f"{source}: holds a user or password; put the key into OPENAI_API_KEY")
        if not _is_address(url):
            raise BadInput(f"{source}: found {shorten(url)!r}; allowed is http(s)://HOST:PORT/v1")
        return url if urlsplit(url).path else f"{url}/v1"
    return _the_running_one()


def connect(base_url: str | None = None, model: str | None = None, *, timeout_s: float = 10.0) -> Endpoint:
    """Find the endpoint, ask it what it serves, and choose `model` or the first one there.

    Raises CannotJudge when it does not answer as an OpenAI-compatible server, BadInput when `model` is not served.
    """
    url = find_base_url(base_url)
    key = _api_key()
    request = urllib.request.Request(f"{url}/models")  # noqa: S310 - find_base_url lets only http(s) through
    # A redirect may lead to another host, which has no business with the key.
    request.add_unredirected_header("Authorization", f"Bearer {key.get_secret_value()}")
    # Our own machine is never behind a proxy, whatever the environment says.
    proxies = [urllib.request.ProxyHandler({})] if is_loopback(url) else []
    try:
        with urllib.request.build_opener(*proxies).open(request, timeout=timeout_s) as answer:
            served = {str(entry["id"]): str(entry.get("owned_by", "")) for entry in json.load(answer)["data"]}
    except urllib.error.HTTPError as error:
        hint = "set OPENAI_API_KEY" if error.code in {401, 403} else "is this the API's address, ending in /v1?"
        raise CannotJudge(f"{url}/models answered HTTP {error.code}: {hint}") from None
    except (OSError, HTTPException, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = shorten(str(getattr(error, "reason", error)))
        raise CannotJudge(f"no endpoint answers at {url} ({reason}): start one with `{START_COMMAND}`") from None
    if not served:
        raise CannotJudge(f"{url}/models lists no model: wait until the server has loaded one")
    chosen = model or next(iter(served))
    if chosen not in served:
        raise BadInput(f"--model: {shorten(chosen)!r} is not served at {url}; served: {', '.join(sorted(served))}")
    return Endpoint(url, chosen, key, simulated=served[chosen] == SIMULATOR_OWNER)


def _the_running_one() -> str:
    here = running()
    if len(here) > 1:
        names = ", ".join(f"{record.model} at {record.base_url}" for record in here)
        raise BadInput(f"{len(here)} endpoints run here ({names}): say which one with --base-url")
    if here:
        return here[0].base_url
    ended = read_records()
    gone = f" (the recorded server, pid {ended[0].pid}, has ended)" if ended else ""
    raise CannotJudge(f"no endpoint is known{gone}: start one with `{START_COMMAND}`, or give --base-url")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it raises ValueError for what is no port
    except ValueError:
        return False
    plain = not (parts.query or parts.fragment)  # a query may hold a key, and /models would follow it
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and plain and url.isascii() and " " not in url


def is_loopback(url: str) -> bool:
    """Whether an address names this machine."""
    host = urlsplit(url).hostname or ""
    return host in {"localhost", "::1"} or host.startswith("127.")


def _api_key() -> SecretStr:
    """OPENAI_API_KEY without the line end that files leave on it. Raises BadInput, which does not tell the key."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    # http.client's own error for such a header would quote the key.
    if not (key.isascii() and key.isprintable()):
        raise BadInput("OPENAI_API_KEY: holds a character that no HTTP header may hold")
    return SecretStr(key or "EMPTY")
