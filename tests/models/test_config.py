"""What a configuration means: defaults, what parts must agree on, warnings, and that secrets stay secret."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from models.config import Config
from models.config_file import load_config_text
from models.errors import NotFoundError

CANARY = "sk-canary-7f3e9b1c"

GUIDE_BLOCKS = {
    "openai": """
providers:
  - id: openai
    name: "OpenAI"
    base_url: "https://api.openai.com/v1"
    keys:
      - id: "oa-1"
        secret: "${OPENAI_API_KEY}"
        limit_req_per_min: 200
        limit_tokens_per_min: 100000
        pricing:
          input_token_cost: 0.002
          output_token_cost: 0.01
          currency: "USD"
""",
    "gemini": """
providers:
  - id: gemini
    name: "Gemini"
    base_url: "https://generativelanguage.googleapis.com/v1"
    keys:
      - id: "gm-1"
        secret: "${GEMINI_API_KEY}"
        limit_req_per_min: 60
        limit_tokens_per_min: 32000
        pricing:
          input_token_cost: 0.00025
          output_token_cost: 0.0005
          currency: "USD"
""",
    "claude": """
providers:
  - id: claude
    name: "Claude"
    base_url: "https://api.anthropic.com/v1"
    keys:
      - id: "cl-1"
        secret: "${CLAUDE_API_KEY}"
        limit_req_per_min: 50
        limit_tokens_per_min: 25000
        pricing:
          input_token_cost: 0.015
          output_token_cost: 0.075
          currency: "USD"
""",
    "custom": """
providers:
  - id: custom
    name: "Custom Provider"
    base_url: "https://api.custom-provider.com/v1"
    keys:
      - id: "custom-1"
        secret: "${CUSTOM_API_KEY}"
        limit_req_per_min: 100
        limit_tokens_per_min: 50000
        pricing:
          input_token_cost: 0.001
          output_token_cost: 0.002
          currency: "USD"
