"""What operators see over HTTP: metrics that agree with the ledger, providers, keys, workers, costs."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from models.database import Database
from models.learning import fingerprints
from models.store import cooldowns, learned
from models.store.cooldowns import Cooldown
from models.store.learned import Learned
from submit.api.metrics import LedgerCollector
from tests.making import USAGE, make_batch, make_worker, noon_zone
from tests.submit.api.conftest import READ_TOKEN, TOKEN
from tests.submit.api.traffic import calls

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(client: TestClient) -> Series:
    """Every sample by its name and labels, read by Prometheus' own parser."""
    text = client.get("/metrics").text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(series: Series, name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels."""
    wanted = set(labels.items())
    return sum(number for (found, has), number in series.items() if found == name and wanted <= set(has))


def test_counters_are_what_the_ledger_says(client: TestClient, database: Database) -> None:
    calls(database, [7200.0, 40.0, 3.0])
    series = scrape(client)
    assert value(series, "truckllm_calls_total", provider="openai", outcome="succeeded") == 2
    assert value(series, "truckllm_calls_total", provider="openai", outcome="failed", error="http_500") == 1
    assert value(series, "truckllm_tokens_total", kind="input", key="oa-1") == 2 * USAGE.input_tokens
    assert value(series, "truckllm_tokens_total", kind="output", model="gpt-4o") == 2 * USAGE.output_tokens
    assert value(series, "truckllm_cost_total", currency="USD") == pytest.approx(2000e-9)
    assert value(series, "truckllm_call_duration_seconds_count", provider="openai") == 3
    assert value(series, "truckllm_call_duration_seconds_bucket", le="0.1") == 3
    assert value(series, "truckllm_jobs_ended", status="failed") == 1
    assert value(series, "truckllm_key_usable", provider="openai", key="oa-1") == 1
    assert value(series, "truckllm_key_limit", provider="openai", kind="req") == 9
    assert value(series, "truckllm_key_last_minute", provider="openai", kind="requests") == 2


def test_a_second_scrape_counts_nothing_twice_and_misses_nothing(client: TestClient, database: Database) -> None:
    calls(database, [90.0, 60.0, 1.0])
    for number in (3, 6, 9):
        for _ in range(2):
            assert value(scrape(client), "truckllm_calls_total") == number
        calls(database, [2.0, 1.0, 0.0])


def test_providers_show_rates_latency_tokens_and_cost(client: TestClient, database: Database) -> None:
    calls(database, [7200.0, 40.0, 3.0])
    told = {one["provider"]: one for one in client.get("/v1/providers").json()["providers"]}
    assert list(told) == ["openai", "claude"]
    assert (told["openai"]["calls"], told["openai"]["success_rate"]) == (2, 0.5)
    assert told["openai"]["errors"] == {"http_500": 1}
    assert told["openai"]["latency_ms"]["mean"] == 5
    assert 0 < told["openai"]["latency_ms"]["p50"] <= told["openai"]["latency_ms"]["p95"] <= 100
    assert told["openai"]["costs"] == {"USD": "0.000001"}
    assert (told["claude"]["calls"], told["claude"]["success_rate"], told["claude"]["latency_ms"]["p95"]) == (
        0,
        None,
        None,
    )
    longer = client.get("/v1/providers", params={"seconds": 10_000}).json()["providers"][0]
    assert longer["calls"] == 3


def test_a_key_goes_out_of_use_and_comes_back(client: TestClient) -> None:
    out = client.post("/v1/keys/claude/cl-1/disable").json()["keys"]
    assert [(key["key_id"], key["pool"], key["state"]) for key in out] == [
        ("oa-1", "openai/oa-1", "active"),
        ("cl-1", "team", "quarantined"),
    ]
    assert value(scrape(client), "truckllm_key_usable", key="cl-1") == 0
    assert client.post("/v1/keys/claude/cl-1/enable").json()["keys"][1]["state"] == "active"
    assert client.post("/v1/keys/claude/nobody/enable").status_code == 404
    assert client.post("/v1/keys/nobody/cl-1/enable").status_code == 404


def test_a_wait_that_a_provider_asked_for_is_shown_and_ended(client: TestClient, database: Database) -> None:
    with database.write() as connection:
        now = database.now(connection)
        cooldowns.begin(connection, Cooldown("pool:team", "opus", "claude/cl-1", "slow down", now, now + 86_400))
    (shown,) = client.get("/v1/keys").json()["keys"][1]["cooldowns"]
    assert (shown["key"], shown["pool"], shown["model"], shown["reason"]) == (
        "claude/cl-1",
        "team",
        "opus",
        "slow down",
    )
    assert 86_000 < shown["seconds"] <= 86_400
    assert value(scrape(client), "truckllm_cooldown_seconds", pool="team", model="opus") > 86_000
    assert client.post("/v1/keys/claude/cl-1/enable").json()["keys"][1]["cooldowns"] == []


def test_learned_limits_are_shown_and_reset(client: TestClient, database: Database) -> None:
    def keep(model: str) -> None:
        with database.write() as connection:
            mark = fingerprints(client.app.state.api.config.providers)["pool:team"] or "any"  # type: ignore[attr-defined]
            one = Learned("pool:team", model, 3.0, None, 2.0, configured=mark)
            learned.keep(connection, [one], database.now(connection))

    keep("opus")
    keep("haiku")
    (haiku, opus) = client.get("/v1/keys").json()["keys"][1]["learned"]
    assert (opus["model"], opus["requests_per_min"], opus["in_flight"]) == ("opus", 3.0, 2.0)
    assert (haiku["model"], haiku["tokens_per_min"]) == ("haiku", None)
    series = scrape(client)
    assert value(series, "truckllm_learned_limit", pool="team", model="opus", limit="req") == 3
    assert value(series, "truckllm_learned_limit", pool="team", model="opus", limit="in_flight") == 2
    path = "/v1/keys/claude/cl-1/reset-limits"
    (left,) = client.post(path, params={"model": "haiku"}).json()["keys"][1]["learned"]
    assert left["model"] == "opus"
    assert client.post(path).json()["keys"][1]["learned"] == []
    assert client.post(path, params={"modell": "opus"}).status_code == 400
    assert client.post("/v1/keys/claude/nobody/reset-limits").status_code == 404
    assert client.post(path, headers={"Authorization": f"Bearer {READ_TOKEN}"}).status_code == 403


def test_workers_are_listed_and_drained(client: TestClient, database: Database) -> None:
    with database.read() as connection:
        assert abs(database.now(connection) - time.time()) < 60
    worker = make_worker(database)
    assert client.get("/v1/workers").json()["workers"][0]["draining"] is False
    assert client.post(f"/v1/workers/{worker}/drain").json()["workers"][0]["draining"] is True
    assert client.post("/v1/workers/99/drain").status_code == 404
    assert value(scrape(client), "truckllm_workers") == 1


def test_costs_are_those_of_the_command(client: TestClient, database: Database) -> None:
    calls(database, [40.0, 3.0])
    told = client.get("/v1/costs", params={"by": "provider,key"}).json()
    assert [(row["provider"], row["key"], row["cost"], row["calls"]) for row in told["rows"]] == [
        ("openai", "oa-1", "0.000001", 2)
    ]
    assert client.get("/v1/costs", params={"by": "colour"}).status_code == 400


def test_an_error_inside_is_a_500_that_tells_nothing(client: TestClient, database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE batch_spend RENAME TO gone")
    make_batch(database, 1)
    broken = client.get("/v1/batches")
    assert broken.status_code == 503
    assert "error" in broken.json()


def test_no_answer_holds_a_secret(client: TestClient, database: Database) -> None:
    calls(database, [3.0, 2.0])
    for path in ("/metrics", "/v1/batches", "/v1/keys", "/v1/costs", "/v1/workers", "/v1/providers", "/healthz"):
        text = client.get(path).text
        assert not any(canary in text for canary in ("sk-canary", TOKEN, READ_TOKEN)), path


def test_limits_by_day_are_shown_with_what_is_used(client: TestClient, database: Database) -> None:
    api = client.app.state.api  # type: ignore[attr-defined]
    (openai, claude) = api.config.providers
    limited = [key.model_copy(update={"limit_req_per_day": 50, "limit_tokens_per_day": 9_000}) for key in openai.keys]
    openai = openai.model_copy(update={"keys": tuple(limited), "day_resets": noon_zone()})
    config = api.config.model_copy(update={"providers": (openai, claude)})
    made = [series for series in LedgerCollector(database, config).collect() if series.name.startswith("truckllm_day")]
    calls(database, [2.0, 1.0, 0.0])
    found = {(one.name, sample.labels["kind"]): sample.value for one in made for sample in one.samples}
    assert found == {
        ("truckllm_day_limit", "requests"): 50,
        ("truckllm_day_limit", "tokens"): 9_000,
        ("truckllm_day_used", "requests"): 0,
        ("truckllm_day_used", "tokens"): 0,
    }
    client.app.state.api = replace(api, config=config)  # type: ignore[attr-defined]
    requests, tokens = client.get("/v1/keys").json()["keys"][0]["days"]
    assert (requests["limit"], requests["used"]) == (50, 3)
    assert (tokens["limit"], tokens["unit"]) == (9_000, "tokens")
