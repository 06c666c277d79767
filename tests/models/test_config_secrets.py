"""Secrets of the configuration show themselves to nobody but who asks for them: not in repr, dumps, hashes or errors."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from models.config import Config, KeyConfig, ProviderConfig, Secret, WorkerConfig
from models.config_file import SMALLEST, load_config_text
from models.errors import ConfigError

CANARY = "sk-canary-7f3e9b1c"


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


def secretive() -> Config:
    return a_config(
        {
            "id": "openai",
            "keys": [a_key(secret=CANARY)],
            "headers": {"x-gateway": CANARY},
            "options": {"token": CANARY},
        },
        redis_url=f"rediss://user:{CANARY}@redis.example:6380/1",
        database_url=f"postgresql://user:{CANARY}@db.example/truckllm?sslmode=require",
    )


def test_secrets_are_in_no_repr_and_no_dump() -> None:
    config = secretive()
    key = config.providers[0].keys[0]
    shown = [
        repr(config),
        str(config),
        repr(key),
        str(key.secret),
        repr(key.secret),
        f"{key.secret}",
        f"{key.secret:>40}",
    ]
    shown += [str(config.model_dump()), config.model_dump_json(), str(config.warnings), repr(copy.deepcopy(config))]
    assert all(CANARY not in text for text in shown)
    assert key.secret.reveal() == CANARY
    assert config.providers[0].headers == {"x-gateway": CANARY}
    assert config.redis_url == f"rediss://user:{CANARY}@redis.example:6380/1"


def test_the_hash_tells_settings_apart_and_not_secrets() -> None:
    config = secretive()
    other_secrets = secretive().model_copy(update={"redis_url": None, "database_url": None})
    key = KeyConfig.model_validate(a_key(secret="another"))
    provider = config.providers[0].model_copy(update={"keys": (key,), "headers": {"x-gateway": "another"}})
    same = other_secrets.model_copy(update={"providers": (provider,)})
    assert same.config_hash() == config.config_hash()
    limited = provider.model_copy(update={"keys": (key.model_copy(update={"limit_req_per_min": 61}),)})
    assert same.model_copy(update={"providers": (limited,)}).config_hash() != config.config_hash()
    assert len(config.config_hash()) == 16


def test_a_setting_as_by_default_is_none_that_code_of_another_version_would_miss() -> None:
    class Newer(Config):
        of_the_next_version: int = 3

    tree = {"providers": [{"id": "openai", "keys": [a_key()]}]}
    said = Config.model_validate({**tree, "worker": {"processes": WorkerConfig().processes}})
    assert Newer.model_validate(tree).config_hash() == Config.model_validate(tree).config_hash() == said.config_hash()
    changed = Newer.model_validate({**tree, "of_the_next_version": 4})
    assert changed.config_hash() != said.config_hash()


def test_secrets_compare_without_being_shown() -> None:
    assert Secret(CANARY) == Secret(CANARY)
    assert Secret(CANARY) != Secret("another")
    assert Secret(CANARY) != CANARY
    assert len({Secret(CANARY), Secret(CANARY)}) == 1


@pytest.mark.parametrize(
    "secret",
    [f"{CANARY} x", f"{CANARY}\n{CANARY}", f"{CANARY}é", f"{CANARY}\0", [CANARY], {"value": CANARY}, 12345678, "", " "],
)
def test_a_wrong_secret_is_refused_without_being_shown(secret: object) -> None:
    said = problem({"id": "openai", "keys": [a_key(secret=secret)]})
    assert "secret" in said
    assert CANARY not in said
    assert "12345678" not in said


def test_a_secret_that_was_read_with_its_newline_works() -> None:
    assert (
        a_config({"id": "openai", "keys": [a_key(secret=f"{CANARY}\n")]}).providers[0].keys[0].secret.reveal() == CANARY
    )


def test_a_missing_secret_names_variable_and_key_when_it_is_needed() -> None:
    config = load_config_text(SMALLEST, secrets=False, environ={})
    secret = config.providers[0].keys[0].secret
    assert not secret.usable
    with pytest.raises(ConfigError, match=r"providers\[0\]\.keys\[0\]\.secret.*OPENAI_API_KEY is not set"):
        secret.reveal()


def test_a_provider_can_be_made_in_python() -> None:
    provider = ProviderConfig(id="openai", keys=(KeyConfig(id="a", secret=Secret(CANARY), limit_req_per_min=3),))
    assert (provider.type, provider.keys[0].secret.reveal()) == ("openai", CANARY)
