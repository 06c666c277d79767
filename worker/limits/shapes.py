"""What goes into the limiter and what comes out of it.

Says nothing about how a bucket is kept: that is bucket.lua's business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

BELIEVED_SECONDS = 25 * 3600.0
LONGEST_SECONDS = 24 * 3600.0
"""A wait of more than 25 h counts as 24 h: no limit is counted over a longer time, and a provider's clock or words may be wrong."""


def believed(seconds: float) -> float:
    """Returns how long a wait counts that a provider asks for."""
    return seconds if seconds <= BELIEVED_SECONDS else LONGEST_SECONDS


Unit = Literal["requests", "tokens", "input_tokens", "output_tokens"]
UNITS: tuple[Unit, ...] = ("requests", "tokens", "input_tokens", "output_tokens")

SLOT_SECONDS = 0.5
"""As in bucket.lua."""

Learns = Literal[0, 1, 2]

LimitKind = Literal["requests", "tokens", "calls", ""]
"""The limit that a refusal is about: requests or tokens a minute, calls in flight, or unknown."""

RestartFunction = Callable[[], Awaitable[None]]
"""Tells a server that was started again what it has to know before a call may start."""

OthersFunction = Callable[[], Awaitable[Collection[str]]]
"""Names the other workers that are alive, or not yet known to be dead."""

RuledFunction = Callable[[], Awaitable[None]]
"""Learns which limits hold now."""

SeedFunction = Callable[[Sequence[str]], Awaitable[Mapping[str, Sequence[tuple[float, int]]]]]
"""Bucket ids -> for each the (age in seconds, amount) of what the ledger saw start in the last 60 s."""

DayId = tuple[str, int]
"""A bucket of days and the start of one of them, in unix seconds."""

DaySeedFunction = Callable[[Sequence[DayId]], Awaitable[Mapping[DayId, int]]]
"""Days -> for each the amount that the ledger saw start in it; none: nothing."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """One quota a minute; with `zone`, an IANA name, a quota of a local day there, for one `model` or ("") for all.

    `id` is global: keys of one pool, of any provider, name the same bucket.
    """

    id: str
    unit: Unit
    limit: int
    zone: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Charge:
    """What one call takes from its key's buckets, by unit; never negative."""

    requests: int = 1
    tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def of(self, unit: Unit) -> int:
        """The amount in `unit`."""
        return int(getattr(self, unit))


@dataclass(frozen=True, slots=True)
class LimitedKey:
    """A key a call may go out on: `name` is "provider/key_id", `pool` is what cools together, a lower `rank` is taken
    first, and a key without buckets is free. `mark` tells its secret from an earlier one: a block is for one secret. `rules` is
    the state of all workers' limits that its buckets were made by; nothing is granted by an earlier one ("": by any). `learns`: its limits
    are 0 fixed, 1 lowered to what the server takes, 2 not configured, so that calls in flight grow from a few on; `use` is our share of what is learned."""

    name: str
    pool: str
    buckets: tuple[Bucket, ...]
    rank: int = 0
    mark: str = ""
    rules: str = ""
    learns: Learns = 0
    use: float = 1.0

    @property
    def minutes(self) -> tuple[Bucket, ...]:
        """Its quotas a minute."""
        return tuple(bucket for bucket in self.buckets if not bucket.zone)

    @property
    def days(self) -> tuple[Bucket, ...]:
        """Its quotas a day."""
        return tuple(bucket for bucket in self.buckets if bucket.zone)

    @property
    def lock(self) -> str:
        """What `Limiter.block` is told to take it out of use."""
        return f"{self.name}#{self.mark}" if self.mark else self.name


