"""A client tells the same story of every endpoint, sound or broken, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from agents.asking.endpoint.client import ChatClient, make_client
from agents.asking.endpoint.reply import EndpointFailed, ErrorClass, Reply
from agents.asking.endpoint.transport import LARGEST_ANSWER_BYTES
from serving.endpoint import Endpoint
from serving.simulator import Fault
from tests.agents.asking.client_contract import CONTRACT, Check, check_nothing_left, failure_of, short_body

Start = Callable[..., str]
T = TypeVar("T")

FAST = {"ttft_ms": 0, "itl_ms": 0}
KEY = "sk-secret-123"
MODEL = "plumbline-simulator"
BODY = short_body(MODEL)

pytestmark = pytest.mark.filterwarnings("error::ResourceWarning", "error::pytest.PytestUnraisableExceptionWarning")


def with_client(base_url: str, work: Callable[[ChatClient], Awaitable[T]], **settings: Any) -> T:
    """Run `work` with a client that does not wait long between tries; nothing may be left when it is closed."""

    async def run() -> T:
        endpoint = Endpoint(base_url, MODEL, SecretStr(KEY))
        async with make_client(endpoint, **{"timeout_s": 20, "backoff_s": 0.01, **settings}) as client:
            result = await work(client)
        check_nothing_left()
        return result

    return asyncio.run(run())


def reply_of(base_url: str, **settings: Any) -> Reply:
    return with_client(base_url, lambda client: client.complete(BODY), **settings)


def failure(base_url: str, **settings: Any) -> EndpointFailed:
    return with_client(base_url, lambda client: failure_of(client, BODY), **settings)


def counts(base_url: str) -> dict[str, int]:
    """What the simulator has seen; its sums are checked."""
    with urllib.request.urlopen(base_url.replace("/v1", "/plumbline/requests"), timeout=10) as answer:
        seen: dict[str, int] = json.load(answer)
    assert seen["received"] == sum(seen[part] for part in ("in_flight", "answered", "cancelled", "faulted"))
    return seen


def counts_at_rest(base_url: str) -> dict[str, int]:
    """What the simulator has seen, once nothing is in flight; fails the test when something stays."""
    for _ in range(500):
        if not (seen := counts(base_url))["in_flight"]:
            return seen
        time.sleep(0.01)
    raise AssertionError(f"still in flight: {seen}")


# --- a server that answers with the bytes it is given ----------------------------------------------------


@dataclass
class Canned:
    """Bytes for each request in turn, the last of them for all that follow; then the connection is closed."""

    answers: Sequence[bytes]
    requests: list[bytes] = field(default_factory=list)
    base_url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        self.requests.append(head + await reader.readexactly(length))
        writer.write(self.answers[min(len(self.requests), len(self.answers)) - 1])
        await writer.drain()
        writer.close()


@asynccontextmanager
async def canned(*answers: bytes) -> AsyncIterator[Canned]:
    it = Canned(answers)
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    it.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield it


def client_of(server: Canned, **settings: Any) -> ChatClient:
    """A client of that server which does not wait long between tries."""
    endpoint = Endpoint(server.base_url, MODEL, SecretStr(settings.pop("key", KEY)))
    return make_client(endpoint, **{"timeout_s": 20, "backoff_s": 0.01, **settings})


def http(status: int, body: bytes, *headers: str, length: int | None = None) -> bytes:
    """An HTTP answer. length: what it says of itself, when that is not the truth."""
    lines = [f"HTTP/1.1 {status} Some Reason", "Content-Type: application/json", "Connection: close", *headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def completion(**changes: Any) -> bytes:
    """A sound chat completion, with `changes`."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "words"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    return json.dumps({"id": "x", "choices": [choice], "usage": usage, **changes}).encode()


