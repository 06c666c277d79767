"""The sandbox's Gemini embeddings: what it answers and refuses."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.worker.sandbox.conftest import KEY, Play, Played

MODEL = "models/e-1"


def ask(played: Played, action: str, body: Any) -> httpx.Response:
    url = f"{played.box.url}/gemini/v1/{MODEL}:{action}"
    return played.client.post(url, headers={"x-goog-api-key": KEY}, json=body)


def one(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "content": {"parts": [{"text": text}]}, **fields}


def test_each_text_gets_its_vector_and_the_input_is_all_that_is_billed(play: Play) -> None:
    played = play()
    body = ask(played, "batchEmbedContents", {"requests": [one(outputDimensionality=4), one("x")]}).json()
    assert [len(entry["values"]) for entry in body["embeddings"]] == [4, 4]
    assert body["usageMetadata"]["promptTokenCount"] == played.row()["input_tokens"] == 2  # "hello\nx", 4 a token
    assert played.row()["output_tokens"] == 0


def test_a_single_text_has_the_single_form_and_the_same_vector(play: Play) -> None:
    played = play()
    single = ask(played, "embedContent", {"content": {"parts": [{"text": "hello"}]}}).json()
    several = ask(played, "batchEmbedContents", {"requests": [one()]}).json()
    assert single["embedding"] == several["embeddings"][0]
    assert len(single["embedding"]["values"]) == 3072


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "requests must not be empty"),
        ({"requests": {}}, "requests must not be empty"),
        ({"requests": "x"}, "a list was expected"),
        ({"requests": [one()] * 101}, "at most 100"),
        ({"requests": [{"content": {"parts": [{"text": "x"}]}}]}, "model is required"),
        ({"requests": [one(model="models/other")]}, "doesn't match that of the URL"),
        ({"requests": [one("")]}, "content is empty"),
        ({"requests": [one(content={"parts": []})]}, "must not be empty"),
        ({"requests": [one(taskType="POETRY")]}, "task_type"),
        ({"requests": [one(title="T")]}, "RETRIEVAL_DOCUMENT"),
        ({"requests": [one(outputDimensionality=0)]}, "output_dimensionality"),
        ({"requests": [one(dimensions=4)]}, 'Unknown name "dimensions"'),
        ({"contents": []}, 'Unknown name "contents"'),
    ],
)
def test_a_wrong_body_is_a_400_that_says_why(play: Play, body: Any, said: str) -> None:
    answer = ask(play(), "batchEmbedContents", body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
