"""Faults happen as told: to the calls they name, as often as they say, in the provider's own form."""

import json
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from tests.worker.sandbox.conftest import KEY, PROVIDERS, Play, Played
from worker.sandbox.settings import Fault


def error_of(provider: str, answer: httpx.Response) -> dict[str, Any]:
    body = answer.json()
    if provider == "claude":
        assert body["type"] == "error"
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529])
def test_any_status_comes_in_the_providers_own_body(play: Play, provider: str, status: int) -> None:
    played = play(faults=[{"kind": "status", "status": status}])
    answer = played.ask(provider)
    assert answer.status_code == status
    error = error_of(provider, answer)
    if provider == "openai":
        assert set(error) == {"message", "type", "param", "code"}
    elif provider == "gemini":
        assert error["code"] == status
        assert error["status"].isupper()
    else:
        assert error["type"].islower()
    row = played.row()
    assert (row["status"], row["fault"], row["billed"], row["sent_whole"]) == (status, "status", False, True)


@pytest.mark.parametrize(
    ("provider", "fault", "status", "words"),
    [
        ("openai", {"kind": "quota"}, 429, '"type":"insufficient_quota"'),
        ("openai", {"kind": "quota", "code": "credit_balance_exhausted"}, 429, '"code":"credit_balance_exhausted"'),
        ("gemini", {"kind": "quota"}, 429, "PerDay"),
        ("claude", {"kind": "quota"}, 429, '"error_code":"enforced_spend_limit_reached"'),
        ("claude", {"kind": "usage_limit"}, 400, "You have reached your specified API usage limits"),
        ("openai", {"kind": "rate_limit", "code": "slow_down"}, 429, '"type":"rate_limit_error"'),
        ("claude", {"kind": "rate_limit", "code": "ramp_limit_exceeded"}, 429, '"error_code":"ramp_limit_exceeded"'),
        ("gemini", {"kind": "rate_limit"}, 429, "Resource has been exhausted"),
        ("gemini", {"kind": "rate_limit", "retry_after": 1.5}, 429, '"retryDelay":"1.5s"'),
        ("openai", {"kind": "overloaded"}, 503, '"code":"server_is_overloaded"'),
        ("gemini", {"kind": "overloaded"}, 503, '"status":"UNAVAILABLE"'),
        ("claude", {"kind": "overloaded"}, 529, '"type":"overloaded_error"'),
        ("openai", {"kind": "context_length"}, 400, '"code":"context_length_exceeded"'),
        ("gemini", {"kind": "context_length"}, 400, "exceeds the maximum number of tokens"),
        ("claude", {"kind": "context_length"}, 400, "prompt is too long"),
        ("openai", {"kind": "content_filter", "status": 400}, 400, '"code":"content_filter"'),
        ("openai", {"kind": "key_invalid"}, 401, '"code":"invalid_api_key"'),
        ("gemini", {"kind": "key_invalid"}, 400, '"reason":"API_KEY_INVALID"'),
        ("claude", {"kind": "key_invalid"}, 401, '"type":"authentication_error"'),
        ("openai", {"kind": "model_missing"}, 404, '"code":"model_not_found"'),
        ("gemini", {"kind": "model_forbidden"}, 403, "models/m-1"),
        ("claude", {"kind": "model_forbidden"}, 403, "model: m-1"),
    ],
)
def test_a_kind_of_error_has_its_providers_words(
    play: Play, provider: str, fault: dict[str, Any], status: int, words: str
) -> None:
    answer = play(faults=[fault]).ask(provider)
    assert answer.status_code == status
    assert words in answer.text
    if provider != "gemini":
        assert "retry-after" not in answer.headers


@pytest.mark.parametrize("provider", ["openai", "claude"])
def test_retry_after_is_sent_exactly_as_asked(play: Play, provider: str) -> None:
    answer = play(faults=[{"kind": "rate_limit", "retry_after": 0.25}]).ask(provider)
    assert answer.headers["retry-after"] == "0.25"