def each_on(answers: Sequence[bytes], **settings: Any) -> tuple[list[Reply | EndpointFailed], list[bytes]]:
    """What a client makes of these answers, asked until they are used up, and the requests it sent."""

    async def outcome(client: ChatClient) -> Reply | EndpointFailed:
        try:
            return await client.complete(BODY)
        except EndpointFailed as failed:
            return failed

    async def run() -> tuple[list[Reply | EndpointFailed], list[bytes]]:
        outcomes = []
        async with canned(*answers) as server, client_of(server, **settings) as client:
            while len(server.requests) < len(answers):
                outcomes.append(await outcome(client))
            return outcomes, server.requests

    return asyncio.run(run())


def failures_on(answers: Sequence[bytes], **settings: Any) -> list[EndpointFailed]:
    """What a client says of each of these answers, each of which it asks for once."""
    outcomes, _ = each_on(answers, **settings)
    assert len(outcomes) == len(answers)
    return [outcome for outcome in outcomes if isinstance(outcome, EndpointFailed)]


def replies_on(*answers: bytes, **settings: Any) -> list[Reply]:
    """The replies a client gets out of these answers; it may ask more than once for each."""
    outcomes, _ = each_on(answers, **settings)
    return [outcome for outcome in outcomes if isinstance(outcome, Reply)]


# --- what goes well --------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: str(check.__name__))
def test_the_contract_holds_on_the_simulator(start_simulator: Start, check: Check) -> None:
    asyncio.run(check(Endpoint(start_simulator(ttft_ms=40, itl_ms=0), MODEL, SecretStr(KEY))))


def test_the_body_is_sent_as_it_is_with_the_key() -> None:
    _, [request] = each_on([http(200, completion())])
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert f"authorization: bearer {KEY}" in head.decode().lower()
    assert json.loads(body) == BODY


def test_parameters_that_only_the_engine_knows_are_sent_too() -> None:
    async def run() -> bytes:
        async with canned(http(200, completion())) as server, client_of(server) as client:
            await client.complete({**BODY, "top_k": 5, "chat_template_kwargs": {"thinking": False}})
            return server.requests[0]

    sent = json.loads(asyncio.run(run()).partition(b"\r\n\r\n")[2])
    assert (sent["top_k"], sent["chat_template_kwargs"]) == (5, {"thinking": False})


def test_a_slow_first_token_within_the_timeout_is_no_failure(start_simulator: Start) -> None:
    reply = reply_of(start_simulator(ttft_ms=120, itl_ms=0))
    assert reply.tries == 1
    assert reply.latency_s >= 0.12


def test_at_most_so_many_requests_are_in_flight(start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=30, itl_ms=0)

    async def work(client: ChatClient) -> list[Reply]:
        return await asyncio.gather(*(client.complete(BODY) for _ in range(12)))

    assert len(with_client(base_url, work, concurrency=3)) == 12
    seen = counts_at_rest(base_url)
    assert (seen["most_in_flight"], seen["answered"]) == (3, 12)


def test_waiting_for_a_slot_is_no_latency(start_simulator: Start) -> None:
    async def work(client: ChatClient) -> tuple[float, list[Reply]]:
        began_s = time.perf_counter()
        replies = await asyncio.gather(*(client.complete(BODY) for _ in range(3)))
        return time.perf_counter() - began_s, replies

    wall_s, replies = with_client(start_simulator(ttft_ms=30, itl_ms=0), work, concurrency=1)
    assert sum(reply.latency_s for reply in replies) <= wall_s


def test_usage_content_and_finish_reason_may_be_missing() -> None:
    changes: list[dict[str, Any]] = [{"usage": None}, {"usage": {}}, {"usage": {"prompt_tokens": None}}]
    replies = replies_on(*(http(200, completion(**change)) for change in changes))
    assert [(reply.text, reply.prompt_tokens, reply.output_tokens) for reply in replies] == [("words", None, None)] * 3
    [reply] = replies_on(http(200, completion(choices=[{"message": {"content": None}}])))
    assert (reply.text, reply.finish_reason, reply.output_tokens) == ("", "unknown", 2)


