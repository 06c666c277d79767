"""`keys` and `workers`: what is shown, and never a secret."""

from __future__ import annotations

from models.database import Database
from models.store import keys as key_store
from tests.submit.cli.reading import Cli, loaded
from tests.worker_by_hand import WorkerByHand


def test_keys_are_listed_with_their_state_and_never_their_secret(command: Cli, stored: Database) -> None:
    with stored.write() as connection:
        key_store.quarantine(
            connection,
            provider="openai",
            key_id="oa-1",
            mark="any",
            pool="p",
            reason="refused: invalid_api_key",
            now=1_700_000_000.0,
            until=1_700_000_060.0,
        )
    run = command("keys", "--json")
    assert loaded(run) == {
        "keys": [
            {
                "provider": "openai",
                "key_id": "oa-1",
                "pool": "openai/oa-1",
                "state": "quarantined",
                "reason": "refused: invalid_api_key",
                "since": "2023-11-14T22:13:20Z",
                "until": "2023-11-14T22:14:20Z",
                "cooldowns": [],
                "learned": [],
                "days": [],
            },
            {
                "provider": "claude",
                "key_id": "cl-1",
                "pool": "team",
                "state": "active",
                "reason": "",
                "since": None,
                "until": None,
                "cooldowns": [],
                "learned": [],
                "days": [],
            },
        ]
    }
    everything = run.stdout + command("keys").stdout
    assert "quarantined" in command("keys").stdout
    assert "sk-canary" not in everything


def test_workers_are_listed_with_what_they_serve(command: Cli, stored: Database) -> None:
    assert loaded(command("workers", "--json")) == {"workers": []}
    WorkerByHand(stored)
    (worker,) = loaded(command("workers", "--json"))["workers"]
    assert (worker["host"], worker["providers"], worker["alive"], worker["tickets"]) == ("here", ["openai"], True, 0)
    assert "openai" in command("workers").stdout
