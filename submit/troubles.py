"""Which providers are in trouble just now, as the last calls in the ledger tell, in sentences for people.

It looks at a bounded number of calls, and changes nothing; whether a call is sent is the worker's business.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from sqlalchemy.engine import Connection, RowMapping

from models.config import Config
from models.states import WRONG_ENDPOINT, Outcome
from models.store import attempts, outcomes

MOST_CALLS = 1000
LEAST_FAILURES = 3
_WINDOWS = ((60.0, "minute"), (600.0, "10 minutes"))
"""A provider that is away is asked ever more seldom: where the last minute tells too little, the last ten do."""
_FRESH = 20.0
"""Where calls that ended in the last 20 s tell enough they decide: a minute of answers must not hide that none comes any more."""

_KEY_STATUSES = (401, 402, 403)
_NO_CONNECTION = {
    "connect_error": "no connection to {}",
    "connect_timeout": "no connection to {} in time",
    "dns_error": "the name of {} can't be resolved",
    "tls_error": "no TLS connection to {}",
    "proxy_error": "no connection to {} through the proxy",
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """A provider most of whose last calls failed. `sentence` begins with its id."""

    provider: str
    sentence: str


def troubles(connection: Connection, batch_id: int, config: Config | None, now: float) -> tuple[Trouble, ...]:
    """The providers in trouble that calls of this batch have lately gone to, by id."""
    found: dict[str, Trouble] = {}
    decided: set[str] = set()
    for seconds, window in _WINDOWS:
        rows: dict[str, list[RowMapping]] = {}
        for row in attempts.recent(connection, now - seconds, now - _FRESH, MOST_CALLS, batch_id):
            if row["provider"] not in decided:
                rows.setdefault(row["provider"], []).append(row)
        for provider, its in rows.items():
            if sum(row["calls"] for row in its) >= LEAST_FAILURES:
                decided.add(provider)
            trouble = _trouble(connection, provider, its, window, config, now) if any(r["mine"] for r in its) else None
            if trouble is not None:
                found[provider] = trouble
    return tuple(found[provider] for provider in sorted(found))


def _trouble(
    connection: Connection, provider: str, rows: Sequence[RowMapping], window: str, config: Config | None, now: float
) -> Trouble | None:
    bad = [row for row in rows if _is_bad(row)]
    good = [row for row in rows if row["outcome"] in (Outcome.SUCCEEDED, Outcome.REJECTED) and not _is_bad(row)]
    failures, fine = (sum(row["calls"] for row in some) for some in (bad, good))
    failing, answering = (sum(row["fresh"] for row in some) for some in (bad, good))
    if max(failing, answering) >= LEAST_FAILURES:
        in_trouble = failing >= answering
    else:
        in_trouble = failures >= fine
    least = 1 if any(row["error_code"] == WRONG_ENDPOINT for row in bad) else LEAST_FAILURES
    if failures < least or not in_trouble:
        return None
    worst = max(bad, key=lambda row: int(row["calls"]))
    said = outcomes.last_error(connection, worst["job_id"], worst["error_code"])
    told = f"{failures:,} failures in the last {window}"
    if worst["error_code"] in _NO_CONNECTION and config is not None:
        first = attempts.first_failure(connection, min(row["job_id"] for row in bad))
        until = None if first is None else first + config.worker.retry_for
        if until is not None and until > now:
            told += f"; tried again until {clock(until, now)}"
    return Trouble(provider, f"{provider}: {_what(worst, said, provider, config)} ({told})")


def _is_bad(row: RowMapping) -> bool:
    if row["outcome"] == Outcome.REJECTED:
        return (
            row["error_code"] == WRONG_ENDPOINT
            or row["http_status"] in _KEY_STATUSES
            or "api_key" in (row["error_code"] or "").lower()
        )
    failed = row["outcome"] in (Outcome.FAILED, Outcome.RATE_LIMITED)
    return failed or (row["outcome"] == Outcome.UNKNOWN and row["error_code"] is not None)


def _what(row: RowMapping, said: str | None, provider: str, config: Config | None) -> str:
    """`said` is what a call of this kind left as its job's error, if that is still there."""
    code, status = row["error_code"] or "", row["http_status"]
    if code in _NO_CONNECTION:
        return no_connection(code, said, provider, config)
    if code == WRONG_ENDPOINT:
        return f"what answers is not its API: {said or f'HTTP {status}'}"
    named = "" if not code or code == f"http_{status}" else f", {code}"
    if row["outcome"] == Outcome.RATE_LIMITED:
        return f"it says that limits are exceeded (HTTP {status or 429}{named})"
    if row["outcome"] == Outcome.REJECTED:
        return f"it refuses the key (HTTP {status}{named}); `truckllm keys` shows the keys"
    if status:
        return f"it answers HTTP {status}{named}"
    return f"calls end without a whole answer ({code or 'unknown'})"


def no_connection(code: str, said: str | None, provider: str, config: Config | None) -> str:
    """Why calls don't reach a provider, with the host of the stored message `said`: the configuration may have another one by now."""
    host = re.search(r"'([^']+)'|\bconnection to (\S+?)(?::? |$)", said or "")
    return _NO_CONNECTION[code].format(host[1] or host[2] if host else _address(provider, config))


def _address(provider: str, config: Config | None) -> str:
    """The host and port that calls go to; the provider's own name where no configuration tells."""
    for known in config.providers if config is not None else ():
        if known.id == provider:
            parts = urlsplit(known.base_url)
            return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
    return "it"


def clock(moment: float, now: float) -> str:
    """Unix seconds as this machine's clock shows them: "14:45", with the date when that is another day's."""
    then, today = time.localtime(moment), time.localtime(now)
    return time.strftime("%H:%M" if then[:3] == today[:3] else "%Y-%m-%d %H:%M", then)
