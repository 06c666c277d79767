"""HTTP as clients really send it: ahead of turn, in chunks, with Expect, or not HTTP at all; and any body whatever."""

import json
import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker.sandbox.conftest import KEY, PROVIDERS, Play
from worker.sandbox.claude import Claude
from worker.sandbox.dialect import Dialect, Refusal
from worker.sandbox.gemini import Gemini
from worker.sandbox.openai import OpenAI
from worker.sandbox.settings import SandboxSettings
from worker.sandbox.wire import Request

BODY = b'{"model":"m-1","messages":[{"role":"user","content":"%d"}]}'
HEAD = b"POST /openai/v1/chat/completions HTTP/1.1\r\nauthorization: Bearer " + KEY.encode() + b"\r\n"


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def until(sock: socket.socket, mark: bytes, count: int = 1) -> bytes:
    got = b""
    while got.count(mark) < count:
        more = sock.recv(65536)
        assert more, got
        got += more
    return got


def test_requests_sent_ahead_are_answered_in_order(play: Play) -> None:
    played = play(latency=0.01)
    bodies = [BODY % number for number in range(5)]
    sock = connect(played.box.port)
    sock.sendall(b"".join(HEAD + b"content-length: %d\r\n\r\n%b" % (len(body), body) for body in bodies))
    got = until(sock, b"system_fingerprint", 5)
    said = [played.ask("openai", str(number)).json()["choices"][0]["message"]["content"] for number in range(5)]
    spots = [got.index(text.encode()) for text in said]
    assert spots == sorted(spots)
    sock.close()


def test_a_body_in_chunks_and_an_expectation_are_understood(play: Play) -> None:
    played = play()
    sock = connect(played.box.port)
    sock.sendall(HEAD + b"transfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n")
    assert until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    body = BODY % 1
    for at in range(0, len(body), 7):
        sock.sendall(b"%x\r\n%b\r\n" % (len(body[at : at + 7]), body[at : at + 7]))
    sock.sendall(b"0\r\n\r\n")
    assert until(sock, b"system_fingerprint").startswith(b"HTTP/1.1 200")
    sock.close()


def test_a_client_that_asks_to_close_is_left(play: Play) -> None:
    sock = connect(play().box.port)
    body = BODY % 1
    sock.sendall(HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    until(sock, b"system_fingerprint")
    while sock.recv(65536):
        pass
    sock.close()


def test_what_is_no_http_gets_a_400(play: Play) -> None:
    sock = connect(play().box.port)
    sock.sendall(b"hello there\r\n\r\n")
    assert until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert sock.recv(1) == b""
    sock.close()


def test_a_key_of_any_bytes_is_served_and_logged(play: Play) -> None:
    played = play()
    for provider in PROVIDERS:
        request = played.request(provider)
        scheme = b"Bearer " if provider == "openai" else b""
        version = {name: value for name, value in request["headers"].items() if name == "anthropic-version"}
        request["headers"] = dict.fromkeys(request["headers"], scheme + b"a long key \xff\xfe\xc3\xa9") | version
        assert played.client.request(**request).status_code == 200
    assert len({row["key_id"] for row in played.rows()}) == 1


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
junk = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
parts = st.fixed_dictionaries({}, optional={"type": junk, "text": junk, "image_url": junk, "inline_data": junk})
message = junk | st.fixed_dictionaries(
    {}, optional={"role": junk | st.sampled_from(["user", "tool"]), "content": junk | st.lists(parts), "parts": st.lists(parts) | junk}
)  # fmt: skip
names = ("temperature", "top_p", "top_k", "max_tokens", "stream", "stream_options", "n", "system", "generationConfig")
bodies = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(names, junk)
    | {"model": st.just("m") | junk, "max_tokens": st.just(5) | junk, "systemInstruction": message}
    | {"messages": st.lists(message, max_size=3) | junk, "contents": st.lists(message, max_size=3) | junk},
)  # fmt: skip


@pytest.mark.parametrize(
    ("dialect", "path"),
    [
        (OpenAI(), "/openai/v1/chat/completions"),
        (Claude(), "/claude/v1/messages"),
        (Gemini(), "/gemini/v1/models/m:generateContent"),
    ],
)
@given(body=bodies, wanted=st.sets(st.sampled_from(["model", "max_tokens", "messages", "contents"])))
@settings(max_examples=80)
def test_any_json_is_a_chat_or_a_400(dialect: Dialect, path: str, body: dict[str, Any], wanted: set[str]) -> None:
    request = Request()
    request.method, request.path, request.headers = "POST", path, {b"anthropic-version": b"2023-06-01"}
    defaults = {
        "model": "m",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "x"}],
        "contents": [{"parts": [{"text": "x"}]}],
    }
    request.body = json.dumps(body | {name: defaults[name] for name in wanted}).encode()
    status = 200
    try:
        dialect.read(request, SandboxSettings())
    except Refusal as refusal:
        status = refusal.answer.status
    assert status in (200, 400)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"x"', b"\xff", b"{", b"[" * 100_000])
def test_a_body_that_is_no_object_is_a_400(play: Play, provider: str, body: bytes) -> None:
    played = play()
    request = played.request(provider) | {"json": None, "content": body}
    assert played.client.request(**request).status_code == 400
