"""How much may be under way at a time, over plain HTTP and TLS, and how the server ends while callers hold it up."""

from __future__ import annotations

import gzip
import json
import signal
import socket
import sqlite3
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import self_signed_pem
from tests.servers import wait_for
from tests.submit.api.wire import ALLOWED, HOST, Api, Reply, is_closed, parsed, read_all, serving

POST = b"POST /v1/batches HTTP/1.1\r\n" + HOST + ALLOWED + b"Connection: close\r\n"
LINE = json.dumps({"prompt": "x" * 100, "model": "openai/gpt-4o"}).encode() + b"\n"
PATIENT = {"head_seconds": 300, "stall_seconds": 300, "idle_seconds": 300}


def upload(api: Api, length: int, begin: bytes = b"") -> socket.socket:
    """A submission whose body is announced, and begun."""
    return api.connect(POST + b"Content-Length: %d\r\n\r\n" % length + begin)


def submit(api: Api, body: bytes) -> Reply:
    return api.ask(POST + b"Content-Length: %d\r\n\r\n" % len(body), body)


@pytest.fixture(scope="module")
def small() -> Iterator[Api]:
    with serving("--largest-upload", "5", uploads=2, uploads_mb=1, requests=3, **PATIENT) as api:
        yield api


def test_so_many_files_are_taken_at_a_time_and_the_next_is_asked_to_come_again(small: Api) -> None:
    held = [upload(small, len(LINE) * 2, LINE) for _ in range(2)]
    wait_for(lambda: submit(small, LINE).status == 503, "both to be under way")
    refused = submit(small, LINE)
    assert (refused.status, refused.error["code"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    held[0].close()
    held[1].sendall(LINE)
    assert parsed(read_all(held[1])).status == 201
    wait_for(lambda: submit(small, LINE * 3).status in (200, 201), "the place of the one that went away to be free")


def test_they_have_so_many_bytes_together_but_one_alone_has_its_own_bound(small: Api) -> None:
    held = upload(small, 900_000, LINE)
    wait_for(lambda: submit(small, LINE * 3000).status == 503, "the first to be under way")
    assert submit(small, LINE * 3000).error["code"] == "overloaded"
    held.close()
    wait_for(lambda: submit(small, LINE * 14_000).status == 201, "the bytes of the one that went away to be free")


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(small: Api) -> None:
    reply = small.ask(POST + b"Content-Length: 5000000000\r\n\r\n")
    assert (reply.status, reply.error["code"]) == (413, "too_large")
    chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    reply = small.ask(POST + b"Transfer-Encoding: chunked\r\n\r\n", *([chunk] * 100))
    assert reply.status in (413, 0)


def test_so_many_requests_are_answered_at_a_time_and_health_always(small: Api) -> None:
    deaf = [upload(small, 5000, b"{") for _ in range(2)]
    wait_for(lambda: submit(small, LINE).status == 503, "both to be under way")
    third = small.connect(POST + b"Transfer-Encoding: chunked\r\n\r\n")
    assert parsed(read_all(third)).status == 503
    assert small.get("/healthz", b"").status == 200
    assert small.get("/v1/batches").status == 200
    for one in deaf:
        one.close()


@pytest.mark.full
@pytest.mark.parametrize("unit", [b"a", b"{},", b"\n"], ids=["a text", "many objects", "blank lines"])
def test_archives_that_hold_much_take_bounded_memory(unit: bytes) -> None:
    body = gzip.compress(b'{"prompt": [' + unit * (100_000_000 // len(unit)))
    assert len(body) < 300_000
    with serving() as api:
        replies: list[Reply] = []
        threads = [threading.Thread(target=lambda: replies.append(submit(api, body))) for _ in range(6)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert [reply.status for reply in replies] == [400] * 6
        assert peak(api) < 700_000_000


def peak(api: Api) -> int:
    """The most resident bytes that the server has had."""
    status = Path(f"/proc/{api.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def test_it_ends_in_time_whoever_holds_it_up() -> None:
    with serving(grace_seconds=1, **PATIENT) as api:
        assert submit(api, LINE * 5000).status == 201
        held = [
            api.connect(),
            api.connect(b"GET /v1/batches HTTP/1.1\r\nX: "),
            api.connect(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"),
            upload(api, 5000, b"{"),
            api.connect(b"GET /v1/batches/1/results HTTP/1.1\r\n" + HOST + ALLOWED + b"\r\n"),
        ]
        wait_for(lambda: api.get("/healthz", b"").status == 200, "what was sent to be read")
        api.process.send_signal(signal.SIGTERM)
        assert api.process.wait(60) == 0
        for one in held:
            one.close()


def test_a_submission_that_is_being_stored_doesnt_hold_up_the_end() -> None:
    with serving(grace_seconds=1) as api:
        body = b"".join(b'{"prompt": "%d", "model": "openai/gpt-4o"}\n' % number for number in range(100_000))
        sender = upload(api, len(body), body)
        database = sqlite3.connect(f"file:{api.home}/state/truckllm.db?mode=ro", uri=True)
        loading = "SELECT count(*) FROM jobs"
        wait_for(lambda: database.execute(loading).fetchone()[0] > 0, "the submission to be stored")
        api.process.send_signal(signal.SIGTERM)
        assert api.process.wait(60) == 0
        assert database.execute("SELECT status FROM batches").fetchall() == [("loading",)]
        database.close()
        assert parsed(read_all(sender)).status in (503, 0)


def test_requests_under_way_are_answered_before_the_end() -> None:
    with serving(grace_seconds=60) as api:
        sender = upload(api, len(LINE) * 2, LINE)
        wait_for(lambda: api.get("/healthz", b"").status == 200, "the first half to be read")
        api.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not accepts(api), "no connection to be accepted any more")
        sender.sendall(LINE)
        assert parsed(read_all(sender)).status == 201
        assert api.process.wait(60) == 0


def accepts(api: Api) -> bool:
    try:
        api.connect().close()
    except OSError:
        return False
    return True


def test_an_archive_unpacks_to_so_much() -> None:
    with serving("--largest-unpacked", "1") as api:
        assert submit(api, gzip.compress(LINE * 1000)).status == 201
        refused = submit(api, gzip.compress(LINE * 20_000))
        assert (refused.status, refused.error["code"]) == (400, "invalid_input")
        assert "unpacks to more than" in refused.error["message"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed_pem(tmp_path_factory.mktemp("tls"))


def test_handshakes_that_are_never_finished_keep_nobody_out(certificate: Path) -> None:
    trust = ssl.create_default_context(cafile=str(certificate))
    options = ("--certificate", str(certificate), "--private-key", str(certificate))
    with serving(*options, connections=40, connections_per_peer=30, head_seconds=300) as api:
        held = [api.connect(b"\x16\x03\x01\x02\x00") for _ in range(200)]
        for headers, status in ((b"", 401), (ALLOWED, 200)):
            with trust.wrap_socket(api.connect(), server_hostname="127.0.0.1") as wrapped:
                wrapped.sendall(b"GET /v1/batches HTTP/1.1\r\n" + HOST + headers + b"Connection: close\r\n\r\n")
                assert parsed(read_all(wrapped)).status == status
        wait_for(lambda: sum(not is_closed(one) for one in held) <= 30, "the oldest to be closed")
        for one in held:
            one.close()
    with serving(*options, head_seconds=1) as api:
        with api.connect(b"\x16\x03\x01\x02\x00") as silent:
            assert read_all(silent) == b""
        with trust.wrap_socket(api.connect(), server_hostname="127.0.0.1") as wrapped:
            wrapped.sendall(b"POST /v1/batches HTTP/1.1\r\n" + HOST + b"Content-Length: 100000\r\n\r\n" + b"a" * 50_000)
            assert parsed(read_all(wrapped)).status == 401
