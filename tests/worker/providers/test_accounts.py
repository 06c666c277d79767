"""What the configuration says of a vendor's accounts, versions and parameters, as it goes out with a call.

Prices are in golden/*.yaml and tests/models/test_prices.py.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from models.config import Pricing, ProviderConfig
from models.errors import Untranslatable
from models.request import FailureKind, Request
from tests.worker.providers.test_sandbox import ask, play
from tests.worker.providers.test_translation import HI, make
from worker.http import HttpSender
from worker.providers.base import Provider
from worker.providers.claude import Claude
from worker.providers.contract import KEY
from worker.providers.openai import OpenAI
from worker.providers.registry import make_provider

OTHER = "sk-other-0123456789abcdef"


def headers(api_key: str, **config: Any) -> Any:
    return make(OpenAI, **config).build(Request("m", {"messages": HI}, api_key)).headers


def test_organization_and_project_go_with_every_call_the_keys_word_first() -> None:
    keys = [{"id": "a", "secret": KEY}, {"id": "b", "secret": OTHER, "project": "proj_b"}]
    config = {"keys": keys, "organization": "org-1", "project": "proj_a"}
    for api_key, project in ((KEY, "proj_a"), (OTHER, "proj_b")):
        sent = headers(api_key, **config)
        assert (sent["openai-organization"], sent["openai-project"]) == ("org-1", project)
        assert make(OpenAI, **config).build_list_models(api_key).headers["openai-project"] == project


def test_without_them_no_such_header_is_sent() -> None:
    assert not [name for name in headers(KEY) if name.startswith("openai-")]


@pytest.mark.parametrize("model", ["o3", "o4-mini", "gpt-5.4-mini", "gpt-6-luna", "ft:gpt-5-mini:org::1"])
def test_a_simple_lines_bound_gets_the_name_that_reasoning_models_take(model: str) -> None:
    body = orjson.loads(make(OpenAI).build(Request(model, {"messages": HI, "max_tokens": 9}, KEY)).body or b"")
    assert (body.get("max_tokens"), body["max_completion_tokens"]) == (None, 9)


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-35-turbo", "llama-3.3-70b", "ft:gpt-4o-mini:org::1"])
def test_for_other_models_it_keeps_its_name(model: str) -> None:
    body = orjson.loads(make(OpenAI).build(Request(model, {"messages": HI, "max_tokens": 9}, KEY)).body or b"")
    assert (body["max_tokens"], body.get("max_completion_tokens")) == (9, None)


def test_a_reasoning_model_answers_a_simple_line_with_max_tokens() -> None:
    response, row = ask("openai", Request("gpt-5.4-mini", {"messages": HI, "max_tokens": 30}, KEY))
    assert (response.failure, row["status"]) == (None, 200)


def test_the_tier_that_served_a_call_is_told() -> None:
    response, _ = ask("openai", Request("gpt-4o", {"messages": HI, "service_tier": "flex"}, KEY))
    assert response.usage is not None
    assert response.usage.tier == "flex"
    usual, _ = ask("openai", Request("gpt-4o", {"messages": HI, "service_tier": "auto"}, KEY))
    assert usual.usage is not None
    assert usual.usage.tier == ""


def prices(**models: str) -> ProviderConfig:
    return ProviderConfig.model_validate(
        {
            "id": "openai",
            "keys": [{"id": "k", "secret": KEY, "pricing": {"input_token_cost": "9", "output_token_cost": "9"}}],
            "models": {
                name.replace("__", ":"): {"pricing": {"input_token_cost": cost, "output_token_cost": "9"}}
                for name, cost in models.items()
            },
        }
    )


@pytest.mark.parametrize(
    ("models", "cost"),
    [
        ({"gpt4": "1", "ft__gpt4": "2", "ft__gpt4__org__x__1": "3"}, 3),
        ({"gpt4": "1", "ft__gpt4": "2"}, 2),
        ({"gpt4": "1"}, 1),
        ({"other": "1"}, 9),
    ],
)
def test_a_fine_tuned_model_is_priced_by_its_name_or_by_its_base(models: dict[str, str], cost: int) -> None:
    config = prices(**models)
    pricing = config.pricing(config.keys[0], "ft:gpt4:org:x:1")
    assert isinstance(pricing, Pricing)
    assert pricing.input_token_cost == cost


# Claude's versions

NEW = {"anthropic_version": "2026-10-21"}
SAMPLED = {"messages": HI, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "max_tokens": 20}


def claude(source: dict[str, Any], **config: Any) -> Any:
    return make(Claude, **config).build(Request("claude-haiku-4-5", source, KEY))


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k"])
def test_the_newer_version_takes_no_sampling_and_the_error_says_what_to_do(name: str) -> None:
    with pytest.raises(Untranslatable, match="drop_sampling: true") as refused:
        claude({"messages": HI, name: SAMPLED[name]}, **NEW)
    assert refused.value.field == name


@pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21"])
def test_sampling_is_dropped_where_the_configuration_says_so(version: str) -> None:
    body = orjson.loads(claude(SAMPLED, anthropic_version=version, drop_sampling=True).body)
    assert body == {"model": "claude-haiku-4-5", "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}]}


def test_betas_are_a_header_of_the_configuration() -> None:
    assert claude({"messages": HI}, headers={"Anthropic-Beta": "a,b"}).headers["anthropic-beta"] == "a,b"


@pytest.mark.parametrize(
    ("config", "own", "kind"),
    [
        (NEW, False, None),
        ({**NEW, "drop_sampling": True}, False, None),
        ({}, True, None),
        (NEW, True, FailureKind.BAD_REQUEST),  # a body of the user's own goes untouched, and Claude says what it thinks
    ],
)
def test_the_sandbox_holds_to_the_version(config: dict[str, Any], own: bool, kind: FailureKind | None) -> None:
    source: dict[str, Any] = {"messages": HI, "max_tokens": 20, "model": "claude-haiku-4-5"}
    if own or config.get("drop_sampling"):
        source["temperature"] = 0.5
    dialect = "claude" if own else "simple"
    request = Request("claude-haiku-4-5", source, KEY, dialect=dialect, body=orjson.dumps(source) if own else None)

    async def play_out(provider: Provider, sandbox: Any) -> Any:
        values = {
            "id": "claude",
            "base_url": sandbox.base_url("claude"),
            "keys": [{"id": "k", "secret": KEY}],
            **config,
        }
        async with HttpSender() as sender:
            return await make_provider(ProviderConfig.model_validate(values), sender).generate(request)

    failure = play("claude", play_out).failure
    assert (failure.kind if failure else None) is kind
