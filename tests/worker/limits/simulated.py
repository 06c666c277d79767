"""Workers in virtual time that have more to do than a server takes: they ask the real limiter, send, are answered or refused, and report.

Answers take their time, so that calls are in flight. What a worker does is what `worker.runner`, `worker.flights` and `worker.cooldowns`
do; what it reports to the limiter goes through `Client.ask`, `Client.answered` and `Client.refused`, and nowhere else.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec

from models.request import StatedLimit
from tests.worker.limits.servers import Call, Refusal, Scenario, Server
from worker.experience import Cooling
from worker.flights import LATEST_START
from worker.in_flight import InFlight
from worker.limits.limiter import (
    Bucket,
    Charge,
    Grant,
    LimitedKey,
    Limiter,
    Settlement,
    TooLarge,
    Wait,
    Want,
    connect,
)
from worker.limits.shapes import put_off
from worker.stated import Stated

ROUND_TRIP = 0.02
"""Seconds to the server and back, at most; a fifth of it varies."""
MOST_WANTS, LEAST_ASK = 64, 16
MOST_WAITING = 4 * MOST_WANTS
LEAST_PAUSE, MOST_PAUSE, IDLE_SECONDS = 0.2, 1.0, 0.25
AGAIN_SECONDS, LANDING_SECONDS = 0.02, 0.01
"""From grants, and from the end of a call, to the next question: a claim's time."""
REPORT_SECONDS = 3.0
STALL_EVERY = 3.0
SERVER_FIRST = 1_000_000.25
"""The time at which a simulation begins."""


