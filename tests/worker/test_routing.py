"""Lanes, candidates and exclusions of routes, and which provider may take from a route's lane at a moment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import Config
from models.config_file import load_config_text
from models.request import Request
from worker import routing
from worker.standings import Standing, View

URL = "https://x.example/v1"
NAMES = ("alpha", "beta", "gamma")
LANE = "any"


def config(strategy: str = "priority", prices: Mapping[str, str] | None = None, **windows: int) -> Config:
    def provider(name: str) -> dict[str, Any]:
        key: dict[str, Any] = {"id": f"{name}-1", "secret": "s"}
        if prices and name in prices:
            key["pricing"] = {"input_token_cost": prices[name], "output_token_cost": "0"}
        models = {f"m-{name}": {"context_window": windows[name]}} if name in windows else {}
        return {"id": name, "type": "openai", "base_url": "https://x.example/v1", "keys": [key], "models": models}

    route = {"candidates": [f"{name}/m-{name}" for name in NAMES], "strategy": strategy}
    short = {"candidates": ["gamma/org/m/with/slashes"]}
    return Config.model_validate(
        {"providers": [provider(name) for name in NAMES], "routes": {LANE: route, "short": short}}
    )


def view(*, full: tuple[str, ...] = (), absent: tuple[str, ...] = (), **latencies: float) -> View:
    there = [name for name in NAMES if name not in absent]
    return View({name: Standing(name not in full, latencies.get(name)) for name in there})


def takers(settings: Config, seen: View) -> list[str]:
    return [name for name in NAMES if routing.may_take(settings, LANE, name, seen)]


def test_a_provider_works_for_its_own_lane_first_and_for_the_routes_that_name_it() -> None:
    assert routing.lanes(config(), "alpha") == ["alpha", LANE]
    assert routing.lanes(config(), "gamma") == ["gamma", LANE, "short"]


def test_in_a_route_each_provider_is_asked_for_its_own_model_and_elsewhere_for_the_jobs() -> None:
    assert routing.model_for(config(), LANE, "beta", "whatever") == "m-beta"
    assert routing.model_for(config(), "short", "gamma", "") == "org/m/with/slashes"
    assert routing.model_for(config(), "beta", "beta", "gpt") == "gpt"


def test_candidates_are_in_order_and_a_providers_own_lane_has_none() -> None:
    assert routing.candidates(config(), LANE) == [("alpha", "m-alpha"), ("beta", "m-beta"), ("gamma", "m-gamma")]
    assert routing.candidates(config(), "alpha") == []


@given(st.lists(st.sampled_from(NAMES)), st.lists(st.sampled_from(NAMES)))
def test_exclusions_add_up_without_doubles_and_read_back(first: list[str], more: list[str]) -> None:
    field = routing.excluding(routing.excluding("", tuple(first)), tuple(more))
    assert routing.excluded(field) == list(dict.fromkeys([*first, *more]))
    assert all(f",{name}," in field for name in (*first, *more))
    assert routing.excluding("", ()) == ""


def test_the_others_of_a_route_are_those_that_have_not_failed_the_job() -> None:
    settings = config()
    assert routing.others(settings, LANE, "alpha", "") == ["beta", "gamma"]
    assert routing.others(settings, LANE, "alpha", ",beta,") == ["gamma"]
    assert routing.others(settings, LANE, "gamma", ",alpha,beta,") == []
    assert routing.others(settings, "alpha", "alpha", "") == []


def test_larger_are_the_others_whose_window_is_larger_or_unknown() -> None:
    settings = config(alpha=1000, beta=1000, gamma=9000)
    assert routing.larger(settings, LANE, "alpha", "") == ["gamma"]
    assert routing.larger(settings, LANE, "gamma", "") == []
    assert routing.larger(settings, LANE, "alpha", ",gamma,") == []
    assert routing.larger(config(gamma=9000), LANE, "alpha", "") == ["beta", "gamma"]
    assert routing.larger(config(alpha=1000, beta=500), LANE, "alpha", "") == ["gamma"]
    assert routing.larger(config(alpha=1000, beta=1000, gamma=1), LANE, "alpha", "") == []


# Strategies


def test_by_priority_the_first_with_room_takes() -> None:
    assert takers(config(), view()) == ["alpha"]
    assert takers(config(), view(full=("alpha",))) == ["alpha", "beta"]
    assert takers(config(), view(full=("alpha", "beta"))) == list(NAMES)
    assert takers(config(), view(absent=("alpha",), full=("beta",))) == list(NAMES)


def test_by_cost_the_cheapest_with_room_takes_and_an_unpriced_one_last() -> None:
    settings = config("cost_first", {"alpha": "0.3", "beta": "0.1"})
    assert takers(settings, view()) == ["beta"]
    assert takers(settings, view(full=("beta",))) == ["alpha", "beta"]
    assert takers(settings, view(full=("alpha", "beta"))) == list(NAMES)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("priority", ["alpha"]),
        ("cost_first", ["alpha"]),
        ("latency_first", ["alpha", "beta"]),
        ("round_robin", list(NAMES)),
    ],
)
def test_full_places_hand_on_where_the_order_is_for_speed_only(strategy: str, expected: list[str]) -> None:
    settings = config(strategy, {"alpha": "0.1", "beta": "0.2", "gamma": "0.3"})
    standings = {
        "alpha": Standing(True, 100.0, places=False),
        "beta": Standing(True, 200.0),
        "gamma": Standing(True, 300.0),
    }
    assert takers(settings, View(standings)) == expected
    limited = {**standings, "alpha": Standing(False, 100.0, places=False)}
    assert "beta" in takers(settings, View(limited))


def test_by_latency_the_fastest_with_room_takes_and_one_that_nobody_measured_first() -> None:
    settings = config("latency_first")
    assert takers(settings, view(alpha=900.0, beta=100.0, gamma=300.0)) == ["beta"]
    assert takers(settings, view(alpha=900.0, beta=100.0, gamma=300.0, full=("beta",))) == ["beta", "gamma"]
    assert takers(settings, view(alpha=900.0, beta=100.0)) == ["gamma"]


def test_in_turn_nobody_gets_far_ahead_of_the_others_that_have_room() -> None:
    settings = config("round_robin")
    standings = view().standings
    even = View(standings, {LANE: {"alpha": 40, "beta": 40, "gamma": 40}})
    ahead = View(standings, {LANE: {"alpha": 40 + routing.ROUND, "beta": 40, "gamma": 41}})
    alone = View(view(full=("beta", "gamma")).standings, {LANE: {"alpha": 900}})
    assert takers(settings, even) == list(NAMES)
    assert takers(settings, ahead) == ["beta", "gamma"]
    assert routing.may_take(settings, LANE, "alpha", alone)


def test_a_model_whose_own_limit_is_used_up_makes_room_for_others_only_in_routes_that_ask_for_it() -> None:
    others = view(absent=("alpha",)).standings
    elsewhere = View({"alpha": Standing(True, full=frozenset({"another"})), **others})
    here = View({"alpha": Standing(True, full=frozenset({"another", "m-alpha"})), **others})
    assert takers(config(), elsewhere) == ["alpha"]
    assert takers(config(), here) == ["alpha", "beta"]


@pytest.mark.parametrize("strategy", ["priority", "cost_first", "latency_first", "round_robin"])
@given(data=st.data())
def test_somebody_may_always_take_and_nobody_waits_for_one_without_room(strategy: str, data: st.DataObject) -> None:
    rooms = {name: data.draw(st.booleans()) for name in NAMES}
    there = [name for name in NAMES if data.draw(st.booleans())]
    latencies = {name: data.draw(st.none() | st.floats(0, 1e5)) for name in NAMES}
    counts = {name: data.draw(st.integers(0, 100)) for name in NAMES}
    seen = View({name: Standing(rooms[name], latencies[name]) for name in there}, {LANE: counts})
    settings = config(strategy, {"beta": "0.2", "gamma": "0.1"})
    able = [name for name in there if rooms[name]]
    if able:
        assert any(routing.may_take(settings, LANE, name, seen) for name in able)
    elif strategy != "round_robin":
        assert takers(settings, seen) == list(NAMES)


def test_candidates_with_a_price_in_a_currency_are_those_that_can_price_the_whole_request() -> None:
    usd = {"input_token_cost": "1", "output_token_cost": "2"}
    prices: dict[str, dict[str, Any]] = {
        "a": {},
        "b": {"pricing": {**usd, "currency": "EUR"}},
        "c": {"pricing": usd},
        "d": {"pricing": {**usd, "tier_factors": {"flex": "0.5"}}},
    }
    tree = {
        "providers": [
            {"id": name, "type": "openai", "base_url": URL, "keys": [{"id": "k", "secret": "s", **key}]}
            for name, key in prices.items()
        ],
        "routes": {"r": {"candidates": [f"{name}/m" for name in prices]}},
    }
    priced = load_config_text(json.dumps(tree), secrets=True, environ={})
    plain, flex = Request("m", {}), Request("m", {"service_tier": "flex"})
    assert routing.priced(priced, "r", "a", plain, "USD") == ["c", "d"]
    assert routing.priced(priced, "r", "a", flex, "USD") == ["d"]
    assert routing.priced(priced, "r", "a", plain, "EUR") == ["b"]
    assert routing.priced(priced, "r", "d", flex, "USD") == []
    assert routing.priced(priced, "c", "c", plain, "USD") == []
