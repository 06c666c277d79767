"""`truckllm workers`: the worker processes, as their heartbeats tell."""

from __future__ import annotations

from models.store import workers as worker_store
from submit.bell import LIVE_SECONDS
from submit.cli.options import ConfigOption, JsonOption, found_config, stored
from submit.cli.output import iso, note, print_json, print_table


def workers(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show the worker processes.

    --json: {"workers": [{id, host, pid, providers, alive, tickets (Celery messages taken), config_hash, started_at, heartbeat_at}]}.
    `alive` is false when the last heartbeat is older than 45 s.
    """
    with stored(found_config(config)) as database, database.read() as connection:
        now = database.now(connection)
        rows = worker_store.everyone(connection)
    found = [
        {
            "id": row["id"],
            "host": row["host"],
            "pid": row["pid"],
            "providers": [name for name in row["queues"].split(",") if name],
            "alive": row["heartbeat_at"] > now - LIVE_SECONDS,
            "tickets": row["tickets"],
            "config_hash": row["config_hash"],
            "started_at": iso(row["started_at"]),
            "heartbeat_at": iso(row["heartbeat_at"]),
        }
        for row in rows
    ]
    if json:
        print_json({"workers": found})
        return
    if not found:
        note("no worker is running: `truckllm worker` starts one")
        return
    print_table(
        ("worker", "host", "pid", "providers", "alive", "tickets", "config", "started"),
        [
            (
                row["id"],
                row["host"],
                row["pid"],
                ",".join(row["providers"]),
                "yes" if row["alive"] else "no",
                row["tickets"],
                row["config_hash"][:8],
                row["started_at"],
            )
            for row in found
        ],
        numbers=("worker", "pid", "tickets"),
    )
    if len({row["config_hash"] for row in found if row["alive"]}) > 1:
        note("warning: live workers run with different configurations; restart the older ones")
