"""The lean transport: one aiohttp session, headers and addresses worked out once.

It does about a seventh of the openai SDK's work for each request.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
from aiohttp.helpers import strip_auth_from_url
from yarl import URL

from agents.asking.endpoint.reply import ErrorClass
from agents.asking.endpoint.transport import (
    LARGEST_ANSWER_BYTES,
    Route,
    TryFailed,
    body_of,
    broken,
    cut_off,
    unreachable,
)
from common.console import BadInput
from serving.endpoint import Endpoint, is_loopback

_KEPT_ALIVE_S = 4.0
"""vLLM closes a connection after 5 idle seconds; one taken up again at that moment would be lost with its request."""


class LeanTransport:
    """aiohttp with pydantic's JSON reader; bounds are the caller's (concurrency, time) and LARGEST_ANSWER_BYTES."""

    def __init__(self, endpoint: Endpoint) -> None:
        base, root = endpoint.base_url, endpoint.base_url.rpartition("/")[0]
        self._urls: dict[Route, URL] = {
            "chat/completions": URL(f"{base}/chat/completions", encoded=True),
            "decisions": URL(f"{base}/decisions", encoded=True),
            "tokenize": URL(f"{root}/tokenize", encoded=True),
        }
        # Kept apart: an error of aiohttp's tells the proxy's address.
        self._proxy, proxy_headers = _proxy_for(endpoint.base_url)
        # aiohttp sends a proxy's headers when it asks for a tunnel only, and there is none for plain http.
        self._tunnel_headers = proxy_headers if endpoint.base_url.startswith("https:") else None
        self._headers = {
            "Authorization": f"Bearer {endpoint.api_key.get_secret_value()}",
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # a small answer is not worth it, and a small one may grow on unpacking
            **(proxy_headers if proxy_headers and not self._tunnel_headers else {}),
        }
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Get ready on the running event loop."""
        self._session = aiohttp.ClientSession(
            # trust_env would look for a proxy and a .netrc in two threads, for each request.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session:
            await self._session.close()

    async def send(self, body: dict[str, Any], route: Route) -> bytes:
        """The body of the endpoint's answer. Raises TryFailed."""
        async with await self._answer(self._urls[route], _written(body)) as answer:
            try:
                raw = await _read(answer)
            except (aiohttp.ClientError, OSError) as error:
                raise cut_off(error) from None
            return body_of(answer.status, raw, answer.headers.get("Retry-After"))

    async def _answer(self, url: URL, data: bytes) -> aiohttp.ClientResponse:
        if not self._session:
            raise RuntimeError("the client is used outside of `async with`")
        try:
            return await self._session.post(
                url,
                data=data,
                # With each request: a session's own headers go to a proxy as well, and our key with them.
                headers=self._headers,
                allow_redirects=False,
                proxy=self._proxy,
                proxy_headers=self._tunnel_headers,
            )
        except aiohttp.ClientResponseError as error:
            raise broken(error) from None  # what came is not HTTP
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: a proxy of a kind it cannot use
            raise unreachable(error) from None


def _written(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise TryFailed("the request cannot be written as JSON", ErrorClass.BAD_INPUT, found=error) from None


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    """The body, or what came of it when it grew too large; the rest is never read, the connection is closed."""
    parts: list[bytes] = []
    size = 0
    async for part in answer.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > LARGEST_ANSWER_BYTES:
            break
    return b"".join(parts)


def _proxy_for(base_url: str) -> tuple[URL | None, dict[str, str] | None]:
    """The proxy that the environment names for an address, and what opens it; our own machine is never behind one.

    Raises BadInput for an address that is none.
    """
    parts = urlsplit(base_url)
    if is_loopback(base_url) or proxy_bypass(parts.hostname or ""):
        return None, None
    proxies = getproxies()
    named = proxies.get(parts.scheme) or proxies.get("all")
    if not named:
        return None, None
    try:
        proxy, user = strip_auth_from_url(URL(named))
        return proxy, {"Proxy-Authorization": user.encode()} if user else None
    except ValueError:  # the value may hold a password, and is not told
        raise BadInput(f"{parts.scheme}_proxy: is not the address of a proxy; allowed is http://HOST:PORT") from None
