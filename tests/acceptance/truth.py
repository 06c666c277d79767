"""Holds the ledger against the sandbox's log: what we wrote down about calls, and what really arrived and was billed.

It compares only; it neither makes calls nor waits for them: every call has to have ended on both sides.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from models.config import Config
from models.config_file import load_config
from models.database import Database
from models.formats.simple import simple_input
from models.request import SIMPLE
from models.states import Outcome
from models.tables import attempts, batch_spend, batches, job_inputs, jobs, results
from tests.servers import SandboxProcess
from worker.sandbox.quotas import key_name
from worker.sandbox.replies import prompt_sha, prompt_text

TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
NEVER_LEFT = {"connect_error", "connect_timeout", "dns_error", "tls_error", "proxy_error"}
UNREADABLE = {"rubbish", "empty"}
"""Faults whose reply is whole and makes no sense."""
UNTOLD = {"wrong_usage", "error_in_200"}
"""Faults whose reply hides what was billed, or tells some tokens in a stream before it comes to its error."""

Row = dict[str, Any]


def assert_ledger_is_the_log(
    database: Database, sandbox: SandboxProcess, *, config: Config | Path | None = None, cut: int = 0
) -> list[Row]:
    """Asserts that attempts and log tell the same story, job by job (by the digest of its prompt). Returns the log's calls.

    For every reply read whole: provider, model, status and every kind of token are in the ledger once. For every other call:
    one `unknown` (or, when its reply is known but came too late, `fenced`) row. Nothing else is in the ledger, except what
    certainly never left. `config` also holds the keys against each other, and is needed where a provider's id isn't the
    dialect's name. `cut`: how many calls may have been cut short by kills: announced and not sent, or answered and not read.
    """
    settings = load_config(config, secrets=True) if isinstance(config, Path) else config
    calls = [row for row in sandbox.log() if not row["path"].rstrip("/").endswith("/models")]
    assert all(row["finished_at"] is not None for row in calls), "a call is still under way"
    rows, shas = _ledger(database, settings)
    cuts = match(by_sha(rows, lambda row: shas[row["job_id"]]), by_sha(calls, lambda row: row["prompt_sha"]), settings)
    assert cuts <= cut, f"{cuts} calls were cut short, {cut} may have been"
    _assert_sums_are_true(database, rows)
    return calls


def _ledger(database: Database, settings: Config | None) -> tuple[list[Row], dict[int, str]]:
    names = {provider.id: provider.type for provider in settings.providers} if settings else {}
    with database.read() as connection:
        rows = [dict(row) for row in connection.execute(sa.select(attempts)).mappings()]
        inputs = connection.execute(sa.select(job_inputs)).mappings().all()
    for row in rows:
        row["dialect"] = names.get(row["provider"], row["provider"])
    return rows, {row["job_id"]: prompt_sha(prompt_of(row["body"], row["dialect"])) for row in inputs}


def prompt_of(body: bytes, dialect: str) -> str:
    """The text of a prompt as the sandbox names it."""
    assert dialect in (SIMPLE, "openai"), f"bodies of the {dialect} dialect can't be told by their prompt here"
    messages = (simple_input(body) if dialect == SIMPLE else orjson.loads(body))["messages"]
    return prompt_text(text for message in messages for text in _texts(message["content"]))


def _texts(content: Any) -> Iterable[str]:
    if isinstance(content, str):
        return [content]
    assert all(part["type"] == "text" for part in content), "only prompts of text can be told by their digest here"
    return [str(part["text"]) for part in content]


def by_sha(rows: Iterable[Row], sha: Any) -> dict[str | None, list[Row]]:
    found: dict[str | None, list[Row]] = defaultdict(list)
    for row in rows:
        found[sha(row)].append(row)
    return found


def match(ledger: Mapping[str | None, list[Row]], log: Mapping[str | None, list[Row]], settings: Config | None) -> int:
    """Pairs rows and calls of each prompt, then those calls of which the sandbox couldn't read the prompt. How many were cut."""
    keys = (
        {(p.id, key.id): key_name(key.secret.reveal()) for p in settings.providers for key in p.keys}
        if settings
        else {}
    )
    cuts = 0
    homeless: list[Row] = []
    strangers = set(log) - set(ledger) - {None}
    assert not strangers, f"{len(strangers)} prompts were sent and are not in the ledger"
    for sha, rows in ledger.items():
        calls = list(log.get(sha, []))
        # what is known of a call picks its like first; unknown rows take what is left
        for row in sorted(rows, key=lambda row: bool(row["outcome"] == Outcome.UNKNOWN)):
            if row["outcome"] == Outcome.FAILED and row["http_status"] is None and row["error_code"] in NEVER_LEFT:
                continue
            fitting = [call for call in calls if _fits(row, call, keys)]
            if fitting:
                # one that hides what was billed fits any row: it must not be taken from the row that has no other
                known = row["outcome"] != Outcome.UNKNOWN
                fitting.sort(key=lambda call: (known and _billed(call) != _counted(row), _readable(call)))
                calls.remove(fitting[0])
                cuts += row["outcome"] == Outcome.UNKNOWN and _readable(fitting[0])
            else:
                homeless.append(row)
        assert not calls, f"calls that the ledger doesn't hold: {[_seen(call) for call in calls]} beside {_told(rows)}"
    nameless = list(log.get(None, []))
    for row in homeless:
        fitting = [call for call in nameless if _fits(row, call, keys)]
        if fitting:
            nameless.remove(fitting[0])
        else:
            assert row["outcome"] == Outcome.UNKNOWN, (
                f"no such call arrived: {_told([row])} (log: {_of(log, ledger, row)})"
            )
            cuts += 1
    assert not nameless, f"calls that the ledger doesn't hold: {[_seen(call) for call in nameless]}"
    return cuts


