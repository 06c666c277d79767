"""The HTTP client against real sockets on which everything goes wrong that can.

It knows no provider; tests/worker/providers/test_sandbox.py calls all three.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import zlib
from pathlib import Path

import pytest

from tests.certificates import self_signed_pem
from tests.worker.bad_server import (
    CHUNKED,
    KEY,
    Server,
    Writer,
    call,
    chunked,
    failing,
    hangs,
    run,
    says,
    send,
    serving,
    whole,
)
from worker import http
from worker.http import Clocks, HttpSender
from worker.providers.base import Reply, SendError


def test_a_call_goes_out_as_built_and_its_reply_comes_back_whole() -> None:
    async def main() -> tuple[Reply, bytes]:
        async with serving(says(whole(b'{"ok": 1}', "418 I'm a teapot", "X-Request-Id: r1\r\n"))) as server:
            reply = await send(server.url + "/m%2Fn?alt=sse", headers={"x-key": KEY, "content-type": "text/plain"})
            return reply, server.requests[0]

    reply, request = run(main())
    assert (reply.status, reply.body, reply.headers["x-request-id"]) == (418, b'{"ok": 1}', "r1")
    assert 0 <= reply.latency_ms < 60_000
    assert request.startswith(b"POST /v1/x/m%2Fn?alt=sse HTTP/1.1\r\n")
    head = request.lower()
    for line in (
        b"x-key: " + KEY.encode(),
        b"content-type: text/plain",
        b"content-length: 2",
        b"user-agent: truckllm/",
    ):
        assert line in head
    assert request.endswith(b"\r\n\r\n{}")


def test_connections_are_kept_and_cookies_are_not() -> None:
    async def main() -> Server:
        async with serving(says(whole(b"1", headers="set-cookie: a=b\r\n"))) as server, HttpSender() as sender:
            for _ in range(3):
                await sender.send(call(server.url))
            return server

    server = run(main())
    assert server.connections == 1
    assert b"cookie" not in server.requests[2].lower()


def test_a_redirect_is_a_reply_and_not_followed() -> None:
    async def main() -> tuple[Reply, int]:
        async with serving(says(whole(b"", "302 Found", "location: /other\r\n"))) as server:
            return await send(server.url), len(server.requests)

    reply, requests = run(main())
    assert (reply.status, requests) == (302, 1)


def test_more_calls_run_at_once_than_any_default_pool_allows() -> None:
    calls = 300

    async def main() -> int:
        everybody = asyncio.Barrier(calls)

        async def script(head: bytes, writer: Writer) -> None:
            await everybody.wait()
            writer.write(whole(b"1"))

        async with serving(script) as server, HttpSender() as sender:
            replies = await asyncio.gather(*(sender.send(call(server.url), Clocks(connect=60)) for _ in range(calls)))
            return len(replies)

    assert run(main()) == calls


# What certainly wasn't sent


def test_a_refused_connection_was_not_sent() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(SendError) as error:
            run(send(f"http://127.0.0.1:{taken.getsockname()[1]}/"))
    assert (error.value.failure.code, error.value.sent) == ("connect_error", False)


def test_an_unknown_host_was_not_sent() -> None:
    with pytest.raises(SendError) as error:
        run(send("http://nowhere.invalid/"))
    assert (error.value.failure.code, error.value.sent) == ("dns_error", False)


def test_a_connection_that_takes_too_long_was_not_sent() -> None:
    with socket.socket() as deaf, socket.socket() as first:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)  # nobody accepts: the first caller fills the queue, the next waits
        first.connect(deaf.getsockname())
        with pytest.raises(SendError) as error:
            run(send(f"http://127.0.0.1:{deaf.getsockname()[1]}/", Clocks(connect=0.2)))
    if error.value.failure.code != "connect_timeout":
        pytest.skip("this system's backlog is longer than asked for")
    assert error.value.sent is False


def test_a_server_without_tls_was_not_sent_to() -> None:
    async def main() -> SendError:
        async with serving(says(b"what?\r\n", close=True)) as server:
            with pytest.raises(SendError) as error:
                await send(server.url.replace("http:", "https:"), Clocks(connect=2))
            return error.value

    error = run(main())
    assert (error.failure.code, error.sent) == ("tls_error", False) or error.failure.code == "connect_timeout"


def test_a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    async def main() -> tuple[SendError, int]:
        server = Server(says(whole(b"1")))
        tls = self_signed(tmp_path)
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
        server.port = listening.sockets[0].getsockname()[1]
        try:
            with pytest.raises(SendError) as error:
                await send(server.url.replace("http:", "https:"))
        finally:
            listening.close()
        return error.value, len(server.requests)

    error, requests = run(main())
    assert (error.failure.code, error.sent, requests) == ("tls_error", False, 0)
    assert "certificate" in error.failure.message


def self_signed(folder: Path) -> ssl.SSLContext:
    """What a server of 127.0.0.1 shows that vouches for itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed_pem(folder))
    return context


