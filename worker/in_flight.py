"""A provider's calls in flight in this process, by pool and model: how many there are, where each stood, and how long they take.

It decides nothing: the limiter does (`worker.limits`), by what is reported from here. Keys whose limits aren't learned are left out.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from models.request import Failure
from worker.limits.shapes import Flying, Grant, LimitKind, Refused
from worker.refusal_kinds import RefusalKinds, Sent

REMEMBERED = 64
"""Latencies, of the last answers."""
PAUSE_SECONDS = (0.25, 1.0, 2.0)
"""Between two steps of growth: at least, while nothing has been answered, at most."""
USUAL_SHARE, FEWEST, FORGOTTEN = 0.9, 16, 1.01
"""Of the last answers, at least so many, that took no longer than usual. The usual latency falls at once and rises by so much an answer: it is
that of the time before calls got slow."""
SLOW, SLOW_SECONDS, SLOW_SHARE = 1.2, 0.25, 0.15
LATE, LATE_SECONDS = 2.0, 0.5
"""Of the usual latency, and seconds beyond: a call that is out for longer is slow, or late. More slow ones than so many of all, and than
one, stop growth: latencies differ at a server that isn't slow."""

LONGEST_WINDOW = 65.0
"""Seconds of a limit's window: longer ones aren't limits a minute."""

_ABOUT: dict[str, LimitKind] = {
    "requests": "requests",
    "tokens": "tokens",
    "input_tokens": "tokens",
    "output_tokens": "tokens",
    "concurrent": "calls",
}


@dataclass(slots=True)
class _Call:
    grant: Grant
    model: str
    others: int
    sent: Sent | None = None


class InFlight:
    """`clock` is monotonic. Where nothing is learned of a model, its calls are only counted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._calls: dict[int, _Call] = {}
        self._plain: dict[int, tuple[Grant, str]] = {}  # calls of which nothing is learned
        self._granted: dict[tuple[str, str], int] = {}
        self._sent: dict[tuple[str, str], int] = {}
        self._gentle = False  # calls are tried by their latency, since nothing is configured
        self._kinds = RefusalKinds(clock)
        self._latencies: deque[float] = deque(maxlen=REMEMBERED)
        self._usual: float | None = None

    def granted(self, attempt_id: int, grant: Grant, model: str) -> None:
        """Takes in a call that was granted."""
        if not grant.key.learns:
            return
        if not grant.placed:
            self._plain[attempt_id] = grant, model
            return
        what = grant.key.pool, model
        self._granted[what] = self._granted.get(what, 0) + 1
        self._gentle = grant.key.learns == 2
        self._calls[attempt_id] = _Call(grant, model, max(0, grant.places[0].in_flight - self._granted[what]))

    def sent(self, attempt_id: int) -> None:
        """Takes in that a granted call leaves now."""
        if (call := self._calls.get(attempt_id)) is not None:
            what = call.grant.key.pool, call.model
            self._sent[what] = self._sent.get(what, 0) + 1
            call.sent = self._kinds.sent(*what, call.others + self._sent[what])

    def over(self, attempt_id: int) -> None:
        """Takes in that a call has ended, in whatever way, or never left."""
        if (call := self._calls.pop(attempt_id, None)) is None:
            self._plain.pop(attempt_id, None)
            return
        what = call.grant.key.pool, call.model
        _less(self._granted, what)
        if call.sent is not None:
            _less(self._sent, what)
            if not call.sent.over:
                call.sent.over = True
                if call.grant.key.learns == 2:
                    self._answered(self._clock() - call.sent.at)

    def _answered(self, seconds: float) -> None:
        self._latencies.append(seconds)
        usual = self._most()
        if len(self._latencies) >= FEWEST:
            self._usual = usual if self._usual is None else min(usual, self._usual * FORGOTTEN)

    def _count(self, pool: str, model: str | None = None) -> int:
        """Returns the calls in flight of a model on a pool, or of all its models."""
        placed = sum(n for (its, of), n in self._granted.items() if its == pool and model in (None, of))
        return placed + sum(grant.key.pool == pool and model in (None, of) for grant, of in list(self._plain.values()))

    def refused(self, attempt_id: int, failure: Failure) -> Refused | None:
        """Takes in a 429, and returns what the limiter learns from it; None where its limits aren't learned, or a day's limit is what it
        names, or where the call is larger than the limit."""
        call = self._calls.get(attempt_id)
        grant, model = (call.grant, call.model) if call is not None else self._plain.get(attempt_id, (None, ""))
        if grant is None or (call is not None and call.sent is None):
            return None
        exceeded = failure.exceeded
        if exceeded is not None and (
            (exceeded.window or 0.0) > LONGEST_WINDOW or (exceeded.requested or 0) > (exceeded.limit or float("inf"))
        ):
            return None
        about: LimitKind = "" if exceeded is None else _ABOUT[exceeded.unit]
        pool = grant.key.pool
        guessed = (
            call is not None
            and call.sent is not None
            and self._kinds.refused(pool, model, call.sent)
            and not about
            and not failure.retry_after
        )
        counts = self._count(pool, model), self._count(pool)
        return Refused(about, grant.charge.tokens, grant.places, counts, guessed)

    def report(self) -> tuple[list[Flying], float | None]:
        """Returns the calls in flight, and the seconds that they are left as they are until more are tried; None while several take longer
        than calls did before."""
        if not self._granted:
            return [], PAUSE_SECONDS[1]
        counts = [(what, self._count(*what) if self._plain else count) for what, count in self._granted.items()]
        if not self._latencies or not self._gentle:
            return [Flying(*what, count) for what, count in counts], PAUSE_SECONDS[1]
        usual, now = self._most() if self._usual is None else self._usual, self._clock()
        late = LATE * usual + LATE_SECONDS
        flying = [Flying(*what, count, self._kinds.late(*what, late)) for what, count in counts]
        limit = SLOW * usual + SLOW_SECONDS
        slow = sum(call.sent is not None and now - call.sent.at > limit for call in self._calls.values())
        if slow > max(1, SLOW_SHARE * len(self._calls)):
            return flying, None
        return flying, min(PAUSE_SECONDS[2], max(PAUSE_SECONDS[0], SLOW * max(self._latencies) + 0.1))

    def _most(self) -> float:
        """Returns the latency that most of the last answers had at most."""
        return sorted(self._latencies)[int(USUAL_SHARE * len(self._latencies))]


def _less(counts: dict[tuple[str, str], int], what: tuple[str, str]) -> None:
    counts[what] -= 1
    if counts[what] <= 0:
        del counts[what]
