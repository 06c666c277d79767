"""The truth log has one row for every call that arrived, whatever became of it, and no secret in it."""

import json
import os
import threading
from pathlib import Path

import pytest

from tests.worker.sandbox.conftest import KEY, PROVIDERS, Play
from worker.sandbox.quotas import key_name
from worker.sandbox.replies import Usage, prompt_sha
from worker.sandbox.truth import TruthLog

FIELDS = {
    "n", "at", "mono", "provider", "key_id", "model", "prompt_sha", "path", "status", "fault", "billed", "input_tokens",
    "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens", "fees", "sent_whole", "limited", "limit", "finished_at", "booked_tokens",
}  # fmt: skip


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_row_tells_all_about_a_call_but_its_key_and_text(play: Play, provider: str) -> None:
    played = play()
    played.ask(provider, "a secret prompt")
    row = played.row()
    assert set(row) == FIELDS
    assert row["n"] == 1
    assert row["at"] <= row["finished_at"]
    assert (row["provider"], row["model"], row["prompt_sha"]) == (provider, "m-1", prompt_sha("a secret prompt"))
    assert (row["status"], row["fault"], row["billed"], row["sent_whole"], row["limited"]) == (
        200,
        None,
        True,
        True,
        False,
    )
    assert row["key_id"] == key_name(KEY)
    assert row["path"].startswith(f"/{provider}/v1/")
    shown = json.dumps(row) + played.client.get(f"{played.box.url}/_sandbox/summary").text
    assert KEY not in shown
    assert "secret prompt" not in shown


def test_a_short_key_is_named_by_its_digest_only() -> None:
    assert key_name("abc") not in ("abc", "")
    assert "abcd" not in key_name("x-abcd")[:5]
    assert key_name(KEY).startswith("6789-")


def test_rows_keep_the_order_of_arrival_and_can_be_asked_for_in_part(play: Play) -> None:
    played = play()
    for provider in ("openai", "gemini", "openai", "claude"):
        played.ask(provider)
    assert [row["n"] for row in played.rows()] == [1, 2, 3, 4]
    assert [row["n"] for row in played.rows("?provider=openai")] == [1, 3]
    assert [row["n"] for row in played.rows("?provider=openai&since=1")] == [3]


def test_the_file_gets_every_row_as_it_ends(play: Play, tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    played = play(log=str(file), faults=[{"kind": "reset", "when": "before", "provider": "gemini"}])
    played.ask("openai")
    with played.raw(played.request("gemini")) as sock, pytest.raises(ConnectionResetError):
        sock.recv(1)
    played.ask("claude", foo=1)
    rows = played.rows()
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert written == rows
    assert [row["status"] for row in written] == [200, None, 400]
    assert os.stat(file).st_mode & 0o077 == 0


def test_calls_on_their_way_at_the_end_are_in_the_file_as_unanswered(play: Play, tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    played = play(log=str(file), latency=600)
    sock = played.raw(played.request("openai"))
    while not played.rows():
        pass
    play.close(played)
    (row,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert (row["status"], row["billed"], row["sent_whole"]) == (None, True, False)
    sock.close()


def test_the_summary_adds_up_calls_tokens_refusals_and_calls_in_flight(play: Play) -> None:
    played = play(accounts=[{"provider": "openai", "key": KEY, "rpm": 1800}], latency=0.1)  # holds 30
    prompts = [f"prompt {number}" for number in range(8)]
    threads = [threading.Thread(target=played.ask, args=("openai", prompt)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert played.ask("openai", key="sk-wrong-key-0000000").status_code == 401
    summary = played.client.get(f"{played.box.url}/_sandbox/summary").json()
    rows = played.rows()
    assert summary["calls"] == len(rows) == 9
    (provider,) = summary["providers"]
    assert (provider["calls"], provider["billed_calls"], provider["in_flight"]) == (9, 8, 0)
    assert 2 <= provider["max_in_flight"] <= 8
    for name in ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"):
        assert provider[name] == sum(row[name] for row in rows)
    by_key = {entry["key_id"]: entry for entry in summary["keys"]}
    assert by_key[key_name(KEY)]["billed_calls"] == 8
    assert {(entry["model"], entry["calls"]) for entry in summary["models"]} == {("m-1", 8), (None, 1)}


def test_totals_outlive_the_rows_that_are_kept() -> None:
    log = TruthLog(keep=3)
    for _ in range(10):
        row = log.arrive(0.0, 0.0, "openai", "/x")
        log.identify(row)
        log.bill(row, Usage(input=2, output=3))
        log.finish(row, 1.0, whole=True)
    summary = log.summary()
    assert [row["n"] for row in log.rows()] == [8, 9, 10]
    assert (summary["calls"], summary["kept_rows"]) == (10, 3)
    assert summary["providers"][0]["output_tokens"] == 30  # type: ignore[index]


def test_a_caller_that_leaves_before_the_end_of_a_large_reply_has_not_got_it_whole(play: Play) -> None:
    played = play(output_tokens=2_000_000)
    sock = played.raw(played.request("openai"))
    assert sock.recv(100).startswith(b"HTTP/1.1 200")
    sock.close()
    assert played.row()["sent_whole"] is False
    assert len(played.ask("openai").content) > 10_000_000
    assert played.row()["sent_whole"] is True