def test_a_broken_header_or_url_was_not_sent() -> None:
    async def main() -> int:
        async with serving(says(whole(b"1"))) as server:
            for changes in ({"headers": {"x-key": f"{KEY}\r\nx-evil: 1"}}, {"url": "nothing"}, {"url": "ftp://x/"}):
                with pytest.raises(SendError) as error:
                    await send(**{"url": server.url, **changes})
                assert error.value.sent is False
                assert KEY not in str(error.value)
            return len(server.requests)

    assert run(main()) == 0


# What may have been billed


def test_a_reset_before_the_answer_may_be_billed_and_is_not_sent_again() -> None:
    async def main() -> tuple[SendError, int]:
        async with serving(says(b"", reset=True)) as server:
            with pytest.raises(SendError) as error:
                await send(server.url)
            return error.value, len(server.requests)

    error, requests = run(main())
    assert (error.failure.code, error.sent, requests) == ("connection_lost", True, 1)


def test_a_kept_connection_that_dies_under_a_call_is_not_tried_again() -> None:
    async def main() -> tuple[SendError, int]:
        async with serving(says(whole(b"1")), says(b"", close=True)) as server, HttpSender() as sender:
            await sender.send(call(server.url))
            with pytest.raises(SendError) as error:
                await sender.send(call(server.url))
            return error.value, len(server.requests)

    error, requests = run(main())
    assert (error.failure.code, error.sent, requests) == ("connection_lost", True, 2)


@pytest.mark.parametrize(
    "data",
    [
        whole(b"0123456789")[:-4],
        CHUNKED + chunked(b"01234") + b"5\r\n01",
        CHUNKED + chunked(b"01234"),
    ],
)
def test_a_body_that_breaks_off_is_truncated(data: bytes) -> None:
    error = failing(says(data, close=True))
    assert (error.failure.code, error.sent, error.partial) == ("truncated", True, None)


def test_what_is_no_http_is_unreadable() -> None:
    error = failing(says(b"SSH-2.0-OpenSSH\r\n\r\n", close=True))
    assert error.sent is True
    assert error.failure.code == "unreadable_reply"


@pytest.mark.parametrize("data", [b"", whole(b"0123456789")[:-4]])
def test_the_total_clock_ends_a_call_that_hangs_anywhere(data: bytes) -> None:
    error = failing(hangs(data), clocks=Clocks(total=0.3))
    assert (error.failure.code, error.sent) == ("timeout", True)


def test_a_slow_reply_that_is_no_stream_may_be_silent() -> None:
    async def script(head: bytes, writer: Writer) -> None:
        await asyncio.sleep(0.3)
        writer.write(whole(b"late"))

    async def main() -> Reply:
        async with serving(script) as server:
            return await send(server.url, Clocks(silence=0.05))

    assert run(main()).body == b"late"


def test_a_cancelled_call_holds_nothing_and_the_sender_goes_on() -> None:
    async def main() -> None:
        async with serving(hangs(CHUNKED + chunked(b"1")), says(whole(b"2"))) as server, HttpSender() as sender:
            task = asyncio.create_task(sender.send(call(server.url)))
            await server.asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert sender.bytes_being_read == 0
            assert (await sender.send(call(server.url))).body == b"2"

    run(main())


# Streams


def test_a_stream_comes_whole() -> None:
    pieces = [f"data: {number}\n\n".encode() for number in range(5000)]

    async def main() -> Reply:
        async with serving(says(CHUNKED + chunked(*pieces) + b"0\r\n\r\n")) as server:
            return await send(server.url, stream=True)

    assert run(main()).body == b"".join(pieces)


def test_a_stream_that_falls_silent_ends_with_what_came() -> None:
    for silence in (0.2, 2, 15):  # this machine may stand still for longer than that before anything came
        error = failing(hangs(CHUNKED + chunked(b"data: 1\n\n")), clocks=Clocks(silence=silence), stream=True)
        if error.partial is not None:
            break
    assert (error.failure.code, error.sent) == ("stream_silent", True)
    assert error.partial is not None
    assert (error.partial.status, error.partial.body) == (200, b"data: 1\n\n")
    assert error.partial.headers["content-type"] == "text/event-stream"


def test_a_stream_that_breaks_off_ends_with_what_came() -> None:
    error = failing(says(CHUNKED + chunked(b"data: 1\n\n"), close=True), stream=True)
    assert error.failure.code == "truncated"
    assert error.partial is not None
    assert error.partial.body == b"data: 1\n\n"


def test_pings_alone_hold_a_stream_open_only_so_long() -> None:
    async def pings(head: bytes, writer: Writer) -> None:
        writer.write(CHUNKED + chunked(b"data: 1\n\n"))
        while True:
            writer.write(chunked(b": ping\n\n"))
            await writer.drain()
            await asyncio.sleep(0.02)

    error = failing(pings, clocks=Clocks(silence=600, pings=0.3), stream=True)
    assert error.failure.code == "stream_silent"
    assert "pings" in error.failure.message


