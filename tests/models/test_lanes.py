"""Which lane a line finds, and what it is told when it finds none."""

from __future__ import annotations

from typing import Any

import pytest

from models.config import Config
from models.lanes import Lanes, NoLane


def provider(provider_id: str, **fields: Any) -> dict[str, Any]:
    return {"id": provider_id, "base_url": "https://host.example/v1", "keys": [{"id": "k1", "secret": "s"}], **fields}


def lanes(*providers: dict[str, Any], routes: dict[str, Any] | None = None) -> Lanes:
    return Lanes(Config.model_validate({"providers": list(providers), "routes": routes or {}}))


THREE = (provider("openai"), provider("gemini"), provider("claude"))


@pytest.mark.parametrize(
    ("model", "lane"),
    [
        ("gpt-4o", "openai"),
        ("chatgpt-4o-latest", "openai"),
        ("o1", "openai"),
        ("o3-mini", "openai"),
        ("o4-mini", "openai"),
        ("ft:gpt-4o-mini:acme::1", "openai"),
        ("ft:o4-mini:acme::1", "openai"),
        ("claude-haiku-4-5", "claude"),
        ("gemini-3.5-flash", "gemini"),
        ("models/gemini-3.5-flash", "gemini"),
    ],
)
def test_a_vendors_prefix_leads_to_its_provider(model: str, lane: str) -> None:
    assert lanes(*THREE).resolve(model=model) == (lane, model)


def test_a_mistyped_provider_before_a_model_is_put_right() -> None:
    with pytest.raises(NoLane, match="no provider 'opneai' for model 'opneai/gpt-4o'; did you mean openai"):
        lanes(*THREE).resolve(model="opneai/gpt-4o")


@pytest.mark.parametrize("model", ["olmo-2", "omni", "gpt", "claude", "mistral-large", "xgpt-4", "a/gpt-4o"])
def test_a_name_that_only_resembles_a_prefix_leads_nowhere(model: str) -> None:
    with pytest.raises(NoLane, match="no provider for model") as raised:
        lanes(*THREE).resolve(model=model)
    assert "configured: openai, gemini, claude" in str(raised.value)
    assert '"provider"' in str(raised.value)


def test_the_lines_provider_wins_and_takes_the_model_as_it_is() -> None:
    assert lanes(*THREE).resolve(model="gpt-4o", provider="claude") == ("claude", "gpt-4o")
    assert lanes(*THREE).resolve(model="openai/gpt-4o", provider="openai") == ("openai", "openai/gpt-4o")


def test_an_unknown_provider_is_named_with_the_nearest_one() -> None:
    with pytest.raises(NoLane, match="no provider 'opneai'; did you mean openai"):
        lanes(*THREE).resolve(model="gpt-4o", provider="opneai")


def test_a_route_is_a_lane_whose_candidates_name_the_model() -> None:
    routes = {"smart": {"candidates": ["openai/gpt-4o", "claude/claude-haiku-4-5"]}}
    assert lanes(*THREE, routes=routes).resolve(model=None, route="smart") == ("smart", "")
    assert lanes(*THREE, routes=routes).resolve(model="gpt-4o", route="smart") == ("smart", "")


def test_an_unknown_route_is_named_with_what_there_is() -> None:
    routes = {"smart": {"candidates": ["openai/gpt-4o"]}}
    with pytest.raises(NoLane, match="no route 'smrt'; did you mean smart"):
        lanes(*THREE, routes=routes).resolve(model=None, route="smrt")
    with pytest.raises(NoLane, match="no routes are configured"):
        lanes(*THREE).resolve(model=None, route="smart")


def test_provider_and_route_together_contradict_each_other() -> None:
    routes = {"smart": {"candidates": ["openai/gpt-4o"]}}
    with pytest.raises(NoLane, match="keep one"):
        lanes(*THREE, routes=routes).resolve(model="gpt-4o", provider="openai", route="smart")


def test_provider_slash_model_is_split_only_at_a_configured_provider() -> None:
    assert lanes(*THREE).resolve(model="claude/gpt-4o") == ("claude", "gpt-4o")
    vllm = lanes(provider("vllm", type="openai"))
    assert vllm.resolve(model="meta-llama/Llama-3") == ("vllm", "meta-llama/Llama-3")
    assert vllm.resolve(model="vllm/meta-llama/Llama-3") == ("vllm", "meta-llama/Llama-3")


def test_a_model_whose_own_name_begins_with_its_provider_is_kept_whole_when_listed() -> None:
    groq = provider("groq", type="openai", models=["groq/compound"])
    assert lanes(groq).resolve(model="groq/compound") == ("groq", "groq/compound")
    assert lanes(groq).resolve(model="groq/llama") == ("groq", "llama")


