"""Empty answers and reported costs by the real command, from the option to the summary, the status and the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.replay import Replay

pytestmark = pytest.mark.full

Play = Callable[..., Replay]


def reply(content: str | None, **usage: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    counts = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100, **usage}
    return {"body": {"object": "chat.completion", "model": "m-1", "choices": [choice], "usage": counts}}


@pytest.fixture
def play(tmp_path: Path, environment: dict[str, str]) -> Iterator[Play]:
    with ExitStack() as stack:

        def begin(replies: dict[str, list[Any]], *args: str) -> Replay:
            case = {
                "providers": {name: {"replies": one} for name, one in replies.items()},
                "lines": [{"id": name, "provider": name, "model": "m-1", "prompt": "Hello"} for name in replies],
                "args": list(args),
            }
            replay = Replay(case, tmp_path, environment)
            stack.callback(replay.close)
            return replay

        yield begin


@pytest.mark.parametrize(
    ("args", "code", "counted", "calls"),
    [((), 0, 1, 1), (("--empty-answers", "retry"), 0, 0, 2), (("--empty-answers", "fail"), 1, 0, 1)],
)
def test_empty_answers(play: Play, args: tuple[str, ...], code: int, counted: int, calls: int) -> None:
    replay = play({"empty": [reply(""), reply("second")], "good": [reply("Hi")]}, *args)
    assert replay.run() == code, replay.output
    assert replay.status()["empty_answers"] == counted
    assert ("with an empty answer" in replay.output) is bool(counted)
    assert len(replay.calls("empty")) == calls
    assert replay.jobs()["empty"]["error_code"] == ("empty_answer" if code else None)


def test_an_unknown_policy_is_refused_before_anything_is_sent(play: Play) -> None:
    replay = play({"p": [reply("Hi")]}, "--empty-answers", "drop")
    assert replay.run() == 2
    assert "keep, retry, fail" in replay.output
    replay.assert_nothing_was_sent()


def test_costs_show_what_is_unpriced_and_what_the_providers_report(play: Play) -> None:
    replay = play(
        {
            "ours": [reply("Hi", cost=0.002)],
            "theirs": [reply("Hi", citation_tokens=500, cost={"total_cost": 0.007})],
            "nobodys": [reply("Hi", citation_tokens=500)],
        }
    )
    assert replay.run() == 0, replay.output
    status = replay.status()
    assert (status["costs"], status["unpriced_tokens"]) == ({"USD": 1_200_000 + 7_000_000}, 1100)
    report = json.loads(replay.command("costs", "--by", "provider,price", "--json").stdout)
    rows = {row["provider"]: row for row in report["rows"]}
    assert {name: row["cost"] for name, row in rows.items()} == {"ours": "0.0012", "theirs": "0.007", "nobodys": None}
    assert rows["nobodys"]["price"] == "no price for citation_tokens"
    assert rows["theirs"]["price"] == "reported by the provider (no price for citation_tokens)"
    (total,) = report["totals"]
    told = (total["reported_calls"], total["reported_cost_usd"], total["reported_calls_cost_usd"])
    assert told == (2, "0.009", "0.0082")
    assert any(note.startswith("UNPRICED: 1 call") for note in report["notes"])
    assert any(
        note.startswith("REPORTED: the providers say that 2 calls cost 0.009 USD; 0.0082 USD")
        for note in report["notes"]
    )
    assert replay.results()["nobodys"]["cost"] is None
    assert "UNPRICED" in replay.output
