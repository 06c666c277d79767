"""Keys: which may be used, what is learned of them and forgotten, and quarantines that hold for all workers and end by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.config import KeyConfig, ProviderConfig
from models.database import Database
from models.request import Failure, FailureKind
from models.store import keys as key_store
from tests.servers import SandboxProcess
from tests.worker.bench import Bench, bench, until
from worker.keys import MOST_MODELS, PROBE_SECONDS, QUOTA_SECONDS, REMEMBER_SECONDS
from worker.limits.limiter import Charge, Grant, Wait, Want
from worker.pools import buckets, pool_name

DATABASES = ["sqlite"]

REFUSED = Failure(FailureKind.AUTH, "invalid_api_key", "no such key", 401)
OUT_OF_MONEY = Failure(FailureKind.QUOTA, "insufficient_quota", "no money", 429)
NO_MODEL = Failure(FailureKind.MODEL, "model_not_found", "no such model", 404)
NOT_FOR_YOU = Failure(FailureKind.KEY_MODEL, "http_403", "not for this key", 403)


def key(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "secret": f"sk-canary-{name}", **more}


KEYS = [
    key("dear", pricing={"input_token_cost": "1", "output_token_cost": "1"}),
    key("cheap", pricing={"input_token_cost": "0.1", "output_token_cost": "0.1"}),
    key("unpriced"),
]


@pytest.fixture
def worker(
    request: pytest.FixtureRequest, write_config: Callable[..., Path], database: Database, valkey_url: str
) -> Iterator[Bench]:
    """A worker with three keys; its provider can be asked in tests that take the `sandbox`."""
    asked = "sandbox" in request.fixturenames
    path = write_config(
        request.getfixturevalue("sandbox").url if asked else "http://127.0.0.1:1",
        providers=("openai",),
        keys={"openai": KEYS},
        settings={"openai": {"fallback_models": {"old": ["new"]}}},
    )
    with bench(path, database, valkey_url) as made:
        yield made
        for name in ("dear", "cheap", "unpriced"):  # the server is shared by all tests
            made.run(made.limiter.unblock(made.keys()._lock(f"openai/{name}")))


def names(worker: Bench, model: str = "m") -> list[str]:
    return [one.name for one in worker.keys().usable(model)]


def provider(**more: Any) -> ProviderConfig:
    return ProviderConfig.model_validate({"id": "openai", "keys": [key("a")], **more})


def with_key(**more: Any) -> tuple[ProviderConfig, KeyConfig]:
    whole = provider(keys=[key("a", **more)])
    return whole, whole.keys[0]


# Pools and buckets


def test_keys_of_one_pool_draw_on_the_same_buckets_of_any_provider() -> None:
    first, alone = with_key(limit_req_per_min=60)
    _, shared = with_key(limit_req_per_min=60, pool="acme")
    other = ProviderConfig.model_validate({"id": "mine", "type": "openai", "base_url": "https://x.y/v1", "keys": [key("b", pool="acme", limit_req_per_min=60)]})  # fmt: skip
    assert pool_name(first, alone) == "openai/a"
    assert pool_name(first, shared) == "pool:acme"
    assert buckets(first, shared, "m") == buckets(other, other.keys[0], "m")
    assert buckets(first, shared, "m") != buckets(first, alone, "m")


def test_every_limit_has_its_bucket_and_use_leaves_a_share_of_it_to_others() -> None:
    whole, limited = with_key(
        limit_req_per_min=100, limit_tokens_per_min=10_000, limit_input_tokens_per_min=7, use=0.8, models={"m": {"limit_req_per_min": 10}}
    )  # fmt: skip
    found = {(bucket.unit, bucket.limit) for bucket in buckets(whole, limited, "other")}
    assert found == {("requests", 80), ("tokens", 8000), ("input_tokens", 5)}
    of_model = set(buckets(whole, limited, "m")) - set(buckets(whole, limited, "other"))
    assert [(bucket.unit, bucket.limit) for bucket in of_model] == [("requests", 8)]


def test_the_smallest_share_is_one() -> None:
    whole, limited = with_key(limit_req_per_min=3, use=0.1)
    assert [bucket.limit for bucket in buckets(whole, limited, "m")] == [1]


# What may be used


def test_the_cheapest_key_comes_first_and_an_unpriced_one_last(worker: Bench) -> None:
    assert names(worker) == ["openai/cheap", "openai/dear", "openai/unpriced"]
    assert [one.rank for one in worker.keys().usable("m")] == [0, 1, 2]


def test_what_a_key_may_not_use_is_remembered_for_this_model_and_for_ten_minutes(worker: Bench) -> None:
    ring, now = worker.keys(), [1000.0]
    ring._clock = lambda: now[0]
    ring.remember_key_model("openai/cheap", "m", NOT_FOR_YOU)
    assert names(worker) == ["openai/dear", "openai/unpriced"]
    assert not ring.serves("openai/cheap", "m")
    assert "openai/cheap" in names(worker, "another")
    assert ring.refused_by_all("m") is None
    for name in ("openai/dear", "openai/unpriced"):
        ring.remember_key_model(name, "m", NOT_FOR_YOU)
    assert ring.refused_by_all("m") == NOT_FOR_YOU
    now[0] += REMEMBER_SECONDS
    assert len(names(worker)) == 3
    assert ring.refused_by_all("m") is None


def test_a_model_that_is_gone_is_left_out_for_ten_minutes_and_its_fallback_taken(worker: Bench) -> None:
    ring, now = worker.keys(), [1000.0]
    ring._clock = lambda: now[0]
    assert ring.models_to_try("old") == ["old", "new"]
    ring.remember_model("old", NO_MODEL)
    assert ring.models_to_try("old") == ["new"]
    assert ring.model_gone("old") == NO_MODEL
    assert not ring.serves("openai/cheap", "old")
    ring.remember_model("new", NO_MODEL)
    assert ring.models_to_try("old") == []
    now[0] += REMEMBER_SECONDS
    assert ring.models_to_try("old") == ["old", "new"]


def test_what_is_kept_in_mind_of_models_does_not_grow_with_their_names(worker: Bench) -> None:
    ring = worker.keys()
    for number in range(MOST_MODELS + 50):
        ring.usable(f"model-{number}")
        ring.remember_model(f"gone-{number}", NO_MODEL)
        ring.remember_key_model("openai/cheap", f"closed-{number}", NOT_FOR_YOU)
    assert [len(kept) for kept in (ring._limited, ring._models, ring._key_models)] == [MOST_MODELS] * 3
    assert ring.model_gone(f"gone-{MOST_MODELS + 49}") == NO_MODEL
    assert "openai/cheap" not in names(worker, f"closed-{MOST_MODELS + 49}")


# Quarantine


def test_a_pool_without_money_rests_everywhere_and_comes_back_when_its_time_is_over(
    worker: Bench, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    ring = worker.keys()
    for _ in range(3):  # the calls that were under way all say so
        worker.run(ring.quarantine_pool("openai/cheap", OUT_OF_MONEY))
    assert caplog.text.count("its keys rest") == 1
    assert names(worker) == ["openai/dear", "openai/unpriced"]
    assert blocked(worker, "cheap") > QUOTA_SECONDS - 60
    with database.read() as connection:
        (row,) = key_store.everything(connection)
    assert (row["key_id"], row["state"], row["pool"]) == ("cheap", "quarantined", "openai/cheap")
    assert row["reason"] == "quota: no money"
    assert QUOTA_SECONDS - 60 < row["until"] - worker.recorder.now() <= QUOTA_SECONDS
    assert "sk-canary" not in str(row)
    worker.run(ring.refresh())
    assert len(names(worker)) == 2
    worker.recorder.clock_offset += QUOTA_SECONDS + 1
    worker.run(ring.refresh())
    assert len(names(worker)) == 3
    assert blocked(worker, "cheap") == 0


def test_a_known_reset_time_ends_the_rest(worker: Bench, database: Database) -> None:
    soon = Failure(FailureKind.QUOTA, "daily", "enough for today", 429, resets_in=70.0)
    worker.run(worker.keys().quarantine_pool("openai/dear", soon))
    with database.read() as connection:
        (row,) = key_store.everything(connection)
    assert 0 < row["until"] - worker.recorder.now() <= 70.0


def test_a_pool_that_is_empty_again_rests_longer_however_short_a_time_is_named(
    worker: Bench, database: Database
) -> None:
    ring = worker.keys()
    soon = Failure(FailureKind.QUOTA, "http_402", "no money", 402, resets_in=2.0)

    def rest() -> float:
        ring._out.clear()  # its time is over
        worker.run(ring.quarantine_pool("openai/dear", soon))
        with database.read() as connection:
            (row,) = [one for one in key_store.everything(connection) if one["key_id"] == "dear"]
        return float(row["until"] - row["since"])

    assert [round(rest(), -1) for _ in range(4)] == [0, 60, 300, 900]
    ring.answered("openai/dear", "m")
    assert rest() < 30


def test_a_quarantine_that_another_worker_has_found_is_taken_over_and_its_end_too(
    worker: Bench, database: Database
) -> None:
    ring = worker.keys()
    mark = key_store.fingerprint("sk-canary-dear")
    quarantine(database, "dear", mark, until=worker.recorder.now() + 500)
    quarantine(database, "unpriced", "an older secret's mark", until=worker.recorder.now() + 500)
    worker.run(ring.refresh())
    assert names(worker) == ["openai/cheap", "openai/unpriced"], "a changed secret is another key"
    assert blocked(worker, "dear") > 400, "also in a Redis that has just come back empty"
    with database.write() as connection:
        assert key_store.lift(connection, "openai", "dear", mark, 0.0)
    worker.run(ring.refresh())
    assert len(names(worker)) == 3
    assert blocked(worker, "dear") == 0


def test_a_changed_secret_is_free_at_once_also_where_redis_still_holds_the_old_one_back(
    worker: Bench, write_config: Callable[..., Path], database: Database, valkey_url: str
) -> None:
    worker.run(worker.keys().quarantine_pool("openai/cheap", OUT_OF_MONEY))
    renewed = [{**one, "secret": "sk-canary-renewed"} if one["id"] == "cheap" else one for one in KEYS]
    path = write_config("http://127.0.0.1:1", providers=("openai",), keys={"openai": renewed}, name="renewed.yaml")
    with bench(path, database, valkey_url) as newer:
        assert "openai/cheap" in names(newer)
        limited = [one for one in newer.keys().usable("m") if one.name == "openai/cheap"]
        (answer,) = newer.run(newer.limiter.reserve([Want("w", Charge(), tuple(limited))]))
        assert isinstance(answer, Grant)
        newer.tick()
        assert blocked(worker, "cheap") > QUOTA_SECONDS - 60, "the old secret stays out"


def test_what_was_put_back_into_use_while_no_worker_lived_is_not_held_back_by_redis(
    worker: Bench, database: Database
) -> None:
    ring = worker.keys()
    worker.run(worker.limiter.block(ring._lock("openai/dear"), None))
    worker.run(ring.take_over())
    assert blocked(worker, "dear") > 0, "another worker may be taking it out at this moment"
    worker.run(ring.take_over())
    assert blocked(worker, "dear") == 0
    assert "openai/dear" in names(worker)


def test_a_redis_that_was_started_again_is_told_what_is_out_before_a_call_may_start(
    worker: Bench, database: Database
) -> None:
    limited = worker.keys()._build("m")
    want = Want("w", Charge(), tuple(one for one in limited if one.name == "openai/dear"))
    assert isinstance(worker.run(worker.limiter.reserve([want]))[0], Grant)
    quarantine(database, "dear", key_store.fingerprint("sk-canary-dear"), until=worker.recorder.now() + 500)
    worker.run(worker.limiter._client.set("{truckllm}:run", "another"))
    for _ in range(2):
        (answer,) = worker.run(worker.limiter.reserve([want]))
        assert isinstance(answer, Wait)
    assert answer.reason == "blocked"
    assert "openai/dear" not in names(worker)


def test_a_quarantine_found_while_the_database_is_away_is_stored_after_it(
    worker: Bench, database: Database, tmp_path: Path
) -> None:
    with contextlib.closing(sqlite3.connect(f"{tmp_path}/truckllm.db", isolation_level=None)) as other:
        worker.run(worker.recorder.call(lambda connection: connection.exec_driver_sql("PRAGMA busy_timeout = 50")))
        other.execute("BEGIN EXCLUSIVE")

        async def begin() -> asyncio.Future[None]:
            found = asyncio.ensure_future(worker.keys().quarantine_pool("openai/cheap", OUT_OF_MONEY))
            await until(lambda: not worker.recorder.ready)
            return found

        found = worker.run(begin())
        assert names(worker) == ["openai/dear", "openai/unpriced"]
        other.execute("ROLLBACK")
        worker.run(asyncio.wait_for(found, 60))
    worker.run(worker.keys().take_over())
    assert names(worker) == ["openai/dear", "openai/unpriced"]


def test_when_every_key_is_out_it_is_said_why(worker: Bench) -> None:
    ring = worker.keys()
    assert ring.all_out is None
    for name in ("openai/cheap", "openai/dear", "openai/unpriced"):
        worker.run(ring.quarantine_pool(name, OUT_OF_MONEY))
    assert ring.all_out is not None
    assert "openai/dear: quota: no money" in ring.all_out
    assert names(worker) == []


# Confirmation


def test_a_refused_key_that_nobody_can_be_asked_about_stays_in_use(worker: Bench) -> None:
    assert worker.run(worker.keys().confirm("openai/dear", REFUSED)) is False
    assert len(names(worker)) == 3


def test_a_refused_key_that_the_model_list_accepts_stays_in_use(
    worker: Bench, sandbox: SandboxProcess, database: Database
) -> None:
    assert worker.run(worker.keys().confirm("openai/dear", REFUSED)) is False
    assert len(sandbox.log()) == 1
    assert len(names(worker)) == 3
    with database.read() as connection:
        assert key_store.everything(connection) == []


@pytest.mark.parametrize("refusals", [[(1, 0), (2, 0)], [(1, 0), (1, 1), (1, 2)]])
def test_a_list_that_takes_any_key_leaves_it_to_a_second_row_or_a_third_refusal(
    worker: Bench, sandbox: SandboxProcess, refusals: list[tuple[int, int]]
) -> None:
    """OpenRouter's list, for one, needs no key."""
    ring = worker.keys()

    def confirmed() -> list[bool]:
        return [worker.run(ring.confirm("openai/dear", REFUSED, job, before)) for job, before in refusals]

    assert confirmed() == [False] * (len(refusals) - 1) + [True]
    assert names(worker) == ["openai/cheap", "openai/unpriced"]
    worker.recorder.clock_offset += PROBE_SECONDS[0] + 1
    worker.run(ring.refresh())
    assert len(names(worker)) == 3, "the list takes it again"
    assert confirmed()[-1]
    worker.recorder.clock_offset += PROBE_SECONDS[0] + 1
    worker.run(ring.refresh())
    assert names(worker) == ["openai/cheap", "openai/unpriced"], "it stays out for longer"
    assert all(row["path"].endswith("/models") for row in sandbox.log())


