"""Which limit an unnamed 429 is about: a rate, or calls in flight. Told apart by where the refused calls stood.

A server that limits calls in flight refuses only while many are; one that limits a rate refuses at any number of them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

REMEMBERED = 256
REMEMBERED_SECONDS = 30.0
FEWEST = 3
"""Refused calls, and taken ones, that a decision takes."""
SPREAD_SECONDS = 1.5
"""Time between the first and the last of them: a herd that leaves at once is refused from some call on, whatever the limit is."""
APART = 0.85
"""Of the pairs of a refused and a taken call, those in which more calls were in flight at the refused one: so many show a limit of
calls in flight."""
STEEP = 0.6
"""Of the calls with more in flight than half of the refused ones had: so many have to be refused. A rate that is exceeded a little
refuses few, with any number in flight."""
TAKEN_SECONDS = 2.0
FEW_IN_FLIGHT = 4
"""Below so many calls in flight chance decides; a rate does for such a server, too."""
FEW_LATE = 2
"""Calls that are out for long, before they count."""
LATE_SECONDS = 120.0
MOST_MODELS = 1024


@dataclass(slots=True)
class Sent:
    """A call that left: when, and how many were in flight with it. `over`: answered or refused."""

    at: float
    in_flight: int
    refused: bool = False
    over: bool = False


class RefusalKinds:
    """The calls of one provider in one process, by pool and model. `clock` is monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sent: dict[tuple[str, str], deque[Sent]] = {}
        self._counted: dict[tuple[str, str], float] = {}

    def sent(self, pool: str, model: str, in_flight: int) -> Sent:
        """Takes in a call that leaves; `in_flight` counts itself."""
        calls = self._sent.get((pool, model))
        if calls is None:
            if len(self._sent) >= MOST_MODELS:
                del self._sent[next(iter(self._sent))]
            calls = self._sent[pool, model] = deque(maxlen=REMEMBERED)
        call = Sent(self._clock(), in_flight)
        calls.append(call)
        return call

    def refused(self, pool: str, model: str, call: Sent) -> bool:
        """Takes in a refusal that names no limit, and returns whether calls in flight are what the server limits, as far as calls show
        it. Of a herd that was sent before the first of its refusals came, only that one counts."""
        now = self._clock()
        call.over = True
        if call.at >= self._counted.get((pool, model), float("-inf")):
            call.refused = True
            self._counted[pool, model] = now
        calls = [one for one in self._sent.get((pool, model), ()) if now - one.at < REMEMBERED_SECONDS]
        refused = [one.in_flight for one in calls if one.refused]
        # a refusal comes at once: a call that is out for longer was taken
        taken = [one.in_flight for one in calls if not one.refused and (one.over or now - one.at > TAKEN_SECONDS)]
        spread = now - calls[0].at >= SPREAD_SECONDS if calls else False
        return spread and min(len(refused), len(taken)) >= FEWEST and _apart(refused, taken)

    def late(self, pool: str, model: str, seconds: float) -> int:
        """Returns how many calls in flight are one too many for a server that answers late then: the fewest with which a call is out for more
        than `seconds`. 0 where none is, or where calls with fewer in flight are late, too."""
        now = self._clock()
        calls = [one for one in self._sent.get((pool, model), ()) if not one.refused]
        late = [one.in_flight for one in calls if not one.over and now - one.at > seconds]
        good = [one.in_flight for one in calls if one.over and now - one.at < LATE_SECONDS]
        if len(late) < FEW_LATE or len(good) < FEWEST or not _apart(late, good):
            return 0
        return min(late)


def _apart(bad: Sequence[int], good: Sequence[int]) -> bool:
    """Returns whether calls went wrong where many were in flight, and well where few were."""
    above = sum((one > other) + 0.5 * (one == other) for one in bad for other in good)
    middle = sorted(bad)[len(bad) // 2]
    if above < APART * len(bad) * len(good) or middle < FEW_IN_FLIGHT:
        return False
    most_bad = sum(count >= middle for count in bad)
    return most_bad >= STEEP * (most_bad + sum(count >= middle for count in good))
