"""Who sends or reads too slowly, or opens too many connections: the server lets go of it and serves everybody else meanwhile."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.servers import wait_for
from tests.submit.api.wire import ALLOWED, HOST, Api, Reply, is_closed, parsed, read_all, serving

HALF = b"GET /v1/batches HTTP/1.1\r\n" + HOST + b"X: "
UPLOAD = b"POST /v1/batches HTTP/1.1\r\n" + HOST + ALLOWED
LINE = json.dumps({"prompt": "x" * 1000, "model": "openai/gpt-4o"}).encode() + b"\n"


@pytest.fixture(scope="module")
def patient() -> Iterator[Api]:
    """Waits for minutes, but for 40 connections at a time, and 30 of a peer that has shown no token."""
    with serving(connections=40, connections_per_peer=30, head_seconds=300, stall_seconds=300, idle_seconds=300) as api:
        yield api


@pytest.fixture(scope="module")
def hasty() -> Iterator[Api]:
    with serving(head_seconds=1, idle_seconds=1, stall_seconds=1, body_seconds=4, bytes_per_second=500) as api:
        yield api


def dripping(connection: socket.socket, byte: Callable[[], bytes]) -> Reply:
    """Sends a byte now and then until there is an answer."""
    connection.settimeout(0.1)
    found = b""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            connection.sendall(byte())
        except ConnectionError:
            break
        try:
            chunk = connection.recv(65536)
        except TimeoutError:
            continue
        except ConnectionError:
            break
        if not chunk:
            break
        found += chunk
    return parsed(found)


def test_half_sent_requests_keep_nobody_out(patient: Api) -> None:
    held = [patient.connect(HALF) for _ in range(520)]
    assert patient.get("/healthz", b"").status == 200
    assert patient.get("/v1/batches").status == 200
    assert patient.get("/v1/batches", b"", source="127.0.0.3").status == 401
    wait_for(lambda: sum(not is_closed(one) for one in held) <= 30, "the oldest to be closed")
    for one in held:
        one.close()


def test_many_peers_together_keep_nobody_out(patient: Api) -> None:
    held = [patient.connect(HALF, source=f"127.0.1.{number % 50 + 1}") for number in range(200)]
    assert patient.get("/healthz", b"").status == 200
    assert patient.get("/v1/batches").status == 200
    wait_for(lambda: sum(not is_closed(one) for one in held) <= 40, "the oldest to be closed")
    for one in held:
        one.close()


def test_who_is_closed_for_others_is_told_so(patient: Api) -> None:
    first = patient.connect(HALF, source="127.0.2.1")
    held = [patient.connect(HALF, source="127.0.2.1") for _ in range(30)]
    reply = parsed(read_all(first))
    assert (reply.status, reply.error["code"]) == (429, "too_many_connections")
    assert int(reply.headers["retry-after"]) >= 1
    for one in held:
        one.close()


def test_connections_that_have_shown_a_token_are_not_closed_for_others(patient: Api) -> None:
    kept = patient.connect(b"GET /v1/batches HTTP/1.1\r\n" + HOST + ALLOWED + b"\r\n")
    assert kept.recv(65536).startswith(b"HTTP/1.1 200")
    held = [patient.connect(HALF) for _ in range(100)]
    kept.sendall(b"GET /v1/batches HTTP/1.1\r\n" + HOST + ALLOWED + b"Connection: close\r\n\r\n")
    assert parsed(read_all(kept)).status == 200
    for one in held:
        one.close()


def test_a_head_has_its_time_however_it_drips(hasty: Api) -> None:
    with hasty.connect(HALF) as connection:
        assert dripping(connection, lambda: b"a").error["code"] == "request_timeout"
    with hasty.connect() as silent:
        assert read_all(silent) == b""
    with hasty.connect(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n") as idle:
        assert parsed(read_all(idle)).status == 200


def test_a_second_request_has_its_time_too(hasty: Api) -> None:
    with hasty.connect(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n") as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(HALF)
        reply = dripping(connection, lambda: b"a")
        assert reply.status in (408, 0)


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 100000\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"]
)
def test_a_body_that_stops_or_drips_is_given_up(hasty: Api, framing: bytes) -> None:
    chunked = framing.startswith(b"Transfer")
    with hasty.connect(UPLOAD + framing) as connection:
        reply = parsed(read_all(connection))
    assert (reply.status, reply.error["code"]) == (408, "request_timeout")
    with hasty.connect(UPLOAD + framing) as connection:
        reply = dripping(connection, lambda: b"1\r\na\r\n" if chunked else b"a")
    assert reply.status == 408
    assert json.loads(hasty.get("/v1/batches").body) == {"batches": []}


def test_a_body_has_its_time_however_steadily_it_comes(hasty: Api) -> None:
    with hasty.connect(UPLOAD + b"Content-Length: 100000000\r\n\r\n") as connection:
        reply = dripping(connection, lambda: LINE)
    assert reply.status == 408
    assert "4 s" in reply.error["message"]


def test_a_body_without_a_token_is_not_waited_for(patient: Api) -> None:
    with patient.connect(b"POST /v1/batches HTTP/1.1\r\n" + HOST + b"Content-Length: 100000\r\n\r\n") as connection:
        assert parsed(read_all(connection)).status == 401


def test_who_never_reads_results_is_cut_off_and_holds_nothing(hasty: Api) -> None:
    line = {"prompt": "x", "model": "openai/gpt-4o", "metadata": {"note": "x" * 5000}}
    body = (json.dumps(line).encode() + b"\n") * 2000
    done = hasty.ask(UPLOAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body), body)
    assert done.status == 201, done
    path = f"/v1/batches/{json.loads(done.body)['batch_id']}/results"
    memory = []
    for _ in range(3):
        held = {unread(hasty, path) for _ in range(5)}

        def cut_off(held: set[socket.socket] = held) -> bool:
            for one in [one for one in held if is_reset(one)]:
                held.discard(one)
                one.close()
            return not held

        wait_for(cut_off, "the callers that don't read to be cut off")
        memory.append(hasty.memory)
    assert memory[2] < memory[0] + 30_000_000
    assert hasty.get(path).status == 200


def unread(api: Api, path: str) -> socket.socket:
    """A connection whose answer nobody reads."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", api.port))
    connection.sendall(f"GET {path} HTTP/1.1\r\n".encode() + HOST + ALLOWED + b"\r\n")
    return connection


def is_reset(connection: socket.socket) -> bool:
    """Whether the other side has reset it; nothing is read."""
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def test_a_slow_reader_gets_it_all(hasty: Api) -> None:
    listed = [one["batch_id"] for one in json.loads(hasty.get("/v1/batches").body)["batches"]]
    with hasty.connect(
        f"GET /v1/batches/{listed[-1]}/results HTTP/1.1\r\n".encode() + HOST + ALLOWED + b"Connection: close\r\n\r\n"
    ) as one:
        found = b""
        one.settimeout(30)
        while chunk := one.recv(200_000):
            found += chunk
            time.sleep(0.02)
    assert found.endswith(b"0\r\n\r\n")
