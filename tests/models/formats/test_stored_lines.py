"""What is stored of a job, as an input line again, and as the beginning of its prompt."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from models.errors import BadLine
from models.formats.lines import Line
from models.formats.stored_lines import LONGEST_EXCERPT, input_line, prompt_excerpt

Reader = Callable[..., list[Line | BadLine]]

ASK = [{"role": "user", "content": "hé"}]
CHAT = {"model": "gpt-4o", "messages": ASK, "temperature": 1.0}
LINES: dict[str, Any] = {
    "simple": {"prompt": "hi", "model": "gpt-4o", "metadata": {"a": 1}},
    "simple with an id": {"id": 7, "messages": ASK, "model": "gpt-4o"},
    "simple without a model": {"custom_id": "x", "prompt": "hi"},
    "embeddings": {"embed": ["a", "b"], "model": "text-embedding-3-small"},
    "openai": {"custom_id": "r", "method": "POST", "url": "/v1/chat/completions", "body": CHAT, "row": 5},
    "responses": {
        "custom_id": "r",
        "method": "POST",
        "url": "/v1/responses",
        "body": {"model": "gpt-4o", "input": "hi"},
    },
    "completions": {
        "custom_id": "r",
        "method": "POST",
        "url": "/v1/completions",
        "body": {"prompt": "hi"},
    },
    "vectors": {
        "custom_id": "r",
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": "text-embedding-3-small", "input": "hi"},
    },
    "claude": {
        "custom_id": "c",
        "params": {"model": "claude-haiku-4-5", "max_tokens": 5, "messages": ASK},
        "metadata": {"a": "b"},
    },
    "gemini": {"key": "k", "request": {"contents": [{"parts": [{"text": "hi"}]}]}, "team": "blue"},
    "gemini with a model": {"key": "k", "request": {"model": "models/gemini-3.5-flash", "contents": [{"parts": [{}]}]}},
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES.keys())
def test_a_line_that_is_written_again_asks_for_the_same(read: Reader, line: dict[str, Any]) -> None:
    model = "gemini-3.5-flash" if "key" in line else "gpt-4o"
    options = {} if "model" in str(line) else {"model": model}
    (first,) = read(json.dumps(line).encode(), **options)
    assert isinstance(first, Line), first
    written = input_line(
        dialect=first.dialect,
        operation=first.operation,
        custom_id=first.custom_id,
        model=first.model,
        body=first.body,
        metadata=first.metadata,
    )
    assert written is not None
    (again,) = read(written)  # without any option
    assert isinstance(again, Line), again
    for name in ("custom_id", "dialect", "operation", "lane", "model"):
        assert getattr(again, name) == getattr(first, name), name
    assert {**json.loads(first.body), "model": 0, "id": 0} == {**json.loads(again.body), "model": 0, "id": 0}
    assert json.loads(again.metadata or b"{}") == json.loads(first.metadata or b"{}")


@pytest.mark.parametrize("body", [b"", b"no json", b"[1]"])
def test_what_is_no_object_can_not_be_written_again(body: bytes) -> None:
    kept = {"operation": "chat", "custom_id": "a", "model": "", "body": body, "metadata": None}
    assert input_line(dialect="openai", **kept) is None
    assert input_line(dialect="simple", **kept) is None


@pytest.mark.parametrize(
    ("body", "excerpt"),
    [
        ({"prompt": "a\n b"}, "a b"),
        ({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]}, "q"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}, {"type": "text", "text": "q"}]}]}, "q"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "q"}]}]}, "q"),
        ({"contents": [{"parts": [{"text": "a"}]}, {"role": "user", "parts": [{"text": "q"}, {"text": "r"}]}]}, "q r"),
        ({"embed": ["a", "b"]}, "b"),
        ({"prompt": "x" * 500}, "x" * (LONGEST_EXCERPT - 1) + "…"),
        ({"messages": [{"role": "tool", "content": None}]}, None),
        ({"messages": 5}, None),
        ([], None),
    ],
)
def test_the_excerpt_is_the_text_that_is_asked_last(body: Any, excerpt: str | None) -> None:
    assert prompt_excerpt(json.dumps(body).encode()) == excerpt


def test_rubbish_has_no_excerpt() -> None:
    assert prompt_excerpt(b"\xff") is None
    assert prompt_excerpt(b"[" * 100_000) is None