def test_a_provider_without_a_model_behind_the_slash_is_refused() -> None:
    with pytest.raises(NoLane, match="names a provider and no model"):
        lanes(*THREE).resolve(model="openai/")


def test_a_models_list_goes_before_the_prefix() -> None:
    azure = provider("azure", type="openai", models=["gpt-4o"])
    assert lanes(*THREE, azure).resolve(model="gpt-4o") == ("azure", "gpt-4o")


def test_a_keys_models_and_a_price_list_name_a_model_too() -> None:
    price = {"input_token_cost": "0.001", "output_token_cost": "0.002"}
    by_key = provider("one", type="openai", keys=[{"id": "k", "secret": "s", "models": ["llama-3"]}])
    by_price = provider("two", type="openai", models={"qwen-3": {"pricing": price}})
    assert lanes(by_key, by_price).resolve(model="llama-3") == ("one", "llama-3")
    assert lanes(by_key, by_price).resolve(model="qwen-3") == ("two", "qwen-3")


def test_two_providers_of_the_prefix_type_make_a_bad_line_that_names_both() -> None:
    with pytest.raises(NoLane, match="could go to provider 'openai' or provider 'azure'"):
        lanes(provider("openai"), provider("azure", type="openai")).resolve(model="gpt-4o")


def test_two_providers_that_list_a_model_make_a_bad_line_that_names_both() -> None:
    one, two = (provider(name, type="openai", models=["llama"]) for name in ("one", "two"))
    with pytest.raises(NoLane, match="could go to provider 'one' or provider 'two'"):
        lanes(one, two).resolve(model="llama")


def test_the_only_provider_takes_any_model() -> None:
    assert lanes(provider("claude")).resolve(model="gpt-4o") == ("claude", "gpt-4o")


@pytest.mark.parametrize("model", [None, ""])
def test_without_a_model_there_is_no_lane(model: str | None) -> None:
    with pytest.raises(NoLane, match="has no model"):
        lanes(provider("openai")).resolve(model=model)
    with pytest.raises(NoLane, match="has no model"):
        lanes(provider("openai")).resolve(model=model, provider="openai")


def test_a_body_goes_where_its_model_says_whatever_its_dialect() -> None:
    found = lanes(*THREE, provider("plugin"))
    assert found.resolve(model="gpt-4o", dialect="openai") == ("openai", "gpt-4o")
    assert found.resolve(model="x", provider="plugin", dialect="openai") == ("plugin", "x")
    assert found.resolve(model="claude-haiku-4-5", dialect="openai") == ("claude", "claude-haiku-4-5")
    assert found.resolve(model="gpt-4o", provider="gemini", dialect="claude") == ("gemini", "gpt-4o")
    assert found.resolve(model="openai/x", dialect="gemini") == ("openai", "x")


def test_what_is_not_chat_goes_to_its_own_dialect_and_to_plugins_only() -> None:
    found = lanes(*THREE, provider("plugin"))
    asked = {"dialect": "openai", "operation": "embeddings"}
    assert found.resolve(model="gpt-4o", **asked) == ("openai", "gpt-4o")
    assert found.resolve(model="x", provider="plugin", **asked) == ("plugin", "x")
    for where in ({"model": "claude-haiku-4-5"}, {"model": "gpt-4o", "provider": "gemini"}, {"model": "claude/x"}):
        with pytest.raises(NoLane, match="an OpenAI body for embeddings can't go to provider"):
            found.resolve(**where, **asked)
    assert found.resolve(model="gemini-embedding-1", operation="embeddings") == ("gemini", "gemini-embedding-1")


def test_a_body_goes_to_its_own_dialect_first_among_providers_that_list_its_model() -> None:
    one, two = provider("one", type="claude", models=["m"]), provider("two", type="openai", models=["m"])
    assert lanes(one, two).resolve(model="m", dialect="openai") == ("two", "m")
    with pytest.raises(NoLane, match="could go to provider 'one' or provider 'two'"):
        lanes(one, two).resolve(model="m", dialect="gemini")


def test_a_body_takes_a_route_of_any_providers_unless_it_asks_for_what_only_its_own_dialect_does() -> None:
    routes = {"smart": {"candidates": ["openai/gpt-4o", "claude/claude-haiku-4-5"]}}
    found = lanes(*THREE, routes=routes)
    assert found.resolve(model=None, route="smart", dialect="openai") == ("smart", "")
    with pytest.raises(NoLane, match="can't go to provider 'claude'"):
        found.resolve(model=None, route="smart", dialect="openai", operation="embeddings")


