"""What the transport sees to: it never holds more of an answer than the bound, and tells no secret to a proxy."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer, TestServer
from pydantic import SecretStr

from agents.asking.endpoint.client import make_client
from agents.asking.endpoint.reply import EndpointFailed
from agents.asking.endpoint.transport import LARGEST_ANSWER_BYTES
from common.console import BadInput
from serving.endpoint import Endpoint
from tests.agents.asking.client_contract import failure_of, short_body


@pytest.mark.parametrize("status", [200, 400])
def test_it_stops_reading_an_answer_that_has_no_end(status: int) -> None:
    sent = 0

    async def pour(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        while True:
            await response.write(b"x" * 2**16)
            sent += 2**16

    async def run() -> EndpointFailed:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", pour)
        async with TestServer(app, handler_cancellation=True) as server:
            endpoint = Endpoint(str(server.make_url("/v1")), "m", SecretStr("EMPTY"))
            async with make_client(endpoint) as client:
                return await failure_of(client, short_body("m"))

    problem = "the endpoint's answer is broken: it is larger" if status == 200 else "the endpoint answered HTTP 400: xx"
    assert str(asyncio.run(run())).startswith(problem)
    assert sent < 8 * LARGEST_ANSWER_BYTES  # what the sockets' buffers hold may be on its way


def test_used_without_being_opened_it_says_so() -> None:
    client = make_client(Endpoint("http://127.0.0.1:9/v1", "m", SecretStr("EMPTY")))
    with pytest.raises(RuntimeError, match="outside of `async with`"):
        asyncio.run(client.complete(short_body("m")))


def test_a_proxy_that_it_cannot_use_is_a_failure_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")

    async def run() -> EndpointFailed:
        endpoint = Endpoint("http://endpoint.invalid/v1", "m", SecretStr("EMPTY"))
        async with make_client(endpoint, max_retries=0) as client:
            return await failure_of(client, short_body("m"))

    assert str(asyncio.run(run())).startswith("the endpoint cannot be reached: ")


def test_no_slot_at_all_is_refused_rather_than_waited_for() -> None:
    with pytest.raises(ValueError, match="concurrency: found 0"):
        make_client(Endpoint("http://127.0.0.1:9/v1", "m", SecretStr("EMPTY")), concurrency=0)


@pytest.mark.slow
def test_asking_does_not_import_the_sdk() -> None:
    """It takes a second, which every command would wait for."""
    program = "import sys, agents.asking.answerer; sys.exit('openai' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0


def test_a_proxys_password_is_not_told_and_our_key_is_not_told_to_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    async def refuse(request: web.BaseRequest) -> web.Response:
        seen.append(dict(request.headers))
        return web.Response(status=407, reason="no")

    async def run() -> EndpointFailed:
        async with RawTestServer(refuse) as proxy:
            monkeypatch.setenv("https_proxy", f"http://me:s3cret@127.0.0.1:{proxy.port}")
            monkeypatch.setenv("no_proxy", "")
            endpoint = Endpoint("https://endpoint.invalid/v1", "m", SecretStr("sk-our-key"))
            async with make_client(endpoint, max_retries=0) as client:
                return await failure_of(client, short_body("m"))

    told = str(asyncio.run(run()))
    assert "s3cret" not in told
    assert "407" in told
    assert [headers["Proxy-Authorization"] for headers in seen] == ["Basic bWU6czNjcmV0"]
    assert "sk-our-key" not in str(seen)


def test_a_proxy_with_a_password_carries_plain_http_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    async def forward(request: web.BaseRequest) -> web.Response:
        seen.append(request.headers.get("Proxy-Authorization"))
        return web.Response(status=400, text="no")

    async def run() -> EndpointFailed:
        async with RawTestServer(forward) as proxy:
            monkeypatch.setenv("http_proxy", f"http://me:s3cret@127.0.0.1:{proxy.port}")
            monkeypatch.setenv("no_proxy", "")
            endpoint = Endpoint("http://endpoint.invalid/v1", "m", SecretStr("EMPTY"))
            async with make_client(endpoint, max_retries=0) as client:
                return await failure_of(client, short_body("m"))

    assert str(asyncio.run(run())).startswith("the endpoint answered HTTP 400")
    assert seen == ["Basic bWU6czNjcmV0"]


@pytest.mark.parametrize("proxy", ["http://proxy:99999", "http://u%3Aa:s3cret@h:1", "http://u:s3cret%E2%82%AC@h:1"])
def test_a_proxy_that_is_no_address_is_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(BadInput, match=r"^http_proxy: is not the address of a proxy") as refused:
        make_client(Endpoint("http://endpoint.invalid/v1", "m", SecretStr("EMPTY")))
    assert "s3cret" not in str(refused.value)
