"""Providers are found by the entry-point group, the built-in ones like a stranger's.

It installs a stranger's plugin by putting its metadata on the path.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models import plugins
from models.config import ProviderConfig
from models.errors import ConfigError
from worker.http import BoundSender, Clocks, HttpSender
from worker.providers import registry
from worker.providers.claude import Claude
from worker.providers.contract import KEY, NoSender
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI

PLUGIN = """
from worker.providers.openai import OpenAI

class Mine(OpenAI):
    dialect = "mine"

NotAProvider = dict
"""


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "strange_plugin.py").write_text(PLUGIN)
    info = tmp_path / "strange_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[truckllm.providers]\nmine = strange_plugin:Mine\nnot = strange_plugin:NotAProvider\n"
        "gone = strange_plugin:Gone\nclaude = strange_plugin:Mine\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.found.cache_clear()
    yield
    sys.modules.pop("strange_plugin", None)
    plugins.found.cache_clear()


def config(**changes: object) -> ProviderConfig:
    values = {"id": "p", "type": "openai", "base_url": "https://x.example/v1", "keys": [{"id": "k", "secret": KEY}]}
    return ProviderConfig.model_validate({**values, **changes})


def test_the_built_in_providers_come_by_the_common_door() -> None:
    assert registry.provider_class(config(type="openai")) is OpenAI
    assert registry.provider_class(config(type="gemini")) is Gemini
    assert registry.provider_class(config(type="claude")) is Claude
    assert set(plugins.known_types()) >= {"openai", "gemini", "claude"}


def test_an_unknown_type_is_an_error_that_names_all_ways_out() -> None:
    with pytest.raises(ConfigError) as error:
        registry.provider_class(config(type="klingon"))
    for part in ("'klingon'", "truckllm.providers", "type: openai", "class: module:Class", "claude, gemini"):
        assert part in str(error.value)


@pytest.mark.usefixtures("stranger")
def test_a_strangers_plugin_is_found() -> None:
    provider = registry.make_provider(config(type="mine"), NoSender())
    assert (type(provider).__name__, provider.dialect) == ("Mine", "mine")


@pytest.mark.usefixtures("stranger")
@pytest.mark.parametrize(
    ("kind", "reason"), [("not", "no subclass"), ("gone", "can't be loaded"), ("claude", "more than one")]
)
def test_a_broken_plugin_is_an_error_that_names_it(kind: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as error:
        registry.provider_class(config(type=kind))
    assert "strange_plugin" in str(error.value)


def test_a_provider_sends_with_its_own_timeouts() -> None:
    settings = config(timeout_seconds=9, connect_timeout_seconds=2, stream_silence_seconds=3)
    provider = registry.make_provider(settings, HttpSender())
    assert isinstance(provider.sender, BoundSender)
    assert provider.sender.clocks == Clocks(connect=2, silence=3, total=9)