@pytest.mark.parametrize(
    ("provider", "finish"),
    [
        ("openai", lambda body: body["choices"][0]["finish_reason"] == "content_filter"),
        ("gemini", lambda body: body["promptFeedback"]["blockReason"] == "SAFETY" and "candidates" not in body),
        ("claude", lambda body: body["stop_reason"] == "refusal" and body["content"] == []),
    ],
)
def test_a_content_filter_is_a_200_that_is_billed(play: Play, provider: str, finish: Callable[[Any], bool]) -> None:
    played = play(faults=[{"kind": "content_filter"}])
    answer = played.ask(provider)
    assert answer.status_code == 200
    assert finish(answer.json())
    row = played.row()
    assert row["billed"]
    usage = json.dumps(answer.json())
    assert str(row["input_tokens"]) in usage
    assert row["output_tokens"] <= 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_good_status_may_carry_html_nothing_or_an_error(play: Play, provider: str) -> None:
    played = play(faults=[{"kind": kind, "times": 1} for kind in ("rubbish", "empty", "error_in_200")])
    html, empty, error = (played.ask(provider) for _ in range(3))
    assert [answer.status_code for answer in (html, empty, error)] == [200, 200, 200]
    assert html.headers["content-type"].startswith("text/html")
    assert empty.content == b""
    assert error_of(provider, error)["message"]
    assert [row["billed"] for row in played.rows()] == [False] * 3


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_truncated_body_is_shorter_than_promised(play: Play, provider: str) -> None:
    played = play(faults=[{"kind": "truncated"}])
    with pytest.raises(httpx.RemoteProtocolError):
        played.ask(provider)
    row = played.row()
    assert (row["status"], row["billed"], row["sent_whole"]) == (200, True, False)


@pytest.mark.parametrize(("when", "sha", "billed"), [("before", False, False), ("after", True, True)])
def test_a_reset_cuts_the_connection_before_or_after_the_work(play: Play, when: str, sha: bool, billed: bool) -> None:
    played = play(faults=[{"kind": "reset", "when": when}])
    sock = played.raw(played.request("openai"))
    with pytest.raises(ConnectionResetError):
        sock.recv(1)
    sock.close()
    row = played.row()
    assert (row["fault"], row["status"], row["sent_whole"], row["billed"]) == ("reset", None, False, billed)
    assert (row["prompt_sha"] is not None) == sha
    assert row["key_id"] is not None


def test_a_hanging_call_ends_in_the_log_when_the_caller_gives_up(play: Play) -> None:
    played = play(faults=[{"kind": "hang"}])
    sock = played.raw(played.request("claude"))
    played.arrived()
    sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        sock.recv(1)
    assert played.arrived()["finished_at"] is None
    sock.close()
    row = played.row()
    assert (row["status"], row["billed"], row["sent_whole"]) == (None, True, False)


def test_a_slow_answer_is_good_and_late(play: Play) -> None:
    played = play(faults=[{"kind": "slow", "delay": 0.15}])
    assert played.ask("openai").status_code == 200
    row = played.row()
    assert row["finished_at"] - row["at"] >= 0.149
    assert (row["fault"], row["billed"], row["sent_whole"]) == ("slow", True, True)