def test_a_key_that_has_just_answered_is_good(worker: Bench, sandbox: SandboxProcess) -> None:
    ring = worker.keys()
    ring.answered("openai/dear", "m")
    assert not any(worker.run(ring.confirm("openai/dear", REFUSED, job, 2)) for job in (1, 2, 3))
    assert len(names(worker)) == 3


def test_a_key_that_the_model_list_refuses_is_out_after_one_question_however_many_calls_were_refused(
    worker: Bench, sandbox: SandboxProcess
) -> None:
    sandbox.faults({"kind": "key_invalid", "key": "sk-canary-dear"})
    ring = worker.keys()

    async def all_at_once() -> list[bool]:
        return await asyncio.gather(*(ring.confirm("openai/dear", REFUSED) for _ in range(20)))

    assert worker.run(all_at_once()) == [True] * 20
    assert len(sandbox.log()) == 1
    assert names(worker) == ["openai/cheap", "openai/unpriced"]


def test_a_refused_key_is_asked_about_again_by_one_worker_and_comes_back_once_it_is_accepted(
    worker: Bench, sandbox: SandboxProcess, database: Database
) -> None:
    sandbox.faults({"kind": "key_invalid", "key": "sk-canary-dear", "times": 2})
    ring = worker.keys()
    assert worker.run(ring.confirm("openai/dear", REFUSED)) is True
    worker.run(ring.refresh())
    assert len(sandbox.log()) == 1, "not before its time"
    worker.recorder.clock_offset += PROBE_SECONDS[0] + 1
    worker.run(ring.refresh())
    assert len(sandbox.log()) == 2
    with database.read() as connection:
        (row,) = key_store.everything(connection)
    assert (row["state"], row["probes"]) == ("quarantined", 1)
    assert PROBE_SECONDS[0] < row["until"] - worker.recorder.now() <= PROBE_SECONDS[1]
    worker.recorder.clock_offset += PROBE_SECONDS[1] + 1
    worker.run(ring.refresh())
    assert len(names(worker)) == 3
    assert all(row["path"].endswith("/models") for row in sandbox.log()), "never asked with a job"
    with database.read() as connection:
        assert key_store.everything(connection)[0]["state"] == "active"


def test_of_several_workers_exactly_one_takes_a_due_probe(database: Database) -> None:
    quarantine(database, "dear", "mark", until=5.0)
    with database.write() as connection:
        assert [key_store.postpone(connection, "openai", "dear", "mark", 5.0, 9.0) for _ in range(3)] == [
            True,
            False,
            False,
        ]


def test_a_secret_cannot_be_told_from_its_fingerprint_and_two_secrets_differ() -> None:
    mark = key_store.fingerprint("sk-canary-x")
    assert "canary" not in mark
    assert mark == key_store.fingerprint("sk-canary-x")
    assert mark != key_store.fingerprint("sk-canary-y")


def quarantine(database: Database, key_id: str, mark: str, until: float) -> None:
    with database.write() as connection:
        key_store.quarantine(
            connection,
            provider="openai",
            key_id=key_id,
            mark=mark,
            pool=f"openai/{key_id}",
            reason="quota: no money",
            now=0.0,
            until=until,
        )


def blocked(worker: Bench, key_id: str) -> float:
    limited = [one for one in worker.keys()._build("m") if one.name == f"openai/{key_id}"]
    (room,) = worker.run(worker.limiter.room(limited))
    return room.blocked
