"""The contract suite over the three built-in providers.

What each makes of its own errors is in test_golden.py.
"""

from __future__ import annotations

from models.request import Response, Usage
from worker.providers.claude import Claude
from worker.providers.contract import MODEL, ProviderContract
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI


class TestOpenAI(ProviderContract):
    provider_class = OpenAI
    own_body = b'{ "model":"the-model", "messages":[{"role":"user","content":"caf\\u00e9 1.0"}], "temperature": 1.00 }'
    good = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "the-model-1",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "logprobs": None,
                "message": {"role": "assistant", "content": "Hi", "refusal": None, "tool_calls": []},
            }
        ],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 12,
            "total_tokens": 21,
            "prompt_tokens_details": {"cached_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 4},
        },
    }
    expected = Response(
        b"",
        200,
        usage=Usage(9, 12, cached_tokens=3, reasoning_tokens=4),
        text="Hi",
        finish_reason="stop",
        served_model="the-model-1",
    )
    model_list = {"object": "list", "data": [{"id": MODEL, "object": "model", "shutdown_date": "2027-01-14"}]}


class TestClaude(ProviderContract):
    provider_class = Claude
    own_body = b'{"max_tokens": 64,  "model": "the-model", "messages": [{"role": "user", "content": "caf\\u00e9"}]}'
    good = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "the-model-1",
        "stop_reason": "end_turn",
        "stop_details": {"explanation": ""},
        "content": [{"type": "text", "text": "Hi", "citations": None}],
        "usage": {
            "input_tokens": 10,
            "cache_creation_input_tokens": 2,
            "cache_read_input_tokens": 3,
            "output_tokens": 25,
            "output_tokens_details": {"thinking_tokens": 5},
        },
    }
    expected = Response(
        b"",
        200,
        usage=Usage(15, 25, cached_tokens=3, cache_write_tokens=2, reasoning_tokens=5),
        text="Hi",
        finish_reason="end_turn",
        served_model="the-model-1",
    )
    model_list = {"data": [{"type": "model", "id": MODEL, "retires_at": "2027-01-01T00:00:00Z"}], "has_more": False}


class TestGemini(ProviderContract):
    provider_class = Gemini
    own_body = (
        b'{"contents":  [{"role": "user", "parts": [{"text": "caf\\u00e9"}]}], "generation_config": {"topK": 4.0}}'
    )
    good = {
        "candidates": [
            {"index": 0, "finishReason": "STOP", "content": {"role": "model", "parts": [{"text": "Hi"}, {"text": ""}]}}
        ],
        "promptFeedback": {},
        "usageMetadata": {
            "promptTokenCount": 8,
            "cachedContentTokenCount": 1,
            "candidatesTokenCount": 11,
            "thoughtsTokenCount": 829,
            "totalTokenCount": 848,
        },
        "modelVersion": "the-model-1",
        "responseId": "abc",
    }
    expected = Response(
        b"",
        200,
        usage=Usage(8, 840, cached_tokens=1, reasoning_tokens=829),
        text="Hi",
        finish_reason="STOP",
        served_model="the-model-1",
    )
    model_list = {"models": [{"name": f"models/{MODEL}", "displayName": "The Model"}]}
