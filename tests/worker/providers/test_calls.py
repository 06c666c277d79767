"""Calls of tools and JSON answers over real HTTP against the sandbox: whole and streamed, they come to the same."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from models.request import Request, Response
from tests.worker.providers.test_sandbox import MODELS, ask, every
from tests.worker.providers.test_translation import make
from worker.providers.contract import KEY
from worker.providers.gemini import Gemini
from worker.sandbox.settings import ProviderName

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_w", "parameters": SCHEMA, "strict": True}}
MESSAGES = [{"role": "user", "content": "Is it raining?"}]


def asked(dialect: str, **fields: Any) -> Request:
    return Request(MODELS[dialect], {"messages": MESSAGES, **fields}, KEY)


def calls_in(dialect: str, response: Response) -> Any:
    body = orjson.loads(response.raw_response)
    if dialect == "openai":
        return body["choices"][0]["message"]["tool_calls"]
    return body["content"] if dialect == "claude" else body["candidates"][0]["content"]["parts"]


@every
def test_a_forced_call_is_an_answer_without_text_and_the_same_streamed(dialect: ProviderName) -> None:
    forced = {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "get_w"}}}
    whole, _ = ask(dialect, asked(dialect, **forced))
    streamed, _ = ask(dialect, asked(dialect, **forced, stream=True))
    assert (whole.failure, streamed.failure) == (None, None)
    assert not whole.text
    assert not streamed.text
    assert calls_in(dialect, whole) == calls_in(dialect, streamed)
    assert b"get_w" in whole.raw_response
    assert (streamed.usage, streamed.finish_reason) == (whole.usage, whole.finish_reason)


@every
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_fits_the_schema(dialect: ProviderName, stream: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "w", "strict": True, "schema": SCHEMA}}
    response, _ = ask(dialect, asked(dialect, response_format=form, stream=stream))
    assert response.failure is None
    assert orjson.loads(response.text or "").keys() == {"city", "days"}


def test_what_gemini_only_does_goes_out_untouched() -> None:
    body = orjson.dumps(
        {
            "contents": [
                {
                    "role": "user",
                    "parts": [
                        {"text": "What is said?"},
                        {"fileData": {"mimeType": "audio/mp3", "fileUri": "gs://bucket/talk.mp3"}},
                        {"inlineData": {"mimeType": "audio/wav", "data": "UklGRg=="}},
                    ],
                }
            ],
            "tools": [{"googleSearch": {}}, {"codeExecution": {}}, {"urlContext": {}}],
            "generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW", "includeThoughts": True}},
            "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        }
    )
    request = Request(MODELS["gemini"], orjson.loads(body), KEY, dialect="gemini", body=body)
    response, row = ask("gemini", request)
    assert response.failure is None
    assert row["status"] == 200


@pytest.mark.parametrize(
    ("told", "asked_for", "sent"),
    [
        ("models/gemini-a", "gemini-a", "models/gemini-a"),
        ("gemini-a", "gemini-a", "gemini-a"),
        ("models/gemini-a", "gemini-b", "models/gemini-b"),
        ("gemini-a", "tunedModels/b", "tunedModels/b"),
    ],
)
def test_a_model_in_a_gemini_body_never_contradicts_the_one_in_the_url(told: str, asked_for: str, sent: str) -> None:
    body = b'{"contents": [{"parts":[{"text":"x"}]}], "model":"%s", "n":1.50}' % told.encode()
    call = make(Gemini).build(Request(asked_for, orjson.loads(body), KEY, dialect="gemini", body=body))
    assert call.url.endswith(f"/{sent if '/' in sent else f'models/{sent}'}:generateContent")
    assert call.body is not None
    assert orjson.loads(call.body)["model"] == sent
    assert b"1.50" in call.body
    assert (call.body == body) == (told == sent)