def _fits(row: Row, call: Row, keys: Mapping[tuple[str, str], str]) -> bool:
    """Whether a row of the ledger can be about a call."""
    if row["dialect"] != call["provider"] or call["model"] not in (row["requested_model"], None):
        return False
    if keys and keys[row["provider"], row["key_id"]] != call["key_id"]:
        return False
    if row["outcome"] == Outcome.UNKNOWN:
        return True
    if row["outcome"] == Outcome.FENCED and row["http_status"] is None:
        return not call["sent_whole"]
    return (
        bool(call["sent_whole"])
        and row["http_status"] == call["status"]
        and (_counted(row) == _billed(call) or call["fault"] in UNTOLD)
    )


def _counted(row: Row) -> tuple[int, ...]:
    return tuple(row[name] or 0 for name in TOKENS)


def _billed(call: Row) -> tuple[int, ...]:
    return tuple(call[name] or 0 for name in TOKENS)


def _readable(call: Row) -> bool:
    """Whether a caller who listened to the end must know what came of the call."""
    return bool(call["sent_whole"]) and call["fault"] not in UNREADABLE


def _assert_sums_are_true(database: Database, rows: list[Row]) -> None:
    """The jobs' counters, the results and the running sums are those of the ledger."""
    with database.read() as connection:
        made = dict(connection.execute(sa.select(jobs.c.id, jobs.c.attempts)).all())
        open_jobs = set(connection.execute(sa.select(jobs.c.id).where(jobs.c.status == "running")).scalars())
        kept = connection.execute(sa.select(results)).mappings().all()
        spent = connection.execute(sa.select(batch_spend)).mappings().all()
        ended = connection.execute(sa.select(batches.c.id).where(batches.c.finished_at.is_not(None))).scalars().all()
        states = Counter((row.batch_id, row.status) for row in connection.execute(sa.select(jobs)))
    calls = Counter(row["job_id"] for row in rows)
    wrong = {job: (number, calls[job]) for job, number in made.items() if job not in open_jobs and number != calls[job]}
    assert not wrong, f"jobs that miscount their calls (counted, in the ledger): {wrong}"
    by_id = {row["id"]: row for row in rows}
    for result in kept:
        answered = by_id[result["attempt_id"]]
        assert answered["outcome"] == Outcome.SUCCEEDED
        for name in ("job_id", "input_tokens", "output_tokens", "cached_tokens", "cost_nanos", "currency"):
            assert result[name] == answered[name], name
    known = [row for row in rows if row["outcome"] != Outcome.UNKNOWN]
    for name in ("input_tokens", "output_tokens", "cost_nanos"):
        assert sum(row[name] for row in spent) == sum(row[name] or 0 for row in known), name
    assert sum(row["calls"] for row in spent) == len(known)
    for batch in ended:
        assert not states[batch, "queued"] + states[batch, "running"], f"batch {batch} has ended with jobs left"


def _seen(call: Row) -> str:
    return (
        f"{call['provider']} {call['model']} {call['status']} {call['fault']} whole={call['sent_whole']} n={call['n']}"
    )


def _told(rows: Iterable[Row]) -> list[str]:
    names = ("provider", "key_id", "requested_model", "outcome", "http_status", "error_code", *TOKENS[:2])
    return [" ".join(str(row[name]) for name in names) for row in rows]


def _of(log: Mapping[str | None, list[Row]], ledger: Mapping[str | None, list[Row]], row: Row) -> list[str]:
    sha = next((sha for sha, rows in ledger.items() if row in rows), None)
    return [_seen(call) for call in log.get(sha, [])]
