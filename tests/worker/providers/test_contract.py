"""The contract suite over the three built-in providers.

What each makes of its own errors is in test_golden.py. On top of the public suite ours are held to replies that are drawn at random.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.request import Response, Usage
from truckllm import ProviderContract
from worker.providers.base import Reply
from worker.providers.claude import Claude
from worker.providers.contract import MODEL
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI
from worker.providers.rubbish import dumped, places_in, replaced, survives

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
many = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


class OurContract(ProviderContract):
    @many
    @given(
        st.sampled_from([200, 200, 200, 201, 204, 302, 400, 401, 403, 404, 429, 500, 529, 599]),
        st.binary(max_size=200) | json_values.map(dumped),
        st.dictionaries(
            st.sampled_from(["content-type", "retry-after", "retry-after-ms", "date", "x-request-id", "request-id"]),
            st.sampled_from(["text/event-stream", "application/json", "1e999", "-1", "Mon, 99 Foo"]) | st.text(),
        ),
        st.booleans(),
    )
    def test_no_drawn_reply_makes_reading_raise(
        self, status: int, body: bytes, headers: dict[str, str], streamed: bool
    ) -> None:
        survives(self.make_provider(), self.simple(stream=streamed), Reply(status, headers, body))

    @many
    @given(st.data())
    def test_no_drawn_change_of_a_good_reply_makes_reading_raise(self, data: st.DataObject) -> None:
        body: Any = self.good
        for _ in range(data.draw(st.integers(1, 3))):
            body = replaced(body, data.draw(st.sampled_from(places_in(body))), data.draw(json_values))
        survives(self.make_provider(), self.simple(), self.reply(dumped(body)))

    @many
    @given(st.binary(max_size=100) | json_values.map(dumped))
    def test_no_drawn_model_list_makes_reading_raise(self, body: bytes) -> None:
        assert isinstance(self.make_provider().read_list_models(self.reply(body)), list)


class TestOpenAI(OurContract):
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


class TestClaude(OurContract):
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


class TestGemini(OurContract):
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
