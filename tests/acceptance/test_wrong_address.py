"""A base_url that leads elsewhere: shown with the URL within seconds, for a call or two a row, and no row is lost.

The servers are real, and the command is.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.states import NEVER_REACHED
from tests.acceptance.replay import Replay
from tests.servers import wait_for

PAGE = {
    "headers": {"Content-Type": "text/html"},
    "body": "<!DOCTYPE html><html><title>Shop</title><body>Welcome</body></html>",
}
NOT_FOUND = {"status": 404, "body": {"detail": "Not Found"}}
LISTED: dict[str, dict[str, Any]] = {
    "openai": {"body": {"object": "list", "data": [{"id": "m-1", "object": "model"}]}},
    "claude": {"body": {"data": [{"type": "model", "id": "m-1"}], "has_more": False}},
    "gemini": {"body": {"models": [{"name": "models/m-1"}]}},
}
ANSWER = {
    "body": {
        "id": "c",
        "object": "chat.completion",
        "model": "m-1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
    }
}


Make = Callable[..., Replay]


@pytest.fixture
def make(tmp_path: Path, environment: dict[str, str]) -> Iterator[Make]:
    """Lays a case out: its providers, and lines, as many as asked for, for the first of them or for a route."""
    made: list[Replay] = []

    def lay_out(providers: dict[str, Any], rows: int = 4, config: dict[str, Any] | None = None, **line: Any) -> Replay:
        where = {"route": "r"} if config and "routes" in config else {"provider": next(iter(providers)), "model": "m-1"}
        lines = [{"id": str(n), "prompt": f"Q{n}", **where, **line} for n in range(rows)]
        made.append(Replay({"providers": providers, "lines": lines, "config": config or {}}, tmp_path, environment))
        return made[-1]

    yield lay_out
    for one in made:
        one.close()


GOOGLE = {
    "status": 404,
    "headers": {"Content-Type": "text/html"},
    "body": "<title>404 Not Found</title><h1>404 Not Found</h1>",
}
SIBLINGS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("openai", PAGE, {}),
    ("openai", PAGE, {"stream": True}),
    ("openai", {"body": {"status": "up", "version": "1.2"}}, {}),
    ("openai", {"status": 405, "body": {"detail": "Method Not Allowed"}}, {}),
    ("openai", {"status": 302, "headers": {"Location": "/login"}, "body": ""}, {}),
    ("claude", PAGE, {}),
    ("gemini", GOOGLE, {}),
    ("claude", NOT_FOUND, {}),
]
QUICK = 1
"""So many of them, the last, are played each time."""


@pytest.mark.parametrize(
    ("kind", "reply", "line"),
    [*(pytest.param(*one, marks=pytest.mark.full) for one in SIBLINGS[:-QUICK]), *SIBLINGS[-QUICK:]],
)
def test_where_all_that_answers_is_something_else_the_run_ends_blocked_with_the_url(
    make: Make, kind: str, reply: dict[str, Any], line: dict[str, Any]
) -> None:
    replay = make({"p": {"type": kind, "replies": [reply], "list": reply}}, **line)
    replay.assert_blocked(replay.run(), "is base_url right?", f"{replay.providers.url}/p/v1", "Once that is mended")
    assert all(len(replay.attempts(one)) <= 3 for one in replay.jobs())
    assert {call["error_code"] for one in replay.jobs() for call in replay.attempts(one)} == {"wrong_endpoint"}
    assert "is base_url right?" in replay.command("status", "1").stdout


def test_where_the_api_lists_its_models_a_path_that_is_missing_fails_its_rows_at_once(make: Make) -> None:
    replay = make({"p": {"replies": [NOT_FOUND], "list": LISTED["openai"]}})
    assert replay.run() == 1, replay.output
    for job in replay.jobs().values():
        assert (job["status"], job["error_code"], job["attempts"]) == ("failed", "http_404", 1)
        assert (
            job["error_message"]
            == f"Not Found; is base_url right? {replay.providers.url}/p/v1/chat/completions was asked"
        )


@pytest.mark.full
def test_a_page_between_answers_is_a_broken_reply_and_asked_again(make: Make) -> None:
    by = [{"prompt": "Q0", "replies": [{**ANSWER}]}, {"prompt": "Q1", "replies": [{**PAGE, "delay": 2}, ANSWER]}]
    replay = make({"p": {"replies": [ANSWER], "by": by, "list": LISTED["openai"]}})
    assert replay.run() == 0, replay.output
    assert [call["error_code"] for call in replay.attempts("1")] == ["unreadable_reply", None]


@pytest.mark.full
def test_rows_of_a_route_go_to_the_next_candidate(make: Make) -> None:
    providers = {"wrong": {"replies": [PAGE], "list": PAGE}, "right": {"replies": [ANSWER]}}
    replay = make(providers, 20, {"routes": {"r": {"candidates": ["wrong/m-1", "right/m-1"]}}})
    assert replay.run() == 0, replay.output
    assert len(replay.calls("wrong")) <= 20
    assert len(replay.calls("right")) == 20


@pytest.mark.full
@pytest.mark.timeout(300)
def test_a_host_that_has_never_answered_ends_the_run_after_a_minute(make: Make) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    replay = make({"p": {"replies": [ANSWER]}}, config={"worker": {}})
    config = replay.folder / "truckllm.yaml"
    right = config.read_text()
    config.write_text(right.replace(replay.providers.url, f"http://127.0.0.1:{port}"))
    replay.assert_blocked(
        replay.run(150), f"p has never answered: no connection to 127.0.0.1:{port}", "is base_url right?"
    )
    assert {call["error_code"] for one in replay.jobs() for call in replay.attempts(one)} <= NEVER_REACHED
    config.write_text(right)
    process = replay.start()
    wait_for(lambda: process.poll() == 0, "the same run to go on where the address is right", 120)