@pytest.mark.parametrize("fault", [Fault.HALF_ANSWER, Fault.WRONG_SCHEMA])
def test_what_a_text_means_is_not_the_clients_to_judge(start_simulator: Start, fault: Fault) -> None:
    base_url = start_simulator(**FAST, fault=fault)
    asked = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["yes", "also"]}}}
    reply = with_client(base_url, lambda client: client.complete({**BODY, "response_format": asked}))
    assert reply.text
    assert reply.text not in {'"yes"', '"also"'}
    assert reply.tries == 1


# --- what is tried again ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault.HTTP_429, Fault.HTTP_500, Fault.DISCONNECT])
def test_a_storm_that_ends_is_ridden_out(start_simulator: Start, fault: Fault) -> None:
    base_url = start_simulator(**FAST, fault=fault, fault_first=3)
    assert reply_of(base_url, max_retries=3).tries == 4
    seen = counts_at_rest(base_url)
    assert (seen["faulted"], seen["answered"]) == (3, 1)


@pytest.mark.slow
def test_silence_is_tried_again_after_the_timeout(start_simulator: Start) -> None:
    base_url = start_simulator(**FAST, fault=Fault.NO_ANSWER, fault_first=1)
    reply = reply_of(base_url, timeout_s=0.15, max_retries=1)
    assert reply.tries == 2
    assert reply.latency_s >= 0.15  # what the first try cost is part of it
    counts_at_rest(base_url)


def test_these_statuses_are_tried_again() -> None:
    statuses = (429, 500, 502, 503, 504)
    replies = replies_on(*(answer for status in statuses for answer in (http(status, b""), http(200, completion()))))
    assert [reply.tries for reply in replies] == [2] * 5


