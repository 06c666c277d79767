"""A person's word on a key, beside what providers and workers say of it. Both databases."""

from __future__ import annotations

from typing import Any

from models.database import Database
from models.store import keys as key_store
from models.store import workers as worker_store
from tests.making import NOW, make_worker


def states(database: Database) -> dict[str, tuple[str, str, float | None]]:
    with database.read() as connection:
        return {
            row["fingerprint"]: (row["state"], row["reason"], row["until"]) for row in key_store.everything(connection)
        }


def disable(connection: Any) -> bool:
    return key_store.disable(connection, "openai", "oa-1", "pool", "disabled by hand", NOW)


def test_a_disabled_key_stays_so_whatever_workers_learn(database: Database) -> None:
    with database.write() as connection:
        assert disable(connection)
        assert not disable(connection)
        key_store.quarantine(
            connection, provider="openai", key_id="oa-1", mark="m", pool="p", reason="quota", now=NOW, until=NOW + 9
        )
        assert key_store.lift(connection, "openai", "oa-1", "m", NOW + 9)
        assert not key_store.lift(connection, "openai", "oa-1", "n", NOW + 9)
    assert states(database)[key_store.ANY_SECRET] == ("quarantined", "disabled by hand", None)


def test_enabling_lifts_everything_and_only_of_this_key(database: Database) -> None:
    with database.write() as connection:
        disable(connection)
        for key_id in ("oa-1", "oa-2"):
            key_store.quarantine(
                connection, provider="openai", key_id=key_id, mark=key_id, pool="p", reason="no", now=NOW, until=None
            )
        assert key_store.enable(connection, "openai", "oa-1", NOW)
        assert not key_store.enable(connection, "openai", "oa-1", NOW)
    assert states(database) == {"oa-1": ("active", "", None), "oa-2": ("quarantined", "no", None)}


def test_only_the_worker_that_is_named_is_told_to_drain(database: Database) -> None:
    first, second = make_worker(database), make_worker(database)
    with database.write() as connection:
        assert worker_store.drain(connection, second)
        assert not worker_store.drain(connection, second + 100)
        assert not worker_store.told_to_drain(connection, first)
        assert worker_store.told_to_drain(connection, second)
        assert worker_store.beat(connection, second, 3, NOW)
        assert worker_store.told_to_drain(connection, second)