STREAM = b"data: 1\n\n" * 50 + b"data: [DONE]\n\n"
MEMBERS = b"".join(gzip.compress(line + b"\n\n", mtime=0) for line in STREAM.split(b"\n\n")[:-1])


def packed_stream(encoding: str, *pieces: bytes) -> bytes:
    return CHUNKED.replace(b"\r\n\r\n", f"\r\ncontent-encoding: {encoding}\r\n\r\n".encode()) + chunked(*pieces)


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(STREAM, mtime=0)),
        ("deflate", zlib.compress(STREAM)),
        ("gzip", MEMBERS),
        ("gzip", MEMBERS + b"\0" * 9),
        ("gzip", MEMBERS + b"\0"),
    ],
)
def test_a_stream_that_came_compressed_is_unpacked(encoding: str, packed: bytes) -> None:
    pieces = [packed[at : at + 7] for at in range(0, len(packed), 7)]

    async def main() -> Reply:
        async with serving(says(packed_stream(encoding, *pieces) + b"0\r\n\r\n")) as server:
            return await send(server.url, stream=True)

    assert run(main()).body == STREAM


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("packed", [gzip.compress(STREAM, mtime=0)[:-8], MEMBERS[:-3]])
def test_a_compressed_stream_that_breaks_off_ends_with_what_can_be_read(packed: bytes, ended: bool) -> None:
    """Also where the connection ends as it should, and the compression doesn't."""
    error = failing(says(packed_stream("gzip", packed) + b"0\r\n\r\n" * ended, close=True), stream=True)
    assert error.failure.code == "truncated"
    assert error.partial is not None
    assert error.partial.body == STREAM


def test_trailers_and_interim_responses_change_nothing() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    ending = b"0\r\nx-checksum: 1\r\nserver-timing: a\r\n\r\n"

    async def main() -> list[Reply]:
        scripts = [says(interim + CHUNKED + chunked(STREAM) + ending), says(interim + whole(b"2"))]
        async with serving(*scripts) as server, HttpSender() as sender:
            return [await sender.send(call(server.url, stream=stream)) for stream in (True, False)]

    first, second = run(main())
    assert (first.status, first.body) == (200, STREAM)
    assert (second.status, second.body) == (200, b"2")


# Sizes


def test_a_reply_over_the_bound_is_refused_by_its_length_and_by_its_bytes() -> None:
    for data in (whole(b"x" * 2000), CHUNKED + chunked(*[b"x" * 100] * 20) + b"0\r\n\r\n"):
        error = failing(says(data), sender=HttpSender(max_response_bytes=1000))
        assert (error.failure.code, error.sent) == ("reply_too_large", True)


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(b"x" * 900, mtime=0)),
        ("deflate", zlib.compress(b"x" * 900)),
        ("deflate", zlib.compress(b"x" * 900)[2:-4]),
        ("identity", b"x" * 900),
    ],
)
def test_a_compressed_reply_is_unpacked(encoding: str, packed: bytes) -> None:
    async def main() -> Reply:
        async with serving(says(whole(packed, headers=f"content-encoding: {encoding}\r\n"))) as server:
            return await send(server.url, sender=HttpSender(max_response_bytes=1000))

    assert run(main()).body == b"x" * 900


@pytest.mark.parametrize(
    ("packed", "encoding", "code"),
    [
        (gzip.compress(b"x" * 10_000_000, mtime=0), "gzip", "reply_too_large"),
        (gzip.compress(b"hello world", mtime=0)[:-9], "gzip", "truncated"),
        (b"rubbish", "gzip", "unreadable_reply"),
        (b"rubbish", "br", "unreadable_reply"),
    ],
)
def test_a_bomb_or_a_broken_packing_is_refused(packed: bytes, encoding: str, code: str) -> None:
    data = whole(packed, headers=f"content-encoding: {encoding}\r\n")
    error = failing(says(data), sender=HttpSender(max_response_bytes=100_000))
    assert (error.failure.code, error.sent) == (code, True)


# Proxies


def test_the_environments_proxy_is_used_and_its_exceptions_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> tuple[bytes, int]:
        async with serving(says(whole(b"by proxy"))) as proxy, serving(says(whole(b"direct"))) as direct:
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            http._proxy_of.cache_clear()
            assert (await send("http://api.example.com/v1/x")).body == b"by proxy"
            assert (await send(direct.url)).body == b"direct"
            return proxy.requests[0], len(proxy.requests)

    try:
        request, requests = run(main())
    finally:
        http._proxy_of.cache_clear()
    assert request.startswith(b"POST http://api.example.com/v1/x HTTP/1.1\r\n")
    assert requests == 1
