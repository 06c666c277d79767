"""What a budget reserves for a call: at the tier, with the tools, the cache's writes and the copies that its body asks for."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import pytest

from models.config import Pricing, ProviderConfig
from models.prices import price
from models.request import CHAT, EMBEDDINGS, Request, Usage
from worker.providers.base import Provider
from worker.providers.claude import Claude
from worker.providers.contract import KEY, NoSender
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI

CLASSES: dict[str, type[Provider]] = {"openai": OpenAI, "gemini": Gemini, "claude": Claude}
SEARCH = (("web_search_requests", 1),)
CACHED = {"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}


def may_use(dialect: str, body: dict[str, Any], operation: str = CHAT) -> Usage:
    config = ProviderConfig.model_validate({"id": dialect, "keys": [{"id": "k", "secret": KEY}]})
    request = Request("m", body, KEY, dialect, operation, orjson.dumps(body))
    return CLASSES[dialect](config, NoSender()).may_use(request, 1000, 100)


@pytest.mark.parametrize(
    ("dialect", "body", "usage"),
    [
        ("openai", {}, Usage(1000, 100, cache_write_tokens=1000)),
        ("openai", {"service_tier": "priority"}, Usage(1000, 100, cache_write_tokens=1000, tier="priority")),
        ("openai", {"service_tier": "flex"}, Usage(1000, 100, cache_write_tokens=1000, tier="flex")),
        ("openai", {"service_tier": "auto"}, Usage(1000, 100, cache_write_tokens=1000)),
        ("openai", {"service_tier": "default"}, Usage(1000, 100, cache_write_tokens=1000)),
        ("openai", {"service_tier": ["flex"], "tools": 3}, Usage(1000, 100, cache_write_tokens=1000)),
        ("openai", {"n": 3}, Usage(1000, 300, cache_write_tokens=1000)),
        ("openai", {"web_search_options": {}}, Usage(1000, 100, cache_write_tokens=1000, fees=SEARCH)),
        ("gemini", {"serviceTier": "SERVICE_TIER_FLEX"}, Usage(1000, 100, tier="flex")),
        ("gemini", {"service_tier": "priority"}, Usage(1000, 100, tier="priority")),
        ("gemini", {"tools": [{"googleSearch": {}}, {"codeExecution": {}}]}, Usage(1000, 100, fees=SEARCH)),
        ("gemini", {"tools": [{"google_search": {}}]}, Usage(1000, 100, fees=SEARCH)),
        ("claude", {"service_tier": "auto"}, Usage(1000, 100)),
        ("claude", {"speed": "fast"}, Usage(1000, 100, tier="fast")),
        ("claude", {"system": [CACHED]}, Usage(1000, 100, cache_write_tokens=1000)),
        (
            "claude",
            {"system": [CACHED], "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            Usage(1000, 100, cache_write_tokens=1000, cache_write_1h_tokens=1000),
        ),
        (
            "claude",
            {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}, {"name": "mine"}]},
            Usage(1000, 100, fees=(("web_search_requests", 5),)),
        ),
    ],
)
def test_the_dearest_usage_is_what_the_body_asks_for(dialect: str, body: dict[str, Any], usage: Usage) -> None:
    assert may_use(dialect, body) == usage


def test_hosted_tools_of_a_response_are_reserved_as_often_as_they_may_be_used() -> None:
    tools = [{"type": name} for name in ("web_search", "file_search", "code_interpreter", "image_generation")]
    used = may_use("openai", {"input": "hi", "tools": tools, "max_tool_calls": 4}, "responses")
    assert dict(used.fees) == {
        "web_search_requests": 4,
        "file_search_requests": 4,
        "code_interpreter_sessions": 1,
        "image_generation_requests": 4,
    }


def test_copies_are_counted_in_chat_only_for_completions_bound_them_all_together() -> None:
    assert may_use("openai", {"n": 3, "prompt": "a"}, "completions").output_tokens == 100
    assert may_use("openai", {"n": 3, "input": "a"}, EMBEDDINGS).output_tokens == 0


def test_a_reservation_is_never_below_what_the_call_costs_at_the_tier_that_served_it() -> None:
    pricing = Pricing(
        input_token_cost=Decimal("0.001"),
        output_token_cost=Decimal("0.002"),
        cache_write_token_cost=Decimal("0.00125"),
        tier_factors={"priority": Decimal("2")},
    )
    reserved = price(may_use("openai", {"service_tier": "priority"}), pricing)
    served = price(Usage(1000, 100, cache_write_tokens=600, tier="priority"), pricing)
    # 2 x (1000 x 0.00125 + 100 x 0.002) / 1000 and 2 x (400 x 0.001 + 600 x 0.00125 + 100 x 0.002) / 1000
    assert reserved is not None
    assert served is not None
    assert (reserved.nanos, served.nanos) == (2_900_000, 2_700_000)
    assert price(may_use("openai", {"service_tier": "flex"}), pricing) is None, (
        "a tier without a factor can't be capped"
    )
