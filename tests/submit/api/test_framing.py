"""What two programs in a row could read differently, or what is larger than it may be: refused by a JSON error, and the connection closed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.submit.api.wire import ALLOWED, HOST, Api, parsed, read_all, serving

START = b"POST /v1/batches HTTP/1.1\r\n" + HOST + ALLOWED
SMUGGLED = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with serving() as found:
        yield found


REFUSED = {
    "length and encoding": (400, START + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "encoding and length": (400, START + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    "two lengths": (400, START + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\na"),
    "the same length twice": (400, START + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na"),
    "a list of lengths": (400, START + b"Content-Length: 1, 1\r\n\r\na"),
    "a length with a sign": (400, START + b"Content-Length: +1\r\n\r\na"),
    "a length that is no number": (400, START + b"Content-Length: 0x5\r\n\r\nhello"),
    "a negative length": (400, START + b"Content-Length: -1\r\n\r\n"),
    "two encodings": (501, START + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "an unknown encoding": (501, START + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "the encoding twice": (501, START + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "an encoding in HTTP/1.0": (400, b"POST /v1/batches HTTP/1.0\r\n" + ALLOWED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "a space before the colon": (400, START + b"Content-Length : 5\r\n\r\nhello"),
    "a folded header": (400, START + b"X: a\r\n b\r\n\r\n"),
    "a folded encoding": (400, START + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    "lines that end in LF": (400, b"GET /v1/batches HTTP/1.1\nHost: a\n\n"),
    "one line that ends in LF": (400, b"GET /v1/batches HTTP/1.1\r\nHost: a\r\nX: a\nY: b\r\n\r\n"),
    "a CR alone": (400, b"GET /v1/batches HTTP/1.1\r\nHost: a\r\nX: a\rY: b\r\n\r\n"),
    "a NUL in a header": (400, b"GET /v1/batches HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
    "no host": (400, b"GET /v1/batches HTTP/1.1\r\n" + ALLOWED + b"\r\n"),
    "two hosts": (400, b"GET /v1/batches HTTP/1.1\r\nHost: a\r\nHost: b\r\n" + ALLOWED + b"\r\n"),
    "two tokens": (400, b"GET /v1/batches HTTP/1.1\r\n" + HOST + ALLOWED + b"Authorization: Bearer x\r\n\r\n"),
    "the same token twice": (400, b"GET /v1/batches HTTP/1.1\r\n" + HOST + ALLOWED + ALLOWED + b"\r\n"),
    "a body of GET": (400, b"GET /v1/batches HTTP/1.1\r\n" + HOST + ALLOWED + b"Content-Length: 5\r\n\r\nhello"),
    "a chunked body of GET": (400, b"GET /v1/batches HTTP/1.1\r\n" + HOST + ALLOWED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "a body of HEAD": (400, b"HEAD /v1/batches HTTP/1.1\r\n" + HOST + ALLOWED + b"Content-Length: 5\r\n\r\nhello"),
    "a body of DELETE": (400, b"DELETE /v1/batches/1 HTTP/1.1\r\n" + HOST + ALLOWED + b"Content-Length: 5\r\n\r\nhello"),
    "a body of the health check": (400, b"GET /healthz HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello"),
    "a header beyond 64 KB": (431, b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 70_000 + b"\r\n\r\n"),
    "headers beyond 64 KB": (431, b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"X%d: %s\r\n" % (n, b"a" * 1000) for n in range(80)) + b"\r\n"),
    "a head without an end": (431, b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 300_000),
    "too many headers": (431, b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"X%d: a\r\n" % n for n in range(101)) + b"\r\n"),
    "a long URL": (414, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a URL without an end": (414, b"GET /" + b"a" * 300_000),
    "a URL with bytes beyond ASCII": (400, b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + ALLOWED + b"\r\n"),
    "a URL with a space": (400, b"GET /a b HTTP/1.1\r\n" + HOST + ALLOWED + b"\r\n"),
    "an expectation that nobody knows": (417, START + b"Expect: a-miracle\r\nContent-Length: 1\r\n\r\n"),
    "a token in a broken line": (400, b"GET / HTTP/1.1\r\n" + HOST + b"Authorization Bearer canary\r\n\r\n"),
    "no HTTP": (400, b"\x16\x03\x01\x02\x00" + b"\0" * 512 + b"\r\n\r\n"),
    "HTTP/0.9": (400, b"GET /healthz\r\n\r\n"),
    "HTTP/2 without asking": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_as_json_and_nothing_behind_it_is_read(api: Api, name: str) -> None:
    status, data = REFUSED[name]
    reply = api.ask(data + SMUGGLED)
    assert reply.status == status
    if not data.startswith(b"HEAD"):
        assert 10 < len(reply.error["message"]) < 120
        assert b"canary" not in reply.body
    assert reply.headers["connection"] == "close"
    assert b"HTTP/1.1" not in reply.rest
    assert api.get("/healthz", b"").status == 200


@pytest.mark.parametrize(
    "chunks",
    [b"5;\r\nhello", b"zz\r\nhello\r\n", b"-5\r\nhello\r\n", b"0x5\r\nhello\r\n", b"5 \nhello\r\n", b"5\nhello\r\n", b"5\r\nhelloXX0\r\n\r\n", b"f" * 30 + b"\r\n",
     b"1;" + b"a" * 100_000, b"0\r\nno trailer\r\n\r\n"],
    ids=["short", "letters", "sign", "prefix", "LF and space", "LF", "no end", "long size", "long extension", "bad trailer"],
)  # fmt: skip
def test_a_bad_chunk_ends_the_connection_and_enqueues_nothing(api: Api, chunks: bytes) -> None:
    with api.connect(START + b"Transfer-Encoding: chunked\r\n\r\n" + chunks) as connection:
        if chunks == b"5;\r\nhello":  # sound so far, and then its sender is gone
            return
        reply = parsed(read_all(connection))
    assert reply.status in (400, 431)
    assert reply.error["code"] in ("bad_request", "headers_too_large")
    assert json.loads(api.get("/v1/batches").body) == {"batches": []}


@pytest.mark.parametrize(
    ("status", "code", "data"),
    [
        (401, "unauthorized", b"GET /v1/batches HTTP/1.1\r\n" + HOST),
        (401, "unauthorized", b"GET /nowhere HTTP/1.1\r\n" + HOST),
        (401, "unauthorized", b"GET /v1/batches HTTP/1.1\r\n" + HOST + b"Authorization: Bearer wrong-canary\r\n"),
        (404, "not_found", b"GET /nowhere HTTP/1.1\r\n" + HOST + ALLOWED),
        (404, "not_found", b"GET /v1/batches/7 HTTP/1.1\r\n" + HOST + ALLOWED),
        (404, "not_found", b"GET /v1/batches/%2e%2e%2f..%00%ff HTTP/1.1\r\n" + HOST + ALLOWED),
        (404, "not_found", b"GET http://elsewhere/v1/batches HTTP/1.1\r\n" + HOST + ALLOWED),
        (405, "method_not_allowed", b"PUT /v1/batches HTTP/1.1\r\n" + HOST + ALLOWED + b"Content-Length: 0\r\n"),
        (405, "method_not_allowed", b"FROBNICATE /v1/batches HTTP/1.1\r\n" + HOST + ALLOWED),
        (404, "not_found", b"CONNECT elsewhere:443 HTTP/1.1\r\n" + HOST + ALLOWED),
        (400, "bad_request", b"GET /v1/batches?limit=x HTTP/1.1\r\n" + HOST + ALLOWED),
        (400, "invalid_input", b"POST /v1/batches HTTP/1.1\r\n" + HOST + ALLOWED + b"Content-Length: 0\r\n"),
    ],
)
def test_errors_of_every_layer_have_one_form(api: Api, status: int, code: str, data: bytes) -> None:
    reply = api.ask(data + b"Connection: close\r\n\r\n")
    assert (reply.status, reply.error["code"]) == (status, code)
    assert "canary" not in reply.body.decode()
    assert ("allow" in reply.headers) == (status == 405)


def test_a_body_that_no_endpoint_reads_is_refused(api: Api) -> None:
    for path in (
        b"/v1/batches/1/pause",
        b"/v1/batches/1/cancel",
        b"/v1/keys/openai/oa-1/disable",
        b"/v1/workers/1/drain",
    ):
        reply = api.ask(b"POST " + path + b" HTTP/1.1\r\n" + HOST + ALLOWED + b"Content-Length: 5\r\n\r\n")
        assert (reply.status, reply.headers["connection"]) == (400, "close")
        assert "the query" in reply.error["message"]


def test_a_websocket_is_not_offered(api: Api) -> None:
    upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    with api.connect(b"GET /v1/batches HTTP/1.1\r\n" + HOST + upgrade) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")


def test_requests_behind_each_other_are_answered_in_order(api: Api) -> None:
    one = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    two = b"GET /nowhere HTTP/1.1\r\n" + HOST + ALLOWED + b"\r\n"
    last = b"GET /v1/batches HTTP/1.1\r\n" + HOST + ALLOWED + b"Connection: close\r\n\r\n"
    first = api.ask(one + two + last)
    second = parsed(first.rest)
    third = parsed(second.rest)
    assert [first.status, second.status, third.status] == [200, 404, 200]
    assert json.loads(third.body) == {"batches": []}
    assert third.rest == b""


def test_http_1_0_is_answered_and_closed(api: Api) -> None:
    reply = api.ask(b"GET /v1/batches HTTP/1.0\r\n" + ALLOWED + b"\r\n")
    assert reply.status == 200
    assert json.loads(reply.body) == {"batches": []}


def test_a_body_is_asked_for_only_where_the_token_is_valid(api: Api) -> None:
    asking = b"Connection: close\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    with api.connect(START + asking) as connection:
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"{}")
        assert parsed(read_all(connection)).error["code"] == "invalid_input"
    refused = api.ask(b"POST /v1/batches HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert (refused.status, refused.headers["connection"]) == (401, "close")


def test_who_sends_much_without_a_token_gets_the_answer_and_is_cut_off(api: Api) -> None:
    with api.connect(b"POST /v1/batches HTTP/1.1\r\n" + HOST + b"Content-Length: 200000000\r\n\r\n") as connection:
        sent = 0
        try:
            while sent < 200_000_000:
                sent += connection.send(b"a" * 65536)
        except ConnectionError:
            pass
        assert sent < 100_000_000
    with api.connect(b"POST /v1/batches HTTP/1.1\r\n" + HOST + b"Content-Length: 50000\r\n\r\n" + b"a" * 50_000) as one:
        assert parsed(read_all(one)).status == 401
