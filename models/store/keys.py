"""Key states: which keys are quarantined, why, since when and until when; kept in SQL, so that they survive every restart."""

from __future__ import annotations

import hashlib
import hmac

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from models.tables import key_states

ACTIVE = "active"
QUARANTINED = "quarantined"
ANY_SECRET = ""
"""The fingerprint in a person's word: it holds whatever the key's secret is, and needs none to be known where it is said."""


def fingerprint(secret: str) -> str:
    """Tells secrets apart without telling them: the same on every machine, of no use to get the secret back."""
    return hmac.new(secret.encode(), b"truckllm key fingerprint", hashlib.sha256).hexdigest()[:32]


def everything(connection: Connection) -> list[RowMapping]:
    """All rows: provider, key_id, fingerprint, pool, state, reason, probes, since, until."""
    query = sa.select(key_states).order_by(key_states.c.provider, key_states.c.key_id)
    return list(connection.execute(query).mappings())


def quarantine(
    connection: Connection,
    *,
    provider: str,
    key_id: str,
    mark: str,
    pool: str,
    reason: str,
    now: float,
    until: float | None,
    probes: int = 0,
) -> None:
    """Takes a key out of use; a quarantine that stands already keeps its `since`."""
    where = (key_states.c.provider == provider, key_states.c.key_id == key_id, key_states.c.fingerprint == mark)
    since = connection.execute(
        sa.select(key_states.c.since).where(*where, key_states.c.state == QUARANTINED)
    ).scalar_one_or_none()
    connection.execute(key_states.delete().where(*where))
    connection.execute(
        key_states.insert().values(
            provider=provider,
            key_id=key_id,
            fingerprint=mark,
            pool=pool,
            state=QUARANTINED,
            reason=reason,
            probes=probes,
            since=now if since is None else since,
            until=until,
        )
    )


def disable(connection: Connection, provider: str, key_id: str, pool: str, reason: str, now: float) -> bool:
    """Takes a key out of use by a person's word, until `enable`. False when it is so already."""
    where = (key_states.c.provider == provider, key_states.c.key_id == key_id, key_states.c.fingerprint == ANY_SECRET)
    if connection.execute(sa.select(key_states.c.since).where(*where)).first() is not None:
        return False
    quarantine(
        connection,
        provider=provider,
        key_id=key_id,
        mark=ANY_SECRET,
        pool=pool,
        reason=reason,
        now=now,
        until=None,
    )
    return True


def enable(connection: Connection, provider: str, key_id: str, now: float) -> bool:
    """Puts a key back into use, whoever or whatever took it out. False when nothing did."""
    mine = (key_states.c.provider == provider, key_states.c.key_id == key_id)
    said = connection.execute(key_states.delete().where(*mine, key_states.c.fingerprint == ANY_SECRET))
    lifted = connection.execute(
        key_states.update()
        .where(*mine, key_states.c.state == QUARANTINED)
        .values(state=ACTIVE, reason="", since=now, until=None, probes=0)
    )
    return said.rowcount + lifted.rowcount > 0


def lift(connection: Connection, provider: str, key_id: str, mark: str, now: float) -> bool:
    """Puts a key back into use. False when it wasn't out of it."""
    done = connection.execute(
        key_states.update()
        .where(
            key_states.c.provider == provider,
            key_states.c.key_id == key_id,
            key_states.c.fingerprint == mark,
            key_states.c.state == QUARANTINED,
        )
        .values(state=ACTIVE, reason="", since=now, until=None, probes=0)
    )
    return done.rowcount == 1


def postpone(connection: Connection, provider: str, key_id: str, mark: str, until: float | None, later: float) -> bool:
    """Moves a quarantine's end from `until` to `later` and counts a probe. True for exactly one of several that try."""
    done = connection.execute(
        key_states.update()
        .where(
            key_states.c.provider == provider,
            key_states.c.key_id == key_id,
            key_states.c.fingerprint == mark,
            key_states.c.state == QUARANTINED,
            key_states.c.until == until,
        )
        .values(until=later, probes=key_states.c.probes + 1)
    )
    return done.rowcount == 1
