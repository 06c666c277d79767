"""`truckllm keys`: the configured keys, and whether they are usable. It never shows a secret."""

from __future__ import annotations

from typing import Any

from models.config import KeyConfig, ProviderConfig
from models.config_file import load_config
from models.store import keys as key_store
from submit.cli.options import ConfigOption, JsonOption, stored
from submit.cli.output import iso, print_json, print_table
from submit.progress import state_of


def keys(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show the keys and whether they are usable.

    --json: {"keys": [{provider, key_id, pool, state, reason, since, until}]}. `state` is active or quarantined; `since` and `until`
    are times in UTC or null; `until` null on a quarantined key means that a person has to act.
    """
    settings = load_config(config, secrets=False)
    with stored(settings) as database, database.read() as connection:
        states = key_store.everything(connection)
    found = [
        _row(provider, key, state_of(provider, key, states)) for provider in settings.providers for key in provider.keys
    ]
    if json:
        print_json({"keys": found})
        return
    columns = ("provider", "key_id", "pool", "state", "reason", "since", "until")
    print_table(columns, [[row[name] for name in columns] for row in found])


def _row(provider: ProviderConfig, key: KeyConfig, state: Any) -> dict[str, Any]:
    return {
        "provider": provider.id,
        "key_id": key.id,
        "pool": key.pool or f"{provider.id}/{key.id}",
        "state": state["state"] if state else key_store.ACTIVE,
        "reason": state["reason"] if state else "",
        "since": iso(state["since"]) if state else None,
        "until": iso(state["until"]) if state else None,
    }
