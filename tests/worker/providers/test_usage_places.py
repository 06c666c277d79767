"""Usage as vendors really send it: in other places, in pieces of a stream, with billed items that the dialect has no field for.

The field cases are replayed in tests/acceptance/test_field_cases.py; here are their siblings.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from models.config import Pricing
from models.prices import price
from models.request import Request, Response, Usage
from tests.worker.providers.test_streams import chunk, data
from tests.worker.providers.test_translation import HI, make
from worker.providers.base import Provider, Reply
from worker.providers.claude import Claude
from worker.providers.contract import KEY
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI
from worker.providers.openai_chat import read_usage

PRICING = Pricing.model_validate({"input_token_cost": "1", "output_token_cost": "2"})


def whole(
    kind: type[Provider], body: Any, operation: str = "chat", headers: dict[str, str] | None = None, **source: Any
) -> Response:
    request = Request("m", {"messages": HI, **source}, KEY, operation=operation)
    return make(kind).read(request, Reply(200, headers or {}, orjson.dumps(body)))


def chat(usage: Any, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": usage, **more}


def streamed(*chunks: dict[str, Any]) -> Usage | None:
    request = Request("m", {"messages": HI, "stream": True}, KEY)
    body = b"".join(data(one) for one in chunks) + data(b"[DONE]")
    response = make(OpenAI).read(request, Reply(200, {"content-type": "text/event-stream"}, body))
    assert response.failure is None
    return response.usage


def told(text: str | None, usage: Any, finish: str | None = None) -> dict[str, Any]:
    return {**chunk({} if text is None else {"content": text}, finish), "usage": usage}


def counts(given: int, made: int, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made, **more}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"cached_tokens": 900}, Usage(1000, 100, cached_tokens=900)),
        ({"prompt_cache_hit_tokens": 900}, Usage(1000, 100, cached_tokens=900)),
        ({"cached_tokens": 900, "prompt_tokens_details": {"cached_tokens": 0}}, Usage(1000, 100, cached_tokens=900)),
        ({"prompt_tokens_details": None, "cached_tokens": 9}, Usage(1000, 100, cached_tokens=9)),
        ({"cache_read_input_tokens": 7, "cache_creation_input_tokens": 5}, Usage(1000, 100, 7, 5)),
        ({"prompt_tokens_details": {"cache_creation_input_tokens": 5}}, Usage(1000, 100, 0, 5)),
        ({"reasoning_tokens": 60}, Usage(1000, 100, reasoning_tokens=60)),
        ({"reasoning_tokens": 60, "total_tokens": 1160}, Usage(1000, 160, reasoning_tokens=60)),
        ({"completion_tokens_details": {"reasoning_tokens": 300}}, Usage(1000, 400, reasoning_tokens=300)),
        # thoughts that are in the total alone, as at Gemini's endpoint for this dialect
        ({"total_tokens": 1350}, Usage(1000, 350, reasoning_tokens=250)),
        ({"cached_tokens": 5000, "total_tokens": 6100}, Usage(6000, 100, cached_tokens=5000)),
        ({"completion_tokens": None}, Usage(1000, 100)),
        ({"prompt_tokens": None}, Usage(1000, 100)),
    ],
)
def test_a_chat_counts_what_stands_elsewhere_once(usage: dict[str, Any], expected: Usage) -> None:
    assert read_usage({"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100, **usage}) == expected


@pytest.mark.parametrize(
    "body",
    [
        {"usage": counts(1000, 100)},
        {"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop", "usage": counts(1000, 100)}]},
        {"x_groq": {"id": "r", "usage": counts(1000, 100)}},
        {"usage": {"input_tokens": 1000, "output_tokens": 100}},
        {"usage": counts(0, 0), "x_groq": {"usage": counts(1000, 100)}},
    ],
)
def test_usage_is_found_wherever_a_body_has_it(body: dict[str, Any]) -> None:
    assert whole(OpenAI, {**chat(None), **body}).usage == Usage(1000, 100)


@pytest.mark.parametrize(
    "chunks",
    [
        # once, in any place
        [told("Hi", None), told(None, counts(1000, 100), "stop")],
        [told("Hi", None, "stop"), {"choices": [], "usage": counts(1000, 100)}],
        [told("Hi", None), {**told(None, None, "stop"), "x_groq": {"usage": counts(1000, 100)}}],
        [
            {**told("Hi", None), "choices": [{"index": 0, "delta": {"content": "Hi"}, "usage": counts(1000, 100)}]},
            told(None, None, "stop"),
        ],
        # twice the same
        [told("Hi", None), {**told(None, counts(1000, 100), "stop"), "x_groq": {"usage": counts(1000, 100)}}],
        [told("Hi", counts(1000, 100), "stop"), {"choices": [], "usage": counts(1000, 100)}],
        # the sum so far in every chunk
        [told("H", counts(1000, 40)), told("i", counts(1000, 90)), told(None, counts(1000, 100), "stop")],
        [told("Hi", counts(1000, 0)), told(None, counts(1000, 100), "stop")],
        # a last chunk of zeros
        [told("Hi", counts(1000, 100), "stop"), {"choices": [], "usage": counts(0, 0)}],
        [told("Hi", counts(1000, 100), "stop"), {"choices": [], "usage": {}}],
        # what each chunk added
        [told("H", counts(1000, 10)), told("i", counts(0, 40)), told(None, counts(0, 50), "stop")],
        [told("H", counts(1000, 0)), told("i", counts(0, 60)), told(None, counts(0, 40), "stop")],
        [told("H", counts(1000, 60)), told("i", counts(0, 40)), told(None, counts(0, 0), "stop")],
        [told("H", counts(1000, 40)), told("i", counts(0, 60)), told(None, counts(1000, 100), "stop")],
        [*[told("a", counts(1000, 25))] * 4, told(None, None, "stop")],
        # input in one chunk, output in another
        [told("Hi", {"prompt_tokens": 1000}), told(None, {"completion_tokens": 100, "total_tokens": 1100}, "stop")],
    ],
)
def test_a_streams_usage_is_added_up_as_it_is_meant(chunks: list[dict[str, Any]]) -> None:
    assert streamed(*chunks) == Usage(1000, 100)


def test_details_of_a_streams_usage_are_kept_beside_a_last_chunk_of_zeros() -> None:
    last = counts(0, 0, prompt_tokens_details={"cached_tokens": 0}, completion_tokens_details=None)
    first = counts(1000, 100, prompt_tokens_details={"cached_tokens": 900}, cost=0.5)
    assert streamed(told("Hi", first, "stop"), {"choices": [], "usage": last}) == Usage(
        1000, 100, cached_tokens=900, reported_cost=(500_000_000, "USD")
    )


@pytest.mark.parametrize(
    "usage", [{"total_tokens": 8}, {"prompt_tokens": 0, "total_tokens": 8}, {"prompt_tokens": 8}, {"input_tokens": 8}]
)
def test_embeddings_are_billed_by_the_total_where_that_is_all(usage: dict[str, int]) -> None:
    body = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "model": "e", "usage": usage}
    assert whole(OpenAI, body, "embeddings", input="x").usage == Usage(8)


def test_a_claude_stream_loses_no_count_to_a_later_zero() -> None:
    events = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 10, "cache_read_input_tokens": 90}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 25}},
        {"type": "message_delta", "delta": {}, "usage": {"input_tokens": 0, "output_tokens": 0}},
        {"type": "message_stop"},
    ]
    body = b"".join(data(event, str(event["type"])) for event in events)
    request = Request("m", {"messages": HI, "stream": True}, KEY)
    response = make(Claude).read(request, Reply(200, {"content-type": "text/event-stream"}, body))
    assert response.usage == Usage(100, 25, cached_tokens=90)


def test_claude_runs_that_compact_are_billed_and_those_of_other_models_unpriced() -> None:
    runs = [
        {"type": "message", "input_tokens": 10, "output_tokens": 5},
        {"type": "compaction", "input_tokens": 1000, "output_tokens": 50},
        {"type": "advisor_message", "input_tokens": 300, "output_tokens": 20},
    ]
    usage = {"input_tokens": 10, "output_tokens": 5, "iterations": runs}
    body = {"content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn", "usage": usage}
    found = whole(Claude, body).usage
    assert found == Usage(1010, 55, fees=(("advisor_message_tokens", 320),))
    assert price(found, PRICING) is None


def test_a_gemini_stream_loses_no_count_to_a_later_zero_and_a_total_holds_what_nothing_else_does() -> None:
    def piece(text: str, usage: dict[str, int], **more: Any) -> bytes:
        return data({"candidates": [{"content": {"parts": [{"text": text}]}, **more}], "usageMetadata": usage})

    body = piece("H", {"promptTokenCount": 8, "candidatesTokenCount": 2, "totalTokenCount": 40})
    body += piece("i", {"promptTokenCount": 0, "totalTokenCount": 0}, finishReason="STOP")
    request = Request("m", {"messages": HI, "stream": True}, KEY)
    response = make(Gemini).read(request, Reply(200, {"content-type": "text/event-stream"}, body))
    assert response.usage == Usage(8, 32)


@pytest.mark.parametrize(
    ("kind", "body", "fees"),
    [
        (
            OpenAI,
            chat(counts(33, 7163, citation_tokens=20016, num_search_queries=28, search_context_size="low")),
            (("citation_tokens", 20016), ("num_search_queries", 28), ("search_context_low", 1)),
        ),
        (OpenAI, chat(counts(9, 9, num_sources_used=4)), (("num_sources_used", 4),)),
        (OpenAI, chat(counts(9, 9, planet_tokens=4000)), (("planet_tokens", 4000),)),
        (OpenAI, chat(counts(9, 9, prompt_audio_seconds=5)), (("prompt_audio_seconds", 5),)),
        (
            OpenAI,
            chat(counts(9, 9, server_tool_use={"web_search_requests": 2, "web_fetch_requests": 3})),
            (("web_search_requests", 2),),
        ),
        (
            OpenAI,
            chat(
                counts(
                    9,
                    9,
                    num_server_side_tools_used=3,
                    server_side_tool_usage_details={"x_search_calls": 3, "web_search_calls": 0, "mcp_calls": 2},
                )
            ),
            (("x_search_calls", 3),),
        ),
        (
            Claude,
            {
                "content": [{"type": "text", "text": "Hi"}],
                "stop_reason": "end_turn",
                "usage": {"input_tokens": 9, "output_tokens": 9, "server_tool_use": {"moon_requests": 1}},
            },
            (("moon_requests", 1),),
        ),
        (
            Gemini,
            {
                "candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}],
                "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 9, "moonTokenCount": 77},
            },
            (("moon_tokens", 77),),
        ),
    ],
)
def test_a_billed_item_without_a_field_leaves_the_call_unpriced_until_it_has_a_fee(
    kind: type[Provider], body: Any, fees: tuple[tuple[str, int], ...]
) -> None:
    usage = whole(kind, body).usage
    assert usage is not None
    assert usage.fees == fees
    assert price(usage, PRICING) is None
    with_fees = PRICING.model_copy(update={"fees": {name: PRICING.input_token_cost for name, _ in fees}})
    cost = price(usage, with_fees)
    assert cost is not None
    assert cost.nanos == (usage.input_tokens + 2 * usage.output_tokens + sum(uses for _, uses in fees)) * 10**6


@pytest.mark.parametrize(
    "more",
    [
        {"prompt_cache_miss_tokens": 9, "prompt_cache_hit_tokens": 0},
        {"prompt_tokens_details": {"text_tokens": 9, "planet_tokens": 3}},
        {"completion_tokens_details": {"accepted_prediction_tokens": 3, "image_tokens": 0}},
        {"queue_time": 0.5, "total_time": 1, "total_tokens_per_sec": 4000, "completion_tokens_per_sec": 300},
        {"citation_tokens": 0, "num_search_queries": None, "num_sources_used": 0, "server_tool_use": {"x": 0}},
        {"image_tokens": 4, "text_tokens": 5},
    ],
)
def test_parts_of_the_tokens_times_and_zeros_are_no_items_of_their_own(more: dict[str, Any]) -> None:
    usage = read_usage(counts(9, 9, **more))
    assert usage is not None
    assert usage.fees == ()
    assert price(usage, PRICING) is not None


@pytest.mark.parametrize(
    ("usage", "headers", "expected"),
    [
        ({"cost": 0.0033789}, {}, (3_378_900, "USD")),
        ({"cost": "0.5"}, {}, (500_000_000, "USD")),
        ({"cost": {"total_cost": 0.007, "request_cost": 0.006}}, {}, (7_000_000, "USD")),
        ({"cost": {"total_cost": 2, "currency": "eur"}}, {}, (2_000_000_000, "EUR")),
        ({"cost_in_usd_ticks": 318319000}, {}, (31_831_900, "USD")),
        ({"estimated_cost": 1e-05}, {}, (10_000, "USD")),
        ({}, {"x-litellm-response-cost": "3.45e-05"}, (34_500, "USD")),
        (
            {"cost": 0.01, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.19}},
            {},
            (200_000_000, "USD"),
        ),
        ({"cost": 0.01, "is_byok": True}, {}, None),
        ({"cost": -1}, {}, None),
        ({"cost": 1e30}, {}, None),
        ({"cost": "free"}, {}, None),
        ({"cost": True}, {}, None),
        ({"cost": {"total_cost": 1, "currency": "credits"}}, {}, None),
        ({}, {"x-litellm-response-cost": "None"}, None),
        ({}, {}, None),
    ],
)
def test_what_the_provider_says_it_cost_is_read(usage: Any, headers: dict[str, str], expected: Any) -> None:
    found = whole(OpenAI, chat(counts(9, 9, **usage)), headers=headers).usage
    assert found is not None
    assert found.reported_cost == expected