""",
}
"""The blocks of the providers guide, word for word."""

GUIDE_VALUES = {
    "openai": ("oa-1", 200, 100000, "0.002", "0.01"),
    "gemini": ("gm-1", 60, 32000, "0.00025", "0.0005"),
    "claude": ("cl-1", 50, 25000, "0.015", "0.075"),
    "custom": ("custom-1", 100, 50000, "0.001", "0.002"),
}


def a_key(key_id: str = "k-1", **fields: Any) -> dict[str, Any]:
    limits = {"limit_req_per_min": 60, "limit_tokens_per_min": 1000}
    return {"id": key_id, "secret": f"secret-{key_id}", **limits, **fields}


def a_config(*providers: dict[str, Any], **fields: Any) -> Config:
    return Config.model_validate(
        {"providers": [{"keys": [a_key()], **p} for p in providers or ({"id": "openai"},)], **fields}
    )


def problem(*providers: dict[str, Any], **fields: Any) -> str:
    with pytest.raises(ValueError) as caught:
        a_config(*providers, **fields)
    return str(caught.value)


def priced(currency: str) -> dict[str, Any]:
    return {"pricing": {"input_token_cost": "1", "output_token_cost": "1", "currency": currency}}


@pytest.mark.parametrize("provider", GUIDE_BLOCKS)
def test_the_blocks_of_the_guide_load_word_for_word(provider: str) -> None:
    config = load_config_text(GUIDE_BLOCKS[provider], environ={f"{provider.upper()}_API_KEY": CANARY})
    [loaded] = config.providers
    [key] = loaded.keys
    key_id, requests, tokens, cost_in, cost_out = GUIDE_VALUES[provider]
    assert (loaded.id, loaded.type, key.id, key.secret.reveal()) == (provider, provider, key_id, CANARY)
    assert (key.limit_req_per_min, key.limit_tokens_per_min) == (requests, tokens)
    assert key.pricing is not None
    assert (key.pricing.input_token_cost, key.pricing.output_token_cost) == (Decimal(cost_in), Decimal(cost_out))
    assert key.pricing.currency == "USD"
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("provider", "url"),
    [
        ("openai", "https://api.openai.com/v1"),
        ("gemini", "https://generativelanguage.googleapis.com/v1"),
        ("claude", "https://api.anthropic.com/v1"),
    ],
)
def test_known_types_know_where_they_live_under_any_id(provider: str, url: str) -> None:
    config = a_config({"id": provider}, {"id": "second", "type": provider})
    assert [p.base_url for p in config.providers] == [url, url]
    assert [(p.id, p.name, p.type) for p in config.providers] == [
        (provider, provider, provider),
        ("second", "second", provider),
    ]


def test_a_type_that_no_dialect_claims_loads_when_it_says_where_it_lives() -> None:
    assert a_config({"id": "strange", "base_url": "https://strange.example/v2/"}).provider("strange").type == "strange"
    assert "base_url" in problem({"id": "strange"})


def test_documented_defaults() -> None:
    config = a_config()
    [provider] = config.providers
    assert provider.base_url == "https://api.openai.com/v1"
    assert (provider.anthropic_version, provider.max_tokens) == ("2023-06-01", 4096)
    assert (provider.timeout_seconds, provider.connect_timeout_seconds, provider.stream_silence_seconds) == (600, 5, 60)
    assert (provider.allow_http, provider.default_output_tokens, provider.options) == (False, None, {})
    worker = config.worker
    assert (worker.concurrency, worker.processes, worker.grace_seconds, worker.retry_for) == (256, 1, 60, 3600)
    assert (worker.max_attempts, worker.budget_seconds, worker.max_response_bytes) == (5, 20, 128 * 1024 * 1024)
    assert (provider.keys[0].use, provider.keys[0].pool, config.redis_url, config.database_url) == (
        1.0,
        None,
        None,
        None,
    )


def test_a_trailing_slash_of_the_base_url_is_dropped() -> None:
    assert a_config({"id": "x", "base_url": "https://h/v1//"}).providers[0].base_url == "https://h/v1"


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8000/v1",
        "http://127.0.0.1/v1",
        "http://127.8.9.1:1/v1",
        "http://[::1]:9/v1",
        "http://a.localhost/",
    ],
)
def test_http_is_fine_on_this_machine(url: str) -> None:
    assert a_config({"id": "x", "base_url": url}).providers[0].base_url == url.rstrip("/")


@pytest.mark.parametrize("url", ["http://api.example.com/v1", "http://10.0.0.1/v1", "http://localhost.example.com/v1"])
def test_http_to_another_machine_needs_to_be_allowed(url: str) -> None:
    assert "allow_http: true" in problem({"id": "x", "base_url": url})
    assert a_config({"id": "x", "base_url": url, "allow_http": True}).providers[0].base_url == url


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{CANARY}@h/v1",
        f"https://h/v1?key={CANARY}",
        f"https://h/v1#{CANARY}",
        f"ftp://h/{CANARY}",
        f"https://h:{CANARY}/",
        f"https:///{CANARY}",
        f"{CANARY}.example.com/v1",
        f"https://h/{CANARY} v1",
    ],
)
def test_a_wrong_base_url_is_refused_without_being_shown(url: str) -> None:
    said = problem({"id": "x", "base_url": url})
    assert "base_url" in said
    assert CANARY not in said


def test_models_may_be_a_plain_list_or_names_without_settings() -> None:
    key = a_key(models=["m-1", "m-2"])
    provider = a_config(
        {"id": "openai", "keys": [key], "models": {"m-3": None, "m-4": {"context_window": 8}}}
    ).providers[0]
    assert list(provider.models) == ["m-3", "m-4"]
    assert provider.models["m-4"].context_window == 8
    assert all(provider.names_model(f"m-{n}") for n in (1, 2, 3, 4))
    assert not provider.names_model("m-5")


def test_a_fallback_may_be_one_model_or_several() -> None:
    provider = a_config({"id": "openai", "fallback_models": {"a": "b", "c": ["d", "e"]}}).providers[0]
    assert provider.fallback_models == {"a": ("b",), "c": ("d", "e")}


def test_limits_of_a_model_are_the_keys_word_before_the_providers() -> None:
    key = a_key(models={"m": {"limit_req_per_min": 5}})
    models = {"m": {"limit_req_per_min": 9, "limit_tokens_per_min": 90}}
    provider = a_config({"id": "openai", "keys": [key, a_key("k-2")], "models": models}).providers[0]
    assert provider.model_limits(provider.key("k-1"), "m") == {"limit_req_per_min": 5, "limit_tokens_per_min": 90}
    assert provider.model_limits(provider.key("k-2"), "m") == {"limit_req_per_min": 9, "limit_tokens_per_min": 90}
    assert provider.model_limits(provider.key("k-1"), "other") == {}


def test_a_routes_model_may_hold_slashes() -> None:
    config = a_config(
        {"id": "router", "base_url": "https://h/v1"}, routes={"r": {"candidates": ["router/meta/llama-4"]}}
    )
    assert config.routes["r"].pairs() == (("router", "meta/llama-4"),)
    assert config.routes["r"].strategy == "priority"


def test_blank_fields_mean_their_defaults() -> None:
    provider = a_config({"id": "openai", "name": None, "headers": None, "models": None, "max_tokens": None}).providers[
        0
    ]
    assert (provider.name, provider.headers, provider.models, provider.max_tokens) == ("openai", {}, {}, 4096)


def test_a_provider_and_a_key_are_found_by_id_and_the_nearest_name_is_offered() -> None:
    config = a_config()
    assert config.provider("openai").key("k-1").id == "k-1"
    with pytest.raises(NotFoundError, match="did you mean openai"):
        config.provider("opnai")
    with pytest.raises(NotFoundError, match="did you mean k-1"):
        config.provider("openai").key("k-2")


def test_ids_are_given_once() -> None:
    assert "providers[1].id: 'openai' is also the id of providers[0]" in problem({"id": "openai"}, {"id": "openai"})
    assert "keys[1].id: 'k-1' is also the id" in problem({"id": "openai", "keys": [a_key(), a_key()]})
    assert "routes.openai" in problem(routes={"openai": {"candidates": ["openai/m"]}})


def test_keys_of_one_pool_agree_on_limits_and_share() -> None:
    for field, value in (
        ("limit_req_per_min", 61),
        ("limit_tokens_per_min", None),
        ("limit_output_tokens_per_min", 5),
        ("use", 0.5),
    ):
        keys = [a_key(pool="account"), a_key("k-2", pool="account", **{field: value})]
        assert f"providers[0].keys[1].{field}" in problem({"id": "openai", "keys": keys})
    same = a_config({"id": "openai", "keys": [a_key(pool="account"), a_key("k-2", pool="account")]})
    assert {key.pool for key in same.providers[0].keys} == {"account"}


def test_keys_of_one_pool_agree_across_providers() -> None:
    one = {"id": "openai", "keys": [a_key(pool="shared")]}
    other = {"id": "claude", "keys": [a_key(pool="shared", limit_req_per_min=61)]}
    assert "providers[1].keys[0].limit_req_per_min: is 61, but providers[0].keys[0]" in problem(one, other)
    assert a_config(one, {"id": "claude", "keys": [a_key(pool="shared")]}).provider("claude").keys[0].pool == "shared"


def test_keys_of_one_pool_agree_on_the_limits_of_each_model() -> None:
    keys = [a_key(pool="p", models={"m": {"limit_req_per_min": 5}}), a_key("k-2", pool="p")]
    assert "keys[1].models.m: has other limits than on providers[0].keys[0]" in problem({"id": "openai", "keys": keys})
    agreed = [keys[0], a_key("k-2", pool="p", models={"m": {"limit_req_per_min": 5, "context_window": 9}})]
    assert len(a_config({"id": "openai", "keys": agreed}).providers[0].keys) == 2


def test_route_candidates_name_known_providers_once() -> None:
    said = problem(routes={"r": {"candidates": ["opnai/m"]}})
    assert "routes.r.candidates[0]: 'opnai/m' names no known provider; did you mean openai?" in said
    assert "is named twice" in problem(routes={"r": {"candidates": ["openai/m", "openai/m"]}})
    assert "at least one" in problem(routes={"r": {"candidates": []}})


def test_cost_first_refuses_prices_in_different_currencies() -> None:
    providers = [{"id": "openai", "keys": [a_key(**priced("USD"))]}, {"id": "claude", "keys": [a_key(**priced("EUR"))]}]
    route = {"candidates": ["openai/a", "claude/b"], "strategy": "cost_first"}
    said = problem(*providers, routes={"r": route})
    assert (
        "routes.r.strategy: cost_first can't compare prices in different currencies: EUR (claude/k-1), USD (openai/k-1)"
        in said
    )
    assert (
        a_config(*providers, routes={"r": {**route, "strategy": "round_robin"}}).routes["r"].strategy == "round_robin"
    )
    one_candidate = {"candidates": ["openai/a"], "strategy": "cost_first"}
    assert a_config(*providers, routes={"r": one_candidate}).warnings == ()


def test_cost_first_with_an_unpriced_candidate_is_warned_about() -> None:
    config = a_config(routes={"r": {"candidates": ["openai/m"], "strategy": "cost_first"}})
    assert config.warnings == ("routes.r is cost_first, but openai/m has no price on key k-1",)


def test_a_key_without_limits_is_warned_about() -> None:
    config = a_config(
        {
            "id": "openai",
            "keys": [{"id": "a", "secret": "secret-1"}, {"id": "b", "secret": "secret-2", "limit_req_per_min": 1}],
        }
    )
    first, second = config.warnings
    assert "providers[0].keys[0] (openai/a) has no limit_req_per_min and no limit_tokens_per_min" in first
    assert first.endswith("what the server takes is learned, from a few calls at once on")
    assert "providers[0].keys[1] (openai/b) has no limit_tokens_per_min" in second
    assert second.endswith("its calls are not held back for that")


def test_many_keys_without_limits_share_one_warning() -> None:
    keys = [{"id": f"k{n}", "secret": f"secret-{n}", "limit_req_per_min": 1} for n in range(3000)]
    config = a_config({"id": "openai", "keys": keys})
    assert config.warnings == (
        "3,000 keys of openai (the first is openai/k0) have no limit_tokens_per_min: their calls are not held back for that",
    )


def test_limits_on_every_model_or_on_one_side_of_the_tokens_are_limits() -> None:
    by_model = {"m": {"limit_req_per_min": 5, "limit_tokens_per_min": 6}}
    sides = {"limit_req_per_min": 5, "limit_input_tokens_per_min": 6}
    keys = [{"id": "a", "secret": "secret-1", "models": by_model}, {"id": "b", "secret": "secret-2", **sides}]
    assert a_config({"id": "claude", "keys": keys}).warnings == ()


def test_a_tree_is_frozen() -> None:
    config = a_config()
    with pytest.raises(ValueError, match="frozen"):
        config.providers[0].max_tokens = 5


def test_a_python_float_is_no_price() -> None:
    pricing = {"input_token_cost": 0.1, "output_token_cost": "0.1"}
    assert "not a float" in problem({"id": "openai", "keys": [a_key(pricing=pricing)]})


def test_a_model_has_one_route() -> None:
    one = {"candidates": ["openai/m"], "models": "gpt-4o"}
    said = problem(routes={"a": one, "b": one})
    assert "routes.b.models[0]: 'gpt-4o' is named by routes.a too: a model has one route" in said
    said = problem(routes={"a": {**one, "models": ["gpt-4o", "gpt-4o"]}})
    assert "routes.a.models[1]: 'gpt-4o' is named twice: a model has one route" in said
