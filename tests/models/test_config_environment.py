"""Without a file the vendors' keys in the environment make a configuration, and it says what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.config_environment import VENDORS
from models.config_file import load_config
from models.errors import ConfigError

KEYS = {"OPENAI_API_KEY": "sk-env-1", "GEMINI_API_KEY": "gm-env-1", "ANTHROPIC_API_KEY": "cl-env-1"}


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_keys_alone_are_enough_and_it_is_said_loudly() -> None:
    config = load_config(secrets=True, environ=KEYS)
    assert [(p.id, p.type, p.keys[0].secret.reveal()) for p in config.providers] == [
        ("openai", "openai", "sk-env-1"),
        ("gemini", "gemini", "gm-env-1"),
        ("claude", "claude", "cl-env-1"),
    ]
    assert all(
        provider.base_url.startswith("https://") and not provider.keys[0].limits() for provider in config.providers
    )
    (said,) = config.warnings
    assert "OPENAI_API_KEY, GEMINI_API_KEY, ANTHROPIC_API_KEY alone, with NO LIMITS and NO PRICES" in said
    assert config.path is None


def test_only_vendors_with_a_key_are_there_and_claude_has_two_names() -> None:
    for name in ("CLAUDE_API_KEY", "ANTHROPIC_API_KEY"):
        (only,) = load_config(secrets=True, environ={name: "x-env-22", "OPENAI_API_KEY": ""}).providers
        assert (only.id, only.keys[0].secret.reveal()) == ("claude", "x-env-22")


def test_storage_variables_hold_here_too() -> None:
    config = load_config(secrets=False, environ={**KEYS, "TRUCKLLM_REDIS_URL": "redis://somewhere:6379/0"})
    assert config.redis_url == "redis://somewhere:6379/0"


def test_a_file_goes_first_and_a_named_one_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config("other.yaml", secrets=False, environ=KEYS)
    (tmp_path / "truckllm.yaml").write_text("providers: [{id: openai, keys: [{id: mine, secret: s-env-333}]}]")
    config = load_config(secrets=True, environ=KEYS)
    assert [key.id for provider in config.providers for key in provider.keys] == ["mine"]
    assert not any("NO LIMITS" in warning for warning in config.warnings)


def test_with_no_key_either_every_way_out_is_named() -> None:
    with pytest.raises(ConfigError) as error:
        load_config(secrets=False, environ={})
    for way in ("truckllm init", "-c", "TRUCKLLM_CONFIG", *(name for vendor in VENDORS for name in vendor.variables)):
        assert way in str(error.value)