class Simulation:
    """A server, workers and a limiter on one virtual clock. `learns` False: the limiter isn't asked to learn."""

    def __init__(
        self,
        url: str,
        scenario: Scenario,
        stack: AsyncExitStack,
        *,
        learns: bool = True,
        client: type[Client] | None = None,
    ) -> None:
        self.now = SERVER_FIRST
        self.scenario = scenario
        self.learns = learns
        self.server = Server(scenario, self.now)
        self.granted: list[Grant] = []
        """All calls that were sent."""
        self.keys = {
            model: tuple(self._key(number, model) for number in range(scenario.keys)) for model in scenario.models
        }
        self.dice = random.Random(scenario.seed)
        self._stall_dice = random.Random(scenario.seed)
        self._stalls = [(0.0, SERVER_FIRST)]
        self._url = url
        self._stack = stack
        self._events: list[tuple[float, int, Callable[[], Awaitable[None]]]] = []
        self._serial = 0
        self.clients: list[Client] = []
        self._client = client or Client

    def _key(self, number: int, model: str) -> LimitedKey:
        name, scenario = f"p/k{number}", self.scenario
        buckets = (
            *(Bucket(f"{name}|{unit}", unit, limit) for unit, limit in scenario.configured.items()),
            *(Bucket(f"{name}|{model}|{unit}", unit, n) for unit, n in scenario.configured_of.get(model, {}).items()),
        )
        learns = 0 if not self.learns else 1 if buckets else 2
        return LimitedKey(name, name, buckets, learns=learns)  # type: ignore[arg-type]

    async def begin(self) -> None:
        """Starts the workers against an emptied Redis."""
        client = connect(self._url)
        self._stack.push_async_callback(client.aclose)
        await client.flushall()
        self.redis = client
        for number in range(self.scenario.workers):
            connection = connect(self._url)
            self._stack.push_async_callback(connection.aclose)
            limiter = Limiter(
                connection,
                clock=lambda: self.now,
                server_time=lambda: self.now,
                rng=random.Random(f"{self.scenario.seed} {number}"),
            )
            one = self._client(self, limiter, random.Random(f"{number} {self.scenario.seed}"))
            self.clients.append(one)
            self.at(self.now + self.dice.uniform(0.0, 0.5), one.turn)

    @property
    def seconds(self) -> float:
        """Seconds since the begin."""
        return self.now - SERVER_FIRST

    def at(self, when: float, what: Callable[[], Awaitable[None]]) -> None:
        """Has something happen at a time."""
        self._serial += 1
        heapq.heappush(self._events, (when, self._serial, what))

    def awake(self, when: float) -> float:
        """Returns the time at which the workers' machine does what is due at `when`: later, where it stands still."""
        if not (mean := self.scenario.stalls):
            return when
        while self._stalls[-1][1] < when:
            begin = self._stalls[-1][1] + self._stall_dice.expovariate(1 / STALL_EVERY)
            self._stalls.append((begin, begin + self._stall_dice.expovariate(1 / mean)))
        for begin, end in reversed(self._stalls):
            if begin <= when < end:
                return end
            if end <= when:
                break
        return when

    async def run(self, seconds: float) -> None:
        """Lets so much time pass."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            when, _, what = heapq.heappop(self._events)
            self.now = max(self.now, when)
            await what()
        self.now = end

    def share(self, begin: float, end: float) -> float:
        """The share of the real limit between two seconds since the begin."""
        return self.server.share(SERVER_FIRST + begin, SERVER_FIRST + end)

    def refused(self, begin: float, end: float) -> float:
        """The share of refused calls between two seconds since the begin."""
        return self.server.between(SERVER_FIRST + begin, SERVER_FIRST + end).refused_share

    async def learned(self) -> dict[str, Any]:
        """What the limiter has learned, as it is kept, by pool."""
        found = {}
        for name in await self.redis.keys("*a:p/*"):
            if (packed := await self.redis.get(name)) is not None:
                found[name.decode().rpartition("a:")[2]] = msgspec.msgpack.decode(packed)
        return found


class Client:
    """One worker's drain: claimed wants in front of its limiter, calls in flight, pools and models that cool."""

    def __init__(self, simulation: Simulation, limiter: Limiter, dice: random.Random) -> None:
        self.limiter = limiter
        self.in_flight = 0
        self._play = simulation
        self._dice = dice
        self._wants: list[Want] = []
        self._calls: dict[str, Call] = {}
        self._slow: dict[str, float] = {}  # until when a model's wants aren't asked for
        self._cooling = Cooling(dice, lambda: simulation.now)
        self._uncounted: dict[tuple[str, str], list[float]] = {}
        self._ask = MOST_WANTS
        self._turn = 0  # the turn that is planned: an earlier one is void
        self._full = self._capped = False  # the next turn is when a call ends
        self._calls_in_flight = InFlight(lambda: simulation.now)
        self._stated = Stated(limiter)
        self._reported_at = float("-inf")

    # Asking

    async def turn(self) -> None:
        """Asks for starts, sends what is granted, and plans the next turn."""
        self._turn += 1
        pause = await self._round()
        me = self._turn

        async def again() -> None:
            if me == self._turn:
                await self.turn()

        self._play.at(self._play.awake(self._play.now + pause), again)

    async def _round(self) -> float:
        now, scenario = self._play.now, self._play.scenario
        if now - self._reported_at >= REPORT_SECONDS:
            await self.report()
        free = scenario.concurrency - self.in_flight
        self._full = free <= 0
        if self._full:
            return IDLE_SECONDS
        self._slow = {model: until for model, until in self._slow.items() if until > now}
        models = [model for model in scenario.models if model not in self._slow]
        startable = [want for want in self._wants if want.model not in self._slow]
        while models and len(startable) < min(free, self._ask) and len(self._wants) < MOST_WAITING:
            startable.append(self._want(self._dice.choice(models)))
            self._wants.append(startable[-1])
        if not startable:
            return LEAST_PAUSE
        asking = startable[: min(free, MOST_WANTS)]
        answers = await self.ask(asking)
        granted = 0
        shared: list[float] = []
        apart = False
        done = set()
        for want, answer in zip(asking, answers, strict=True):
            if isinstance(answer, Grant):
                granted += 1
                done.add(want.id)
                self._send(answer, self._calls.pop(want.id))
            elif isinstance(answer, TooLarge):
                done.add(want.id)
                del self._calls[want.id]
            elif answer.reason in ("limit", "cooling", "blocked") and not scenario.configured_of:
                shared.append(answer.seconds)
            else:
                apart = True
                self._capped |= answer.reason == "in_flight"
                until = now + max(answer.seconds, LEAST_PAUSE)
                self._slow[want.model] = min(until, self._slow.get(want.model, until))
        self._wants = [want for want in self._wants if want.id not in done]
        self._ask = max(1, 2 * granted) if shared or apart else min(MOST_WANTS, 2 * self._ask)
        if apart and not shared:
            self._ask = max(self._ask, LEAST_ASK)
        return min(max(min(shared), LEAST_PAUSE), MOST_PAUSE) if shared else AGAIN_SECONDS

    def _want(self, model: str) -> Want:
        """One row more: its prompt is drawn, and its tokens are estimated as the dialect counts."""
        scenario, play = self._play.scenario, self._play
        low, high = scenario.prompt
        prompt = low if low == high else int(low * (high / low) ** self._dice.random())
        call = Call(model, 0, prompt, scenario.output, scenario.max_tokens)
        charge = {
            "openai": Charge(tokens=max(prompt, scenario.max_tokens)),
            "gemini": Charge(tokens=prompt),
            "claude": Charge(tokens=prompt + scenario.output),
        }[scenario.provider]
        play._serial += 1
        want = Want(f"w{play._serial}", charge, play.keys[model], model)
        self._calls[want.id] = call
        return want

    # A call

    def _send(self, grant: Grant, call: Call) -> None:
        play, number = self._play, int(grant.want_id[1:])
        self.in_flight += 1
        self._calls_in_flight.granted(number, grant, call.model)
        call.key = play.keys[call.model].index(grant.key)

        async def launch() -> None:
            pool, late = grant.key.pool, play.now - grant.start_at
            if late > LATEST_START or self._cooling.cool(pool) or self._cooling.cool(f"{pool}|{call.model}"):
                self._land(number, call)
                nothing = Charge(requests=0)
                await self.limiter.settle([Settlement(grant.key.buckets, grant.slot, grant.charge, nothing)])
                return
            sent, moves = put_off(grant, late)
            if moves:
                await self.limiter.settle(moves)
            play.granted.append(sent)
            self._calls_in_flight.sent(number)
            play.at(play.now + self._dice.uniform(0.8, 1.0) * ROUND_TRIP / 2, arrive)

        async def arrive() -> None:
            reply = play.server.arrive(call, play.now)
            if isinstance(reply, Refusal):
                play.at(play.awake(play.now + ROUND_TRIP / 2), functools.partial(refused, reply))
            else:
                play.at(play.now + reply, end)

        async def refused(reply: Refusal) -> None:
            await self.refused(number, grant, call, reply)
            self._land(number, call)

        async def end() -> None:
            play.server.leave(call, play.now)
            play.at(play.awake(play.now + ROUND_TRIP / 2), answered)

        async def answered() -> None:
            await self.answered(grant, call)
            self._land(number, call)

        play.at(play.awake(max(grant.start_at, play.now) + self._dice.uniform(0.0, 0.01)), launch)

    def _land(self, number: int, call: Call) -> None:
        self.in_flight -= 1
        self._calls_in_flight.over(number)
        if self._full or self._capped:
            self._full = self._capped = False
            self._slow.pop(call.model, None)
            self._play.at(self._play.awake(self._play.now + LANDING_SECONDS), self.turn)

    # What the limiter is asked and told

    async def ask(self, wants: list[Want]) -> list[Grant | Wait | TooLarge]:
        """Asks for starts."""
        self._reported_at = self._play.now
        return await self.limiter.reserve(wants, *self._calls_in_flight.report())

    async def report(self) -> None:
        """Reports calls in flight where nothing was asked for of late."""
        self._reported_at = self._play.now
        if flying := self._calls_in_flight.report()[0]:
            await self.limiter.report("p", flying)

    async def answered(self, grant: Grant, call: Call) -> None:
        """A whole answer has come."""
        for what in (grant.key.pool, f"{grant.key.pool}|{call.model}"):
            self._cooling.answered(what, grant.start_at)
        await self._headers(grant, call)

    def stated_by_server(self, call: Call) -> list[StatedLimit]:
        """The limits that a reply's headers state."""
        return self._play.server.stated(call, self._play.now)

    async def _headers(self, grant: Grant, call: Call) -> None:
        if grant.key.learns and (stated := self.stated_by_server(call)):
            await self._stated.take(grant.key, call.model, stated)

    async def refused(self, number: int, grant: Grant, call: Call, refusal: Refusal) -> None:
        """A 429 has come."""
        play, pool, model = self._play, grant.key.pool, call.model
        await self._headers(grant, call)
        what, wait = pool if refusal.named == "pool" else f"{pool}|{model}", refusal.stated
        taught = self._calls_in_flight.refused(number, refusal.failure)
        if self._cooling.cool(pool, wait or 0.0) or self._cooling.cool(what, wait or 0.0):
            if taught is not None:
                self._uncounted.setdefault((pool, model), []).append(grant.start_at)
            return
        found = await self.limiter.too_many(
            grant.key,
            wait,
            self._cooling.seconds(what, told=wait is not None),
            model=model,
            named=refusal.named,
            sent=play.now - grant.start_at,
            more=[(play.now - at, 1) for at in self._uncounted.pop((pool, model), []) if play.now - at < 60],
            refused=taught,
        )
        for one in found:
            self._cooling.cools(f"{one.pool}|{one.model}" if one.model else one.pool, one.seconds)


def simulate(
    url: str, scenario: Scenario, story: Callable[[Simulation], Awaitable[None]], *, learns: bool = True
) -> Simulation:
    """Plays a scenario against the Redis at `url`, which is emptied; `story` lets time pass."""

    async def main() -> Simulation:
        async with AsyncExitStack() as stack:
            simulation = Simulation(url, scenario, stack, learns=learns)
            await simulation.begin()
            await story(simulation)
            return simulation

    return asyncio.run(main())


def played(url: str, scenario: Scenario, seconds: float, *, learns: bool = True) -> Simulation:
    """The same for so many seconds."""

    async def story(simulation: Simulation) -> None:
        await simulation.run(seconds)

    return simulate(url, scenario, story, learns=learns)