def test_a_body_that_is_cut_off_is_asked_for_again() -> None:
    cut = http(200, completion()[:20], length=500)
    chunked = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{"choices": [{"m'
    [reply] = replies_on(cut, chunked, http(200, completion()))
    assert reply.tries == 3
    [[failed], _] = each_on([cut, cut], max_retries=1)
    assert str(failed).startswith("the endpoint's answer is broken: Response payload is not completed")
    assert str(failed).endswith(", tried 2 times")
    assert isinstance(failed, EndpointFailed)
    assert failed.error_class is ErrorClass.BROKEN_ANSWER


def test_retry_after_is_waited_for() -> None:
    busy = [http(status, b"", "Retry-After: 0.06") for status in (429, 503)]
    [reply] = replies_on(*busy, http(200, completion()), backoff_s=0)
    assert reply.tries == 3
    assert reply.latency_s >= 0.12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "error_class", "told"),
    [
        (Fault.HTTP_429, ErrorClass.RATE_LIMITED, "the endpoint answered HTTP 429: the simulator was told to fail"),
        (Fault.HTTP_500, ErrorClass.SERVER_ERROR, "the endpoint answered HTTP 500: the simulator was told to fail"),
        (Fault.DISCONNECT, ErrorClass.UNREACHABLE, "the endpoint cannot be reached: Server disconnected"),
    ],
)
def test_what_does_not_pass_is_given_up_after_the_retries(
    start_simulator: Start, fault: Fault, error_class: ErrorClass, told: str
) -> None:
    base_url = start_simulator(**FAST, fault=fault)
    failed = failure(base_url, max_retries=2)
    assert failed.error_class is error_class
    assert str(failed).startswith(told)
    assert str(failed).endswith(", tried 3 times")
    assert counts_at_rest(base_url)["faulted"] == 3
    assert "tried" not in str(failure(base_url, max_retries=0))


@pytest.mark.slow
def test_an_endpoint_that_never_answers_is_a_timeout_and_is_let_go(start_simulator: Start) -> None:
    base_url = start_simulator(fault=Fault.NO_ANSWER)
    failed = failure(base_url, timeout_s=0.1, max_retries=1)
    assert (str(failed), failed.error_class) == ("no answer within 0.1 s, tried 2 times", ErrorClass.TIMEOUT)
    assert counts_at_rest(base_url)["faulted"] == 2


def test_an_answer_that_dribbles_is_a_timeout_too() -> None:
    async def dribble(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:  # a client that only times each read would wait for ever
            await response.write(b" ")
            await asyncio.sleep(0.02)

    async def run() -> EndpointFailed:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", dribble)
        async with TestServer(app, handler_cancellation=True) as server:
            endpoint = Endpoint(str(server.make_url("/v1")), MODEL, SecretStr(KEY))
            async with make_client(endpoint, timeout_s=0.1, max_retries=0) as client:
                return await failure_of(client, BODY)

    assert str(asyncio.run(run())) == "no answer within 0.1 s"


def test_no_endpoint_at_all_is_told() -> None:
    failed = failure("http://127.0.0.1:9/v1", max_retries=1)
    assert str(failed).startswith("the endpoint cannot be reached: Cannot connect to host 127.0.0.1:9")
    assert str(failed).endswith(", tried 2 times")
    assert failed.error_class is ErrorClass.UNREACHABLE


def test_the_last_failure_is_the_one_that_is_told() -> None:
    [[failed], _] = each_on([http(500, b"busy"), http(400, b"no")], max_retries=5)
    assert isinstance(failed, EndpointFailed)
    assert str(failed) == "the endpoint answered HTTP 400: no, tried 2 times"
    assert failed.error_class is ErrorClass.REFUSED


# --- what is not tried again -----------------------------------------------------------------------------


def test_a_request_that_is_refused_is_sent_once(start_simulator: Start) -> None:
    base_url = start_simulator(**FAST, fault=Fault.HTTP_400)
    failed = failure(base_url, max_retries=3)
    assert str(failed) == "the endpoint answered HTTP 400: the simulator was told to fail (--fault http-400)"
    assert failed.error_class is ErrorClass.REFUSED
    assert counts_at_rest(base_url)["received"] == 1


def test_other_statuses_are_told_at_once() -> None:
    statuses = (401, 404, 408, 409, 422, 501)
    # The openai SDK by itself would do as this header says.
    answers = [http(status, b'{"error": {"message": "because"}}', "x-should-retry: true") for status in statuses]
    failures = failures_on(answers)
    assert [str(failed) for failed in failures] == [f"the endpoint answered HTTP {n}: because" for n in statuses]
    assert [failed.error_class for failed in failures] == [ErrorClass.REFUSED] * 5 + [ErrorClass.SERVER_ERROR]


def test_a_redirect_is_not_followed_with_the_key() -> None:
    async def run() -> tuple[EndpointFailed, int]:
        async with canned(http(200, completion())) as other:
            away = http(307, b"", f"Location: {other.base_url}/chat/completions")
            async with canned(away) as server, client_of(server) as client:
                return await failure_of(client, BODY), len(other.requests)

    failed, followed = asyncio.run(run())
    assert (str(failed), followed) == ("the endpoint answered HTTP 307", 0)


ODD_ANSWERS = [
    (b"", "broken: Invalid JSON: EOF"),
    (b"\xff\xfe{", "broken: Invalid JSON"),
    (b"<html>not JSON</html>", "broken: Invalid JSON: expected value"),
    (completion()[:-5], "broken: Invalid JSON: EOF"),
    (b'{"choices": [{"message": {"content": "\\ud800"}}]}', "broken: Invalid JSON"),
    (b'{"choices": ' + b"[" * 100_000, "broken: Invalid JSON: recursion limit exceeded"),
    (b"null", "not a sound chat completion: answer: "),
    (b"[]", "not a sound chat completion: answer: "),
    (b'"words"', "not a sound chat completion: answer: "),
    (b"{}", "not a sound chat completion: choices: Field required"),
    (b'{"error": {"message": "out of memory"}}', "not a sound chat completion: choices: Field required: {"),
    (completion(choices=[]), "not a sound chat completion: choices: "),
    (completion(choices=[{}]), "not a sound chat completion: choices.0.message: "),
    (completion(choices=[None]), "not a sound chat completion: choices.0: "),
    (completion(choices="words"), "not a sound chat completion: choices: "),
    (completion(choices={"a": 1}), "not a sound chat completion: choices: "),
    (completion(choices=[{"message": None}]), "not a sound chat completion: choices.0.message: "),
    (completion(choices=[{"message": {"content": 5}}]), "not a sound chat completion: choices.0.message.content: "),
    (completion(choices=[{"message": {}, "finish_reason": 5}]), "not a sound chat completion: choices.0.finish_"),
    (completion(usage=5), "not a sound chat completion: usage: "),
    (completion(usage={"prompt_tokens": 1.5}), "not a sound chat completion: usage.prompt_tokens: "),
    (completion(usage={"completion_tokens": "7"}), "not a sound chat completion: usage.completion_tokens: "),
    (completion(usage={"completion_tokens": True}), "not a sound chat completion: usage.completion_tokens: "),
    (completion(usage={"completion_tokens": -1}), "not a sound chat completion: usage.completion_tokens: "),
]


def test_a_whole_answer_that_is_no_completion_is_told_in_one_line_and_not_asked_for_again() -> None:
    failures = failures_on([http(200, body) for body, _ in ODD_ANSWERS])
    for failed, (body, problem) in zip(failures, ODD_ANSWERS, strict=True):
        assert str(failed).startswith(f"the endpoint's answer is {problem}"), body
        assert str(failed).isprintable(), body
        assert len(str(failed)) < 300, body
        assert failed.error_class is ErrorClass.BROKEN_ANSWER


def test_a_server_that_does_not_speak_http_is_a_broken_answer() -> None:
    [failed] = failures_on([b"SSH-2.0-OpenSSH_9.6\r\n\r\n"])
    assert str(failed).startswith("the endpoint's answer is broken: ")
    assert failed.error_class is ErrorClass.BROKEN_ANSWER


def test_an_answer_of_several_mebibytes_is_refused(start_simulator: Start) -> None:
    base_url = start_simulator(**FAST, fault=Fault.HUGE_ANSWER)

    async def work(client: ChatClient) -> EndpointFailed:
        return await failure_of(client, {**BODY, "max_tokens": 100})

    failed = with_client(base_url, work)
    assert str(failed) == "the endpoint's answer is broken: it is larger than 4 MiB"
    assert failed.error_class is ErrorClass.BROKEN_ANSWER
    assert counts_at_rest(base_url)["received"] == 1


def test_an_answer_that_unpacks_to_too_much_is_refused() -> None:
    packed = gzip.compress(b" " * (2 * LARGEST_ANSWER_BYTES))
    [failed] = failures_on([http(200, packed, "Content-Encoding: gzip")])
    assert str(failed) == "the endpoint's answer is broken: it is larger than 4 MiB"


# --- cancelling ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"ttft_ms": 40, "itl_ms": 0},
        {"fault": Fault.NO_ANSWER},
        pytest.param({**FAST, "fault": Fault.HTTP_429}, marks=pytest.mark.slow),
        pytest.param({**FAST, "fault": Fault.HUGE_ANSWER}, marks=pytest.mark.slow),
    ],
    ids=["answers", "silent", "refuses", "huge"],
)
def test_cancelled_at_any_moment_a_request_leaves_no_connection_no_task_and_its_slot(
    start_simulator: Start, settings: dict[str, Any]
) -> None:
    base_url, sound = start_simulator(**settings), start_simulator(**FAST)

    async def cancelled(client: ChatClient, after_s: float) -> None:
        asking = asyncio.create_task(client.complete({**BODY, "max_tokens": 100}))
        await asyncio.sleep(after_s)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    async def work(client: ChatClient) -> None:
        # Before it has a slot, while it connects, waits, reads, pauses between tries, and after its end.
        await asyncio.gather(*(cancelled(client, number * 0.004) for number in range(18)))

    with_client(base_url, work, concurrency=6, backoff_s=0.05)
    gc.collect()  # what was left open complains when it is collected
    counts_at_rest(base_url)
    assert reply_of(sound).tries == 1