@pytest.mark.parametrize("how", ["missing", "null", "text", "digits", "negative", "huge", "partial"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_wrong_usage_lies_but_the_log_does_not(play: Play, provider: str, how: str) -> None:
    played = play(faults=[{"kind": "wrong_usage", "usage": how}])
    body = played.ask(provider).json()
    name = "usageMetadata" if provider == "gemini" else "usage"
    usage = body.get(name, "nothing")
    if how == "negative":
        assert min(value for value in usage.values() if isinstance(value, int)) < 0
    elif how == "huge":
        assert max(value for value in usage.values() if isinstance(value, int)) >= 10**12
    elif how == "digits":
        assert any(isinstance(value, str) and value.isdigit() for value in usage.values())
    elif how == "partial":
        assert len(usage) == 1
    else:
        assert usage == {"missing": "nothing", "null": None, "text": "unavailable"}[how]
    assert played.row()["input_tokens"] > 0


def events(provider: str, text: str) -> list[str]:
    return [event for event in text.replace("\r\n", "\n").split("\n\n") if event]


@pytest.mark.parametrize(
    ("provider", "mark"), [("openai", "[DONE]"), ("gemini", '"finishReason"'), ("claude", "message_stop")]
)
def test_a_stream_can_lack_its_end_be_cut_or_turn_into_an_error(play: Play, provider: str, mark: str) -> None:
    played = play(faults=[{"kind": kind, "times": 1} for kind in ("no_done", "error_in_200", "cut_stream")])
    endless = played.ask(provider, streamed=True)
    assert mark not in endless.text
    assert len(events(provider, endless.text)) > 2
    failed = played.ask(provider, streamed=True)
    assert '"error"' in events(provider, failed.text)[-1]
    assert mark not in failed.text
    with pytest.raises(httpx.RemoteProtocolError):
        played.ask(provider, streamed=True)
    assert mark in played.ask(provider, streamed=True).text
    assert [row["sent_whole"] for row in played.rows()] == [False, True, False, True]


def data(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return text == "[DONE]"
    return True


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stream_can_break_one_of_its_events_and_go_on_to_its_end(play: Play, provider: str) -> None:
    played = play(faults=[{"kind": "malformed_chunk", "times": 1}])
    broken, good = (data(played.ask(provider, streamed=True).text) for _ in range(2))
    assert len(broken) == len(good)
    assert [is_json(one) for one in broken].count(False) == 1
    assert broken[-1] == good[-1]


@pytest.mark.parametrize(
    ("provider", "mark"), [("openai", '"finish_reason":"'), ("gemini", '"finishReason"'), ("claude", '"stop_reason":"')]
)
def test_a_stream_can_come_to_its_end_without_a_word_why(play: Play, provider: str, mark: str) -> None:
    played = play(faults=[{"kind": "no_finish", "times": 1}])
    silent, good = (played.ask(provider, streamed=True).text for _ in range(2))
    assert mark not in silent
    assert mark in good
    assert len(events(provider, silent)) == len(events(provider, good)) - 1


def test_the_first_event_of_a_stream_can_be_late(play: Play) -> None:
    for delay in (0.15, 3, 10):  # this machine may stand still for longer, and both come at once
        played = play(faults=[{"kind": "slow_first_token", "delay": delay}])
        sock = played.raw(played.request("openai", streamed=True))
        head = sock.recv(1 << 20)
        assert head.startswith(b"HTTP/1.1 200")
        if b"data:" not in head:
            break
    assert b"data:" not in head
    assert b"data:" in sock.recv(1 << 20)
    sock.close()
    row = played.row()
    assert row["finished_at"] - row["at"] >= delay - 0.001


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_reply_can_be_gigantic(play: Play, provider: str, streamed: bool) -> None:
    played = play(faults=[{"kind": "gigantic", "size": 3_000_000}])
    assert 3_000_000 < len(played.ask(provider, streamed=streamed).text) < 3_100_000
    assert played.row()["sent_whole"]


def test_a_stalled_stream_is_silent_until_the_caller_leaves(play: Play) -> None:
    played = play(faults=[{"kind": "stalled_stream"}])
    sock = played.raw(played.request("openai", streamed=True))
    assert b"data: " in sock.recv(1 << 20)
    played.arrived()  # and so all that is sent was sent
    sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        sock.recv(1)
    sock.close()
    row = played.row()
    assert (row["billed"], row["sent_whole"]) == (True, False)


def test_a_stalled_stream_with_a_delay_goes_on_after_it(play: Play) -> None:
    played = play(faults=[{"kind": "stalled_stream", "delay": 0.1}])
    answer = played.ask("claude", streamed=True)
    assert answer.text.count("message_start") == 2
    assert "message_stop" in answer.text
    row = played.row()
    assert row["sent_whole"]
    assert row["finished_at"] - row["at"] >= 0.099


def test_stream_faults_leave_other_calls_alone(play: Play) -> None:
    played = play(faults=[{"kind": "cut_stream", "times": 1}])
    assert played.ask("openai").status_code == 200
    with pytest.raises(httpx.RemoteProtocolError):
        played.ask("openai", streamed=True)


def statuses(played: Played, *texts: str, **options: Any) -> list[int]:
    return [played.ask("openai", text, **options).status_code for text in texts]


def test_times_counts_each_prompt_apart_if_a_text_is_asked_for(play: Play) -> None:
    played = play(faults=[{"kind": "status", "status": 500, "contains": "bad", "times": 2}])
    texts = ("bad 1", "bad 2", "good", "bad 1", "bad 1", "bad 2", "bad 2")
    assert statuses(played, *texts) == [500, 500, 200, 500, 200, 500, 200]


def test_times_counts_all_calls_otherwise(play: Play) -> None:
    played = play(faults=[{"kind": "status", "status": 500, "times": 2}])
    assert statuses(played, "a", "b", "c") == [500, 500, 200]


def test_every_hits_each_nth_matching_call(play: Play) -> None:
    played = play(faults=[{"kind": "status", "status": 500, "every": 3}])
    assert statuses(played, *"abcdef") == [200, 200, 500, 200, 200, 500]


def test_a_rate_hits_the_same_prompts_whatever_their_order(play: Play) -> None:
    faults = [{"kind": "status", "status": 500, "rate": 0.3}]
    texts = [f"prompt {number}" for number in range(100)]
    one, two, other = play(faults=faults), play(faults=faults), play(faults=faults, seed=1)
    hit = dict(zip(texts, statuses(one, *texts), strict=True))
    assert dict(zip(reversed(texts), statuses(two, *reversed(texts)), strict=True)) == hit
    assert 15 <= list(hit.values()).count(500) <= 45
    assert dict(zip(texts, statuses(other, *texts), strict=True)) != hit


def test_provider_key_and_model_narrow_a_fault(play: Play) -> None:
    played = play(
        faults=[
            {"kind": "status", "status": 500, "provider": "gemini"},
            {"kind": "status", "status": 501, "key": KEY, "model": "gpt-*"},
        ]
    )
    assert played.ask("gemini").status_code == 500
    assert statuses(played, "a", model="gpt-4o") == [501]
    assert statuses(played, "a", model="o3") == [200]
    assert statuses(played, "a", model="gpt-4o", key="sk-another-00000") == [200]


def test_a_window_opens_and_closes_on_the_clock_of_the_list(play: Play) -> None:
    played = play(
        faults=[{"kind": "status", "status": 500, "until": 60}, {"kind": "status", "status": 503, "after": 60}]
    )
    assert statuses(played, "a") == [500]
    played.faults({"kind": "status", "status": 500, "after": 60}, {"kind": "status", "status": 503, "until": 60})
    assert statuses(played, "a") == [503]


def test_a_limited_call_uses_up_no_fault(play: Play) -> None:
    played = play(limits={"rpm": 6}, faults=[{"kind": "status", "status": 500, "every": 2}])
    assert statuses(played, "a", "b") == [200, 429]
    assert statuses(played, "c", key="sk-another-00000") == [500]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_revoked_key_can_not_list_models_either(play: Play, provider: str) -> None:
    played = play(faults=[{"kind": "key_invalid", "key": KEY}])
    headers = played.request(provider)["headers"]
    path = f"{played.box.base_url(provider)}/models"  # type: ignore[arg-type]
    refused = played.client.get(path, headers=headers)
    assert refused.status_code == (400 if provider == "gemini" else 401)
    played.faults({"kind": "status", "status": 401})
    assert played.client.get(path, headers=headers).status_code == 200
    played.faults({"kind": "status", "status": 500, "calls": "models"})
    assert played.client.get(path, headers=headers).status_code == 500
    assert played.ask(provider).status_code == 200


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status"},
        {"kind": "slow"},
        {"kind": "status", "status": 200},
        {"kind": "reset", "when": "before", "contains": "x"},
        {"kind": "truncated", "calls": "models"},
        {"kind": "status", "status": 500, "time": 3},
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(fault: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Fault.model_validate(fault)


def test_a_connection_goes_on_after_an_error(play: Play) -> None:
    played = play(faults=[{"kind": "status", "status": 500, "times": 1}])
    sock = played.raw(played.request("openai"))
    assert sock.recv(65536).startswith(b"HTTP/1.1 500")
    again = played.client.build_request(**played.request("openai"))
    head = b"".join(name + b": " + value + b"\r\n" for name, value in again.headers.raw)
    sock.sendall(b"POST /openai/v1/chat/completions HTTP/1.1\r\n" + head + b"\r\n" + again.read())
    assert sock.recv(65536).startswith(b"HTTP/1.1 200")
    sock.shutdown(socket.SHUT_RDWR)
    sock.close()
