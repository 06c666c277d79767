"""The truth log: one row for every provider call that arrived, and running totals of them.

It holds no secret and no prompt, only their digests; it judges nothing.
"""

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import orjson

from worker.sandbox.replies import Usage
from worker.sandbox.settings import ProviderName


class Row:
    """One call. Tokens are what a billed call cost (`input_tokens` with everything cached, output with reasoning),
    `fees` the uses of tools that are billed by the use.

    `at` and `finished_at` are unix seconds, `mono` seconds of this machine's monotonic clock. `status` is the one
    answered with, None if there was no answer (yet). `sent_whole`: the whole reply was written while the caller was
    still connected. `limited`: refused by a limit; `limit` is its kind. `booked_tokens`: what was booked on the key's limit of tokens when the
    call came; what a provider books as it produces is `output_tokens`.
    """

    __slots__ = (
        "at",
        "billed",
        "booked_tokens",
        "fault",
        "finished_at",
        "key_id",
        "limit",
        "limited",
        "model",
        "mono",
        "n",
        "path",
        "prompt_sha",
        "provider",
        "sent_whole",
        "status",
        "usage",
    )

    def __init__(self, n: int, at: float, mono: float, provider: ProviderName, path: str) -> None:
        self.n = n
        self.at = at
        self.mono = mono
        self.provider = provider
        self.path = path
        self.key_id: str | None = None
        self.model: str | None = None
        self.prompt_sha: str | None = None
        self.status: int | None = None
        self.fault: str | None = None
        self.billed = False
        self.usage = _NOTHING
        self.sent_whole = False
        self.limited = False
        self.limit: str | None = None
        self.booked_tokens = 0
        self.finished_at: float | None = None

    def as_dict(self) -> dict[str, object]:
        return {
            "n": self.n,
            "at": self.at,
            "mono": self.mono,
            "provider": self.provider,
            "key_id": self.key_id,
            "model": self.model,
            "prompt_sha": self.prompt_sha,
            "path": self.path,
            "status": self.status,
            "fault": self.fault,
            "billed": self.billed,
            "input_tokens": self.usage.input,
            "output_tokens": self.usage.output,
            "cached_tokens": self.usage.cached,
            "cache_write_tokens": self.usage.cache_write,
            "reasoning_tokens": self.usage.reasoning,
            "fees": dict(self.usage.fees),
            "sent_whole": self.sent_whole,
            "limited": self.limited,
            "limit": self.limit,
            "booked_tokens": self.booked_tokens,
            "finished_at": self.finished_at,
        }


_NOTHING = Usage()


class Tally:
    """Running totals of some calls; tokens are those of billed calls."""

    __slots__ = ("billed_calls", "calls", "in_flight", "max_in_flight", "status_429", "tokens", "whole")

    def __init__(self) -> None:
        self.calls = self.billed_calls = self.status_429 = self.whole = self.in_flight = self.max_in_flight = 0
        self.tokens = [0, 0, 0, 0, 0]

    def arrive(self) -> None:
        self.calls += 1
        self.in_flight += 1
        if self.in_flight > self.max_in_flight:
            self.max_in_flight = self.in_flight

    def bill(self, usage: Usage) -> None:
        self.billed_calls += 1
        tokens = self.tokens
        tokens[0] += usage.input
        tokens[1] += usage.output
        tokens[2] += usage.cached
        tokens[3] += usage.cache_write
        tokens[4] += usage.reasoning

    def as_dict(self) -> dict[str, int]:
        return {
            "calls": self.calls,
            "billed_calls": self.billed_calls,
            "sent_whole": self.whole,
            "status_429": self.status_429,
            "input_tokens": self.tokens[0],
            "output_tokens": self.tokens[1],
            "cached_tokens": self.tokens[2],
            "cache_write_tokens": self.tokens[3],
            "reasoning_tokens": self.tokens[4],
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
        }


class TruthLog:
    """Rows in order of arrival, the last `keep` of them in memory, and every one in `file` as it ends (JSON lines).

    The totals count every call, also those whose rows are no longer kept. A call must be `identify`d once, and
    `finish`ed once.
    """

    def __init__(self, keep: int, file: Path | None = None) -> None:
        self._rows: deque[Row] = deque(maxlen=keep)
        self._tallies: dict[tuple[str, str | None, str | None], tuple[Tally, Tally, Tally]] = {}
        self._by_provider: dict[str, Tally] = {}
        self._by_key: dict[tuple[str, str | None], Tally] = {}
        self._names: dict[str, str] = {}  # one string for all rows that hold an equal one
        self._count = 0
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if file else None

    def __len__(self) -> int:
        return self._count

    def arrive(self, at: float, mono: float, provider: ProviderName, path: str) -> Row:
        """Open the row of a call that has arrived."""
        self._count += 1
        row = Row(self._count, at, mono, provider, self._names.setdefault(path, path))
        self._rows.append(row)
        return row

    def identify(self, row: Row) -> None:
        """Count the call in, once key and model are known (or known to be missing)."""
        if row.model is not None:
            row.model = self._names.setdefault(row.model, row.model)
        for tally in self._of(row):
            tally.arrive()

    def bill(self, row: Row, usage: Usage) -> None:
        """Note what the call costs."""
        row.billed = True
        row.usage = usage
        for tally in self._of(row):
            tally.bill(usage)

    def finish(self, row: Row, now: float, whole: bool) -> None:
        """Close the row: the reply is out, or the caller is gone."""
        row.finished_at = now
        row.sent_whole = whole
        limited = row.status == 429
        for tally in self._of(row):
            tally.in_flight -= 1
            tally.status_429 += limited
            tally.whole += whole
        if self._file is not None:
            os.write(self._file, orjson.dumps(row.as_dict(), option=orjson.OPT_APPEND_NEWLINE))

    def _of(self, row: Row) -> tuple[Tally, Tally, Tally]:
        name = (row.provider, row.key_id, row.model)
        found = self._tallies.get(name)
        if found is None:
            found = self._tallies[name] = (
                self._by_provider.setdefault(row.provider, Tally()),
                self._by_key.setdefault((row.provider, row.key_id), Tally()),
                Tally(),
            )
        return found

    def rows(self, provider: str | None = None, since: int = 0) -> Iterator[dict[str, object]]:
        """The kept rows with n > since, in order of arrival, of one provider or all, unfinished ones included."""
        return (row.as_dict() for row in self._rows if row.n > since and provider in (None, row.provider))

    def summary(self) -> dict[str, object]:
        """Totals by provider, by key and by model: `{calls, kept_rows, providers, keys, models}`."""
        return {
            "calls": self._count,
            "kept_rows": len(self._rows),
            "providers": [{"provider": name, **tally.as_dict()} for name, tally in self._by_provider.items()],
            "keys": [
                {"provider": provider, "key_id": key, **tally.as_dict()}
                for (provider, key), tally in self._by_key.items()
            ],
            "models": [
                {"provider": provider, "key_id": key, "model": model, **tallies[2].as_dict()}
                for (provider, key, model), tallies in self._tallies.items()
            ],
        }

    def renewed(self) -> "TruthLog":
        """An empty log that writes to the same file; the rows still open end in this one."""
        fresh = TruthLog(self._rows.maxlen or 1)
        fresh._file = self._file
        return fresh

    def close(self) -> None:
        """Close the file; no row may end after that."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