def test_slots_of_cancelled_requests_are_free_again(start_simulator: Start) -> None:
    async def work(client: ChatClient) -> list[Reply]:
        for after_s in (0, 0.01, 0.03):
            asking = [asyncio.create_task(client.complete(BODY)) for _ in range(5)]
            await asyncio.sleep(after_s)
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        return await asyncio.gather(*(client.complete(BODY) for _ in range(4)))

    base_url = start_simulator(ttft_ms=50, itl_ms=0)
    assert len(with_client(base_url, work, concurrency=2)) == 4
    assert counts_at_rest(base_url)["most_in_flight"] <= 5  # two, and those whose leaving is just being noticed


def test_a_cancelled_request_is_gone_from_the_endpoint_while_the_client_lives_on(start_simulator: Start) -> None:
    base_url = start_simulator(ttft_ms=60_000)

    async def work(client: ChatClient) -> dict[str, int]:
        asking = asyncio.create_task(client.complete(BODY))
        while not (await asyncio.to_thread(counts, base_url))["in_flight"]:  # noqa: ASYNC110 - the server's, not ours
            await asyncio.sleep(0.005)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        return await asyncio.to_thread(counts_at_rest, base_url)

    seen = with_client(base_url, work)
    assert (seen["received"], seen["cancelled"]) == (1, 1)


