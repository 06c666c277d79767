"""The sandbox's Gemini: shapes of replies, streams and refusals."""

import json
from typing import Any

import pytest

from tests.worker.sandbox.conftest import KEY, Play


def test_a_reply_has_the_shape_and_usage_of_the_real_one(play: Play) -> None:
    played = play(usage_extras=True)
    for text in ("one", "two", "three", "four", "five", "six"):
        body, row = played.ask("gemini", text * 20).json(), played.rows()[-1]
        candidate = body["candidates"][0]
        assert candidate["finishReason"] == "STOP"
        assert candidate["content"]["role"] == "model"
        usage = body["usageMetadata"]
        assert usage["promptTokenCount"] == row["input_tokens"]
        assert usage.get("cachedContentTokenCount", 0) == row["cached_tokens"]
        assert usage["candidatesTokenCount"] + usage.get("thoughtsTokenCount", 0) == row["output_tokens"]
        assert usage.get("thoughtsTokenCount", 0) == row["reasoning_tokens"]
        assert usage["totalTokenCount"] == row["input_tokens"] + row["output_tokens"]
        assert 0 not in usage.values()
        assert row["cache_write_tokens"] == 0
    assert any(row["cached_tokens"] for row in played.rows())


def test_snake_case_counts_as_strings_and_a_key_in_the_query_are_accepted(play: Play) -> None:
    played = play(accounts=[{"provider": "gemini", "key": KEY}])
    body = {"contents": {"parts": {"text": "hi"}}, "generation_config": {"max_output_tokens": "2"}}
    url = f"{played.box.url}/gemini/v1beta/models/g:generateContent"
    answer = played.client.post(url, params={"key": KEY}, json=body)
    assert answer.json()["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert answer.json()["usageMetadata"]["candidatesTokenCount"] == 2
    assert KEY not in json.dumps(played.rows())


def test_a_stream_hands_out_whole_responses_whose_last_has_reason_and_usage(play: Play) -> None:
    played = play()
    whole = played.ask("gemini").json()
    parts = [
        json.loads(line.removeprefix("data: "))
        for line in played.ask("gemini", streamed=True).text.split("\r\n\r\n")
        if line
    ]
    text = "".join(part["candidates"][0]["content"]["parts"][0]["text"] for part in parts)
    assert text == whole["candidates"][0]["content"]["parts"][0]["text"]
    assert ["finishReason" in part["candidates"][0] for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1]["usageMetadata"] == whole["usageMetadata"]


def test_without_alt_sse_a_json_array_is_streamed(play: Play) -> None:
    played = play()
    request = played.request("gemini", streamed=True)
    request["url"] = request["url"].removesuffix("?alt=sse")
    parts = played.client.request(**request).json()
    assert isinstance(parts, list)
    assert parts[-1]["candidates"][0]["finishReason"] == "STOP"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"contents": []}, "contents is not specified"),
        ({"contents": [{"role": "user", "parts": []}]}, "contents.parts must not be empty"),
        ({"contents": [{"role": "bot", "parts": [{"text": "x"}]}]}, "Please use a valid role: user, model."),
        ({"contents": [{"role": "user", "parts": [{"text": 5}]}]}, "Invalid value at 'contents[0].parts[0].text' (TYPE_STRING), 5"),
        ({"contents": [{"role": "user", "content": "x"}]}, 'Unknown name "content"'),
        ({"messages": []}, 'Unknown name "messages": Cannot find field.'),
        ({"generationConfig": {"max_tokens": 5}}, 'Unknown name "max_tokens" at \'generation_config\''),
        ({"generationConfig": {"maxOutputTokens": 0}}, "must be in the range"),
        ({"generationConfig": {"temperature": "hot"}}, "(TYPE_FLOAT)"),
        ({"generationConfig": []}, "Invalid value at 'generation_config'"),
    ],
)  # fmt: skip
def test_a_wrong_body_is_a_400_in_its_own_words(play: Play, change: dict[str, Any], words: str) -> None:
    answer = play().ask("gemini", **change)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert words in error["message"]
    assert error["details"][0]["@type"].endswith("BadRequest")


def test_a_wrong_key_is_a_400_and_no_key_a_403(play: Play) -> None:
    played = play(accounts=[{"provider": "gemini", "key": KEY}])
    wrong = played.ask("gemini", key="AIza-wrong-key-000")
    assert (wrong.status_code, wrong.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert wrong.json()["error"]["details"][0]["reason"] == "API_KEY_INVALID"
    nobody = played.client.request(**(played.request("gemini") | {"headers": {}}))
    assert (nobody.status_code, nobody.json()["error"]["status"]) == (403, "PERMISSION_DENIED")


def test_missing_and_forbidden_models_are_told_apart(play: Play) -> None:
    played = play()
    missing, forbidden = played.ask("gemini", model="missing-x"), played.ask("gemini", model="forbidden-x")
    assert (missing.status_code, missing.json()["error"]["status"]) == (404, "NOT_FOUND")
    assert "models/missing-x" in missing.json()["error"]["message"]
    assert (forbidden.status_code, forbidden.json()["error"]["status"]) == (403, "PERMISSION_DENIED")


def test_models_are_listed_with_their_prefix(play: Play) -> None:
    played = play(models={"gemini": ["g-1"]})
    url = f"{played.box.url}/gemini/v1/models"
    assert played.client.get(url, headers={"x-goog-api-key": KEY}).json()["models"][0]["name"] == "models/g-1"


def test_an_unknown_action_is_a_404(play: Play) -> None:
    played = play()
    url = f"{played.box.url}/gemini/v1/models/g:countTokens"
    assert played.client.post(url, headers={"x-goog-api-key": KEY}, json={}).status_code == 404
