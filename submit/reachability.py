"""Providers that have never answered since the workers that serve them started, in sentences for people.

A host that answered before and is away now is in an outage, which `submit.troubles` shows and the workers outlast.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy.engine import Connection

from models.config import Config
from models.states import WRONG_ENDPOINT
from models.store import answering, workers
from submit import bell
from submit.troubles import no_connection

UNREACHED_SECONDS = 60.0
"""How long no call may have reached a provider before those who wait for it give up."""
_SLACK_SECONDS = 2.0


def never_answered(connection: Connection, providers: Collection[str], config: Config, now: float) -> dict[str, str]:
    """Why nothing is to be expected of these providers, by id: of those that are, nothing. No provider is named that no live worker serves."""
    serving: dict[str, float] = {}
    for row in workers.everyone(connection):
        if bell.is_live(row, now):
            for name in filter(None, row["queues"].split(",")):
                serving[name] = min(row["started_at"], serving.get(name, now))
    found: dict[str, str] = {}
    for name in providers:
        if name not in serving:
            continue
        connecting = config.provider(name).connect_timeout_seconds + _SLACK_SECONDS
        calls = answering.unanswered(connection, name, serving[name], now - connecting)
        if calls is None:
            continue
        if calls.code == WRONG_ENDPOINT:
            found[name] = f"{name} doesn't answer as its API does: {calls.message or calls.code}"
        elif now - calls.since >= UNREACHED_SECONDS:
            why = calls.message or no_connection(calls.code, None, name, config)
            found[name] = f"{name} has never answered: {why}; is base_url right?"
    return found
