"""`signals:` under a provider: the forms that it may have, and the errors of those that it may not."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import yaml

from models.config import Config
from models.config_file import load_config_text
from models.errors import ConfigError
from models.signals import Wait


def load(*signals: Any) -> Config:
    provider = {"id": "p", "type": "openai", "keys": [{"id": "k", "secret": "sk-canary"}], "signals": list(signals)}
    return load_config_text(yaml.safe_dump({"providers": [provider]}), secrets=True, environ={})


def test_a_signal_may_be_written_in_short() -> None:
    row = {"status": 429, "code": 1113, "type": "poor", "words": "no  tea", "meaning": "no_money", "scope": "account"}
    signal = load(row).providers[0].signals[0].signal
    assert (signal.status, signal.code, signal.type, signal.words) == ((429,), ("1113",), ("poor",), ("no tea",))
    assert (signal.meaning, signal.scope, signal.wait) == ("quota", "pool", None)
    many = {"status": ["4xx", 503], "words": ["one", "two three"], "meaning": "moderation"}
    signal = load(many).providers[0].signals[0].signal
    assert len(signal.status) == 101
    assert signal.words == ("one", "two three")


@pytest.mark.parametrize(
    ("written", "wait"),
    [
        (90, Wait(90.0)),
        ("90", Wait(90.0)),
        ("1.5s", Wait(1.5)),
        ("1h30m", Wait(5400.0)),
        ("2d", Wait(172800.0)),
        ("midnight", Wait(until="midnight")),
        ("until month", Wait(until="month")),
        ("until midnight America/Los_Angeles", Wait(until="midnight", zone="America/Los_Angeles")),
        ({"until": "midnight", "zone": "Asia/Shanghai"}, Wait(until="midnight", zone="Asia/Shanghai")),
    ],
)
def test_a_wait_has_these_forms(written: Any, wait: Wait) -> None:
    assert load({"status": 429, "meaning": "rate_limit", "wait": written}).providers[0].signals[0].wait == wait


@pytest.mark.parametrize(
    ("row", "place", "words"),
    [
        ({"meaning": "quota"}, "signals[0]", "has no condition; give at least one of status, code, type and words"),
        ({"status": 429}, "signals[0].meaning", "missing"),
        ({"status": 200, "meaning": "quota"}, "signals[0].status", "should be an HTTP status from 400 to 599"),
        ({"status": [], "meaning": "quota"}, "signals[0].status", "should be an HTTP status"),
        ({"status": True, "meaning": "quota"}, "signals[0].status", "should be an HTTP status"),
        ({"status": 429, "meaning": "no_mony"}, "signals[0].meaning", "did you mean no_money?"),
        ({"status": 429, "meaning": "quota", "scope": "modl"}, "signals[0].scope", "did you mean model?"),
        ({"words": "a", "meaning": "quota"}, "signals[0].words", "would match nearly every message"),
        ({"words": ["fine", 7], "meaning": "quota"}, "signals[0].words", "should be text"),
        ({"words": [], "meaning": "quota"}, "signals[0].words", "should be a phrase"),
        ({"status": 429, "meaning": "quota", "wait": "soon"}, "signals[0].wait", "should be seconds, a duration"),
        ({"status": 429, "meaning": "quota", "wait": 0}, "signals[0].wait", "should be seconds"),
        ({"status": 429, "meaning": "quota", "wait": "90d"}, "signals[0].wait", "at most 40 days"),
        ({"status": 429, "meaning": "quota", "wait": "until midnight Mars/One"}, "signals[0].wait", "is no time zone"),
        ({"status": 400, "meaning": "bad_request", "wait": 5}, "signals[0]", "has a wait, which is for the meanings"),
        ({"status": 429, "meaning": "quota", "sope": "key"}, "signals[0].sope", "did you mean scope?"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(row: dict[str, Any], place: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(row)
    assert f"providers[0].{place}" in str(raised.value)
    assert words in str(raised.value)


def test_signals_count_in_the_hash_of_the_configuration_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = load().config_hash()
        one = load({"status": [429], "words": "no tea", "meaning": "quota", "scope": "key", "wait": "6h"}).config_hash()
        other = load(
            {"status": [429], "words": "no tea", "meaning": "quota", "scope": "key", "wait": "7h"}
        ).config_hash()
    assert len({plain, one, other}) == 3