def test_answers_stay_right_when_more_models_are_asked_for_than_are_remembered() -> None:
    found = lanes(*THREE)
    for number in range(10_000):
        assert found.resolve(model=f"gpt-{number}") == ("openai", f"gpt-{number}")
    assert found.resolve(model="claude-1") == ("claude", "claude-1")
    assert len(found._known) <= 4096


def test_a_model_goes_by_the_route_that_names_it() -> None:
    smart = {"candidates": ["openai/gpt-4o", "claude/claude-haiku-4-5"], "models": ["gpt-4o", "openai/o3"]}
    found = lanes(*THREE, routes={"smart": smart, "other": {"candidates": ["gemini/gemini-3.5-flash"]}})
    assert found.resolve(model="gpt-4o") == ("smart", "")
    assert found.resolve(model="openai/o3") == ("smart", "")  # as it is written there
    assert found.resolve(model="gpt-4o-mini") == ("openai", "gpt-4o-mini")
    # what the line says itself goes first
    assert found.resolve(model="gpt-4o", provider="openai") == ("openai", "gpt-4o")
    assert found.resolve(model="gpt-4o", route="other") == ("other", "")
    assert found.resolve(model="openai/gpt-4o") == ("openai", "gpt-4o")


OPENROUTER = provider("openrouter", type="openai", models=["openai/gpt-4o", "anthropic/claude-sonnet-4"])


def test_a_models_list_comes_before_a_prefix_that_is_also_a_providers_id() -> None:
    assert lanes(*THREE, OPENROUTER).resolve(model="openai/gpt-4o") == ("openrouter", "openai/gpt-4o")
    assert lanes(*THREE, OPENROUTER).resolve(model="openai/gpt-4o-mini") == ("openai", "gpt-4o-mini")
    assert lanes(*THREE, OPENROUTER).resolve(model="openrouter/openai/gpt-4o") == ("openrouter", "openai/gpt-4o")


def test_a_keys_models_list_comes_before_the_prefix_too() -> None:
    by_key = provider("gateway", type="openai", keys=[{"id": "k", "secret": "s", "models": ["claude/opus"]}])
    assert lanes(*THREE, by_key).resolve(model="claude/opus") == ("gateway", "claude/opus")


def test_two_readings_that_are_both_configured_are_refused_and_name_both() -> None:
    with pytest.raises(
        NoLane, match="in the models of provider 'openrouter', and 'gpt-4o' in those of provider 'openai'"
    ):
        lanes(provider("openai", models=["gpt-4o"]), OPENROUTER).resolve(model="openai/gpt-4o")
    with pytest.raises(NoLane, match="could go to provider 'openai' or provider 'openrouter'"):
        lanes(provider("openai", models=["openai/gpt-4o"]), OPENROUTER).resolve(model="openai/gpt-4o")


@pytest.mark.parametrize(
    ("provider_id", "model", "asked"),
    [
        ("openrouter", "openrouter/auto", "openrouter/auto"),
        ("openrouter", "openrouter/free", "openrouter/free"),
        ("openrouter", "openrouter/horizon-beta", "openrouter/horizon-beta"),
        ("openrouter", "openrouter/openrouter/auto", "openrouter/auto"),
        ("openrouter", "openrouter/mistralai/mistral-small", "mistralai/mistral-small"),
        ("groq", "groq/compound-mini", "groq/compound-mini"),
        ("groq", "groq/llama-3.3-70b-versatile", "llama-3.3-70b-versatile"),
    ],
)
def test_models_that_a_vendor_sells_under_its_own_name_keep_it(provider_id: str, model: str, asked: str) -> None:
    found = lanes(*THREE, provider(provider_id, type="openai"))
    assert found.name_at(provider_id, model) == asked
    assert found.resolve(model=model) == (provider_id, asked)


def test_a_models_name_at_a_provider_loses_that_providers_id_only() -> None:
    some = lanes(*THREE, OPENROUTER)
    assert some.name_at("openai", "openai/gpt-4o") == "gpt-4o"
    assert some.name_at("openrouter", "openai/gpt-4o") == "openai/gpt-4o"
    assert some.name_at("claude", "openai/gpt-4o") == "openai/gpt-4o"
    assert some.name_at(None, "openai/gpt-4o") == "openai/gpt-4o"
    assert (
        lanes(provider("groq", type="openai", models=["groq/compound"])).name_at("groq", "groq/compound")
        == "groq/compound"
    )
