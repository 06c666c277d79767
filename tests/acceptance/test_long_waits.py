"""A wait far beyond a day that a provider asks for: by the real command, from the refusal to the person who ends it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.replay import Replay
from tests.servers import wait_for

ANSWER = {
    "body": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "fine"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 10, "output_tokens": 5},
    }
}
REFUSAL = {
    "status": 429,
    "headers": {"retry-after": "Thu, 31 Dec 2099 23:59:59 GMT"},
    "body": {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "Number of requests has exceeded your limit"},
    },
}
CASE: dict[str, Any] = {
    "providers": {
        "claude": {
            "type": "claude",
            "by": [{"model": "large", "replies": [REFUSAL, ANSWER]}],
            "replies": [ANSWER],
        }
    },
    "lines": [
        {"id": str(n), "provider": "claude", "model": "large" if n < 3 else "small", "prompt": f"p{n}", "max_tokens": 9}
        for n in range(6)
    ],
    "config": {"worker": {"concurrency": 1}},
}


@pytest.fixture
def replay(tmp_path: Path, environment: dict[str, str]) -> Iterator[Replay]:
    with contextlib.closing(Replay(CASE, tmp_path, environment)) as made:
        yield made


@pytest.mark.full
def test_a_wait_until_2099_holds_one_model_for_a_day_and_a_person_ends_it(replay: Replay) -> None:
    process = replay.start()

    def small_is_done() -> bool:
        jobs = replay.jobs() if replay.calls() else {}
        return bool(jobs) and all(jobs[str(n)]["status"] == "succeeded" for n in (3, 4, 5))

    wait_for(small_is_done, "rows of the other model", 60)
    wait_for(lambda: "model large: cooling down for 24 h 0 min" in replay.read_output(), "the wait in run's output", 60)
    (told,) = replay.status()["cooldowns"]
    assert (told["model"], told["reason"]) == ("large", "Number of requests has exceeded your limit")
    assert 86_000 < told["seconds"] <= 86_400
    assert len([call for call in replay.calls() if call.model == "large"]) == 1
    assert {replay.jobs()[str(n)]["status"] for n in range(3)} == {"queued"}
    replay.command("keys", "enable", told["key"])
    assert process.wait(60) == 0
    assert {job["status"] for job in replay.jobs().values()} == {"succeeded"}
