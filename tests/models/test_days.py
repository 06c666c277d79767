"""Local days of a time zone, and limits by day in the configuration."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import Config
from models.config_file import load_config_text
from models.day_limits import day_limits
from models.days import day_at, days_between, is_zone, local, nearest_zone
from models.errors import ConfigError

ZONES = ["UTC", "America/Los_Angeles", "Asia/Kathmandu", "Africa/Cairo", "America/Havana", "America/Sao_Paulo"]


def configured(text: str) -> Config:
    return load_config_text(text, secrets=True, environ={})


@given(zone=st.sampled_from(ZONES), at=st.floats(1.4e9, 1.9e9))
def test_a_day_holds_the_moments_of_its_local_date(zone: str, at: float) -> None:
    day = day_at(zone, at)
    assert day.start <= at < day.end
    date = datetime.fromtimestamp(at, ZoneInfo(zone)).date()
    assert datetime.fromtimestamp(day.start, ZoneInfo(zone)).date() == date
    assert datetime.fromtimestamp(day.end - 1, ZoneInfo(zone)).date() == date
    assert datetime.fromtimestamp(day.start - 1, ZoneInfo(zone)).date() == date - timedelta(days=1)
    assert datetime.fromtimestamp(day.end, ZoneInfo(zone)).date() == date + timedelta(days=1)


def test_days_between_two_moments() -> None:
    noon = datetime(2026, 3, 8, 12, tzinfo=ZoneInfo("America/Los_Angeles")).timestamp()
    found = days_between("America/Los_Angeles", noon, noon + 2 * 86_400)
    assert [day.end - day.start for day in found] == [23 * 3600, 24 * 3600, 24 * 3600]
    assert days_between("America/Los_Angeles", noon, noon) == found[:1]
    assert local("America/Los_Angeles", found[1].start) == "2026-03-09 00:00 America/Los_Angeles"


def test_a_date_that_a_zone_skips_is_no_day() -> None:
    """Samoa went from 29 to 31 December 2011."""
    last = datetime(2011, 12, 29, 12, tzinfo=ZoneInfo("Pacific/Apia")).timestamp()
    assert local("Pacific/Apia", day_at("Pacific/Apia", last).end) == "2011-12-31 00:00 Pacific/Apia"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("America/Los_Angles", "America/Los_Angeles"),
        ("america/los_angeles", "America/Los_Angeles"),
        ("Los Angeles", "America/Los_Angeles"),
        ("berlin", "Europe/Berlin"),
        ("utc", "UTC"),
        ("PST", None),
        ("-08:00", None),
    ],
)
def test_a_wrong_zone_is_an_error_with_its_place_and_the_nearest_name(name: str, meant: str | None) -> None:
    assert not is_zone(name)
    assert nearest_zone(name) == meant
    with pytest.raises(ConfigError) as error:
        configured(f"""
providers:
  - id: openai
    keys: [{{id: a, secret: s, day_resets: "{name}"}}]
""")
    assert "line 4" in str(error.value)
    assert "providers[0].keys[0].day_resets" in str(error.value)
    assert "should be an IANA time zone, like America/Los_Angeles or UTC" in str(error.value)
    assert ("did you mean" in str(error.value)) == (meant is not None)
    assert meant is None or f"did you mean {meant}?" in str(error.value)


@pytest.mark.parametrize("value", ["5", "[UTC]", "posixrules", "localtime", "right/UTC", "../UTC"])
def test_what_is_no_zone_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="day_resets"):
        configured(f"providers: [{{id: openai, day_resets: {value}, keys: [{{id: a, secret: s}}]}}]")


def test_limits_by_day_of_keys_and_models_with_the_key_s_zone_before_the_provider_s() -> None:
    settings = configured("""
providers:
  - id: gemini
    day_resets: America/Los_Angeles
    models: {pro: {limit_req_per_day: 50, limit_tokens_per_day: 900}}
    keys:
      - {id: a, secret: s, limit_req_per_day: 1000, use: 0.8, models: {pro: {limit_req_per_day: 20}}}
      - {id: b, secret: t, day_resets: UTC}
""")
    (gemini,) = settings.providers
    found = [(one.model, one.field, one.limit, one.zone) for one in day_limits(gemini, gemini.key("a"))]
    assert found == [
        ("", "limit_req_per_day", 800, "America/Los_Angeles"),
        ("pro", "limit_req_per_day", 16, "America/Los_Angeles"),
        ("pro", "limit_tokens_per_day", 720, "America/Los_Angeles"),
    ]
    assert {one.zone for one in day_limits(gemini, gemini.key("b"))} == {"UTC"}


@pytest.mark.parametrize(
    ("first", "second", "place"),
    [
        ({"limit_req_per_day": 5}, {"limit_req_per_day": 6}, "keys[1].limit_req_per_day"),
        (
            {"limit_req_per_day": 5, "day_resets": "UTC"},
            {"limit_req_per_day": 5, "day_resets": "Asia/Tokyo"},
            "keys[1].day_resets",
        ),
        ({"models": {"m": {"limit_req_per_day": 5}}}, {"models": {"m": {"limit_req_per_day": 6}}}, "keys[1].models.m"),
    ],
)
def test_keys_of_one_pool_agree_on_their_days(first: dict[str, Any], second: dict[str, Any], place: str) -> None:
    import json

    keys = [{"id": f"k{n}", "secret": f"s{n}", "pool": "x", **more} for n, more in enumerate((first, second))]
    with pytest.raises(ConfigError) as error:
        configured(json.dumps({"providers": [{"id": "openai", "keys": keys}]}))
    assert f"providers[0].{place}" in str(error.value)


def test_zones_that_differ_are_no_error_where_no_day_is_limited() -> None:
    configured(
        "providers: [{id: openai, keys: [{id: a, secret: s, pool: x}, {id: b, secret: t, pool: x, day_resets: Asia/Tokyo}]}]"
    )


def test_a_limit_of_no_calls_is_refused() -> None:
    with pytest.raises(ConfigError, match="limit_req_per_day"):
        configured("providers: [{id: openai, keys: [{id: a, secret: s, limit_req_per_day: 0}]}]")