@dataclass(frozen=True, slots=True)
class Want:
    """A call that would like to start; `id` stays the same while it asks again, for its hold. `model` is what cools down by itself on
    a pool."""

    id: str
    charge: Charge
    keys: tuple[LimitedKey, ...]
    model: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A call's place among the others since something is learned of them: how many calls and how many booked tokens were granted, it
    included, and the calls in flight with it; 0: nothing is learned."""

    calls: int = 0
    tokens: int = 0
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """A refused call: which limit the refusal names, and for its model and for all models of the pool where the call stood and this
    worker's calls in flight (None: not counted). `guessed`: it names no limit, and calls in flight seem to be what the server limits."""

    about: LimitKind
    tokens: int
    places: tuple[Place, Place] = (Place(), Place())
    in_flight: tuple[int, int] | None = None
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class Flying:
    """A worker's calls in flight of a model on a pool. `too_many`: as many are one too many, since calls are late then; 0: none is."""

    pool: str
    model: str
    count: int
    too_many: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """The call is booked: it starts at `start_at` (on the limiter's clock) on `key`. `slot` is for settling; it begins `into_slot`
    seconds before the start. `days` are those that it is counted for by limits by day. `places`: among the calls of its model, and
    of all models of the pool."""

    want_id: str
    key: LimitedKey
    start_at: float
    slot: int
    charge: Charge
    into_slot: float = 0.0
    days: tuple[DayId, ...] = ()
    places: tuple[Place, Place] = (Place(), Place())

    @property
    def placed(self) -> bool:
        """Whether something is learned of its model or its pool."""
        return bool(self.places[0].calls or self.places[1].calls)


@dataclass(frozen=True, slots=True)
class SpentDay:
    """A day of a bucket that has no room for a call on `key`; calls start again in `seconds`."""

    key: LimitedKey
    bucket: Bucket
    seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing was booked; ask again in `seconds` (jittered). `held`: its bucket is being kept free for this want, which
    lapses two seconds after it last asked. `blocked`: every key it may use is quarantined. `model`: its model cools down or has
    a learned rate, which concerns no other one. `in_flight`: as many calls of its model are in flight as the server takes: the next one
    that ends makes room. `day`: a limit by day is used up, see `spent`."""

    want_id: str
    seconds: float
    held: bool
    reason: Literal["limit", "cooling", "blocked", "model", "day", "in_flight"]
    spent: tuple[SpentDay, ...] = ()


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The call takes more than a whole minute's limit, or (`by_day`) a day's, on each of its keys: it can never start. `limit` is the
    largest."""

    want_id: str
    unit: Unit
    amount: int
    limit: int
    by_day: bool = False


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a granted call really took: corrects what was booked in its slot, and in its days."""

    buckets: tuple[Bucket, ...]
    slot: int
    booked: Charge
    actual: Charge
    days: tuple[DayId, ...] = ()


def put_off(grant: Grant, seconds: float) -> tuple[Grant, tuple[Settlement, ...]]:
    """The grant of a call that starts so many seconds late, and what moves its booking there, if that is another slot: the last minute
    that it is in ends later than was reckoned. Nobody else loses by it: until now it was booked, too."""
    slots = int((grant.into_slot + seconds) / SLOT_SECONDS)
    moved = replace(
        grant,
        start_at=grant.start_at + seconds,
        slot=grant.slot + slots,
        into_slot=grant.into_slot + seconds - slots * SLOT_SECONDS,
    )
    if not slots:
        return moved, ()
    nothing = Charge(requests=0)
    return moved, (
        Settlement(grant.key.buckets, grant.slot, grant.charge, nothing),
        Settlement(grant.key.buckets, moved.slot, nothing, grant.charge),
    )


@dataclass(frozen=True, slots=True)
class Cooldown:
    """How long nothing starts on a pool: of one model, or of any where `model` is "". `named`: the provider named the model itself,
    which says nothing of the pool."""

    pool: str
    model: str
    seconds: float
    named: bool = False


@dataclass(frozen=True, slots=True)
class BucketRoom:
    """A bucket as it stands: units booked in the last 60 s, of its limit."""

    bucket: Bucket
    booked: int


@dataclass(frozen=True, slots=True)
class KeyRoom:
    """A key as it stands: its buckets, and the seconds it still cools or is blocked (0: it does not; inf: no end set). `models` are
    the seconds that single models still cool on its pool."""

    key: LimitedKey
    buckets: tuple[BucketRoom, ...]
    cooling: float
    blocked: float
    models: Mapping[str, float] = field(default_factory=dict)