# --- the key and the way -----------------------------------------------------------------------------------


QUOTES_THE_KEY = [
    json.dumps({"error": {"message": f"bad key {KEY}\nsecond line"}}).encode(),
    json.dumps({"error": {"message": {"deep": KEY}}}).encode(),
    f"bad key {KEY}".encode(),
    b"x" * 130 + KEY.encode(),  # where the text of a broken answer is cut
    b"x" * 192 + KEY.encode(),  # where that of an error is
    (KEY * 500).encode(),
]


def test_the_key_is_in_no_message() -> None:
    answers = [http(status, body) for status in (200, 307, 400, 401, 429, 500) for body in QUOTES_THE_KEY]
    for failed in failures_on(answers, max_retries=0):
        assert "sk-" not in str(failed)
        assert str(failed).isprintable()
    assert "bad key ***" in str(failures_on([http(401, QUOTES_THE_KEY[0])])[0])


def test_a_long_key_that_is_quoted_often_is_in_no_message() -> None:
    key = "sk-" + "a" * 3000
    [failed] = failures_on([http(200, f"{key} {key}".encode())], key=key)
    assert "aaa" not in str(failed)


def test_our_own_machine_is_never_behind_a_proxy(start_simulator: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert reply_of(start_simulator(**FAST)).tries == 1


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
def test_other_machines_are_asked_through_the_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    async def run() -> tuple[Reply, bytes]:
        async with canned(http(200, completion())) as proxy:
            for name in ("http_proxy", "all_proxy", "no_proxy"):
                monkeypatch.delenv(name, raising=False)
                monkeypatch.delenv(name.upper(), raising=False)
            monkeypatch.setenv(variable, proxy.base_url.removesuffix("/v1"))
            endpoint = Endpoint("http://endpoint.invalid/v1", MODEL, SecretStr(KEY))
            async with make_client(endpoint, max_retries=0) as client:
                return await client.complete(BODY), proxy.requests[0]

    reply, request = asyncio.run(run())
    assert reply.text == "words"
    assert request.startswith(b"POST http://endpoint.invalid/v1/chat/completions HTTP/1.1")
