"""The openai SDK as a transport: one try, the bytes as they came.

The SDK's own retries, timeouts and lenient reading of answers are left aside: what is done about a failure, and what
counts as a sound answer, is the same for both clients (agents/asking/client.py, agents/asking/completion.py).
"""

from __future__ import annotations

from typing import Any

import aiohttp
from openai import APIConnectionError, APIStatusError, AsyncOpenAI, DefaultAioHttpClient

from agents.asking.transport import TryFailed, body_of, broken, cut_off, unreachable
from agents.schema import ErrorClass
from serving.endpoint import Endpoint, is_loopback


class OpenAITransport:
    """The SDK on aiohttp's transport, which costs half the CPU of the default one."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._client = AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=endpoint.api_key.get_secret_value(),
            timeout=None,
            max_retries=0,
            http_client=DefaultAioHttpClient(
                # Our own machine is never behind a proxy, whatever the environment says.
                trust_env=not is_loopback(endpoint.base_url),
                follow_redirects=False,
            ),
        )

    async def open(self) -> None:
        """Nothing to do: the SDK opens what it needs with its first request."""

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def send(self, body: dict[str, Any]) -> bytes:
        """The body of the endpoint's answer. Raises TryFailed."""
        # The SDK knows OpenAI's parameters only; what else an engine takes has to go by extra_body.
        more = {key: value for key, value in body.items() if key not in {"model", "messages"}}
        try:
            answer = await self._client.chat.completions.with_raw_response.create(
                model=body["model"], messages=body["messages"], extra_body=more
            )
        except APIConnectionError as error:
            raise _connection_failed(error) from None
        except APIStatusError as error:
            response = error.response
            body_of(response.status_code, response.content, response.headers.get("Retry-After"))
            raise broken(error) from None
        except aiohttp.ClientError as error:
            raise broken(error) from None  # what came is not HTTP; the SDK's transport lets this one through
        except (TypeError, ValueError) as error:
            raise TryFailed("the request cannot be written as JSON", ErrorClass.BAD_INPUT, found=error) from None
        return body_of(answer.status_code, answer.content, None)


def _connection_failed(error: APIConnectionError) -> TryFailed:
    """Told by aiohttp's error underneath: the SDK's transport calls a refused or broken connection a timeout too."""
    cause: BaseException = error
    while cause.__cause__ and not isinstance(cause, aiohttp.ClientError):
        cause = cause.__cause__
    return cut_off(cause) if isinstance(cause, aiohttp.ClientPayloadError) else unreachable(cause)
