"""Which keys learn their limits, and what makes what they have learned worthless."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models.config import Config
from models.config_file import load_config_text
from models.learning import configured, fingerprints, learning_pools
from tests.models.test_config_secrets import CANARY


def config(key: dict[str, Any], **provider: Any) -> Config:
    whole = {"id": "p", "type": "openai", "keys": [{"id": "k", "secret": CANARY, **key}], **provider}
    return load_config_text(json.dumps({"providers": [whole]}), secrets=True, environ={})


def mark(key: dict[str, Any], **provider: Any) -> str | None:
    (found,) = fingerprints(config(key, **provider).providers).values()
    return found


@pytest.mark.parametrize(
    ("key", "provider", "learning"),
    [
        ({}, {}, True),
        ({"limit_req_per_min": 600}, {}, False),
        ({}, {"models": {"m": {"limit_req_per_min": 600}}}, False),
        ({"limit_req_per_day": 600}, {}, True),
        ({}, {"limits": "fixed"}, False),
        ({"limit_req_per_min": 600}, {"limits": "learn"}, True),
        ({"limits": "learn"}, {}, True),
        ({"limits": "fixed"}, {"limits": "learn"}, False),
        ({"limits": "learn"}, {"limits": "fixed"}, True),
    ],
)
def test_a_key_s_own_word_goes_before_its_provider_s(
    key: dict[str, Any], provider: dict[str, Any], learning: bool
) -> None:
    settings = config(key, **provider).providers[0]
    assert settings.learns(settings.keys[0]) is learning
    assert learning_pools([settings]) == ({"p/k"} if learning else set())


@pytest.mark.parametrize(
    ("key", "provider"),
    [
        ({"limit_req_per_min": 601}, {}),
        ({"limit_req_per_min": 600, "limit_tokens_per_min": 9}, {}),
        ({"limit_req_per_min": 600, "use": 0.5}, {}),
        ({"limit_req_per_min": 600, "secret": f"{CANARY}-new"}, {}),
        ({"limit_req_per_min": 600, "organization": "other"}, {}),
        ({"limit_req_per_min": 600, "limits": "learn"}, {}),
        ({"limit_req_per_min": 600, "models": {"m": {"limit_req_per_min": 5}}}, {}),
        ({"limit_req_per_min": 600}, {"models": {"m": {"limit_req_per_min": 5}}}),
        ({"limit_req_per_min": 600}, {"base_url": "https://other.example/v1"}),
        ({"limit_req_per_min": 600}, {"type": "claude"}),
        ({"limit_req_per_min": 600}, {"headers": {"x-account": "two"}}),
        ({"limit_req_per_min": 600}, {"project": "other"}),
    ],
)
def test_another_limit_secret_account_or_address_is_another_configuration(
    key: dict[str, Any], provider: dict[str, Any]
) -> None:
    assert mark(key, **provider) != mark({"limit_req_per_min": 600})


def test_what_changes_no_limit_changes_no_fingerprint() -> None:
    prices = {"pricing": {"input_token_cost": 1, "output_token_cost": 2}}
    assert mark(prices, timeout_seconds=5) == mark({})


def test_a_pool_is_all_its_keys_in_any_order() -> None:
    def pool(*secrets: str) -> str | None:
        keys = [{"id": f"k{n}", "secret": secret, "pool": "team"} for n, secret in enumerate(secrets)]
        text = json.dumps({"providers": [{"id": "p", "type": "openai", "keys": keys}]})
        return fingerprints(load_config_text(text, secrets=True, environ={}).providers)["pool:team"]

    assert pool("a", "b") == pool("b", "a") != pool("a", "c")


@pytest.mark.parametrize(("secret", "header"), [("${NOT_SET}", "x"), ("s", "${NOT_SET}")])
def test_it_is_unknown_where_a_variable_is_not_set(secret: str, header: str) -> None:
    keys = [{"id": "k", "secret": secret}]
    text = json.dumps({"providers": [{"id": "p", "type": "openai", "keys": keys, "headers": {"x-account": header}}]})
    assert fingerprints(load_config_text(text, secrets=False, environ={}).providers) == {"p/k": None}


def test_no_secret_can_be_read_from_it() -> None:
    found = mark({})
    assert found is not None
    assert len(found) == 16
    assert CANARY not in found


def test_the_smaller_one_of_key_and_model_is_what_is_configured() -> None:
    settings = config({"limit_req_per_min": 600, "use": 0.5, "models": {"m": {"limit_req_per_min": 100}}}).providers[0]
    found = [configured(settings, settings.keys[0], model, "limit_req_per_min") for model in ("m", "other")]
    assert found == [50, 300]
    assert configured(settings, settings.keys[0], "m", "limit_tokens_per_min") is None
