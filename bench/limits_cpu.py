"""The processor time of the limiter, with limits that are fixed and with limits that are learned: of Redis and of a worker, for 1,000 grants.

Servers are played in virtual time (`limits_simulated.py`), each pair in turns of a few simulated seconds with a Redis of its own, so that
whatever else goes on concerns both alike. A row's ratio compares both sides' processor time in sum; the goal is at most 1.05. Counting
begins when the limit has been found.

    python bench/limits_cpu.py [--rows right] [--seconds 400] [--turn 5] [--repeat 5]
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.servers import Valkey
from tests.worker.limits.servers import Call, Latency, Scenario
from tests.worker.limits.simulated import Client, Simulation

FOUND_SECONDS = 120.0
"""Simulated seconds in which a limit is found."""

BESIDE = Scenario({"rpm": 1500}, {"requests": 1500}, concurrency=512)
PAIRS: dict[str, tuple[Scenario, Scenario]] = {
    "right": (BESIDE, BESIDE),
    "right, requests and tokens, 5 keys": (
        Scenario({"rpm": 300, "tpm": 60_000}, {"requests": 300, "tokens": 60_000}, keys=5, prompt=(20, 400)),
        Scenario({"rpm": 300, "tpm": 60_000}, {"requests": 300, "tokens": 60_000}, keys=5, prompt=(20, 400)),
    ),
    "learned rate": (BESIDE, Scenario({"rpm": 1500}, {"requests": 3000}, concurrency=512)),
    "learned calls in flight": (
        Scenario({"rpm": 1500}, {"requests": 1500}, latency=Latency(1.0)),
        Scenario({"concurrent": 25}, {"requests": 6000}, latency=Latency(1.0)),
    ),
}
"""Pairs: fixed limits as the server enforces them, and the same limits learned."""


@dataclass
class Spent:
    """Processor seconds of the worker's share, and what they were spent for."""

    worker: float = 0.0
    redis: float = 0.0
    calls: int = 0
    grants: int = 0

    @property
    def total(self) -> float:
        return self.worker + self.redis


class Measured(Client):
    """A client whose use of the limiter is measured. Nothing else runs meanwhile."""

    spent: Spent | None = None

    async def _measured(self, what: Any) -> Any:
        if self.spent is None:
            return await what
        begin = time.process_time()
        try:
            return await what
        finally:
            self.spent.worker += time.process_time() - begin
            self.spent.calls += 1

    def stated_by_server(self, call: Call) -> Any:
        """The server's own part, which is no cost of the limiter's."""
        begin = time.process_time()
        stated = super().stated_by_server(call)
        if self.spent is not None:
            self.spent.worker -= time.process_time() - begin
        return stated

    async def ask(self, *args: Any) -> Any:
        return await self._measured(super().ask(*args))

    async def report(self) -> None:
        await self._measured(super().report())

    async def answered(self, *args: Any) -> None:
        await self._measured(super().answered(*args))

    async def refused(self, *args: Any) -> None:
        await self._measured(super().refused(*args))


class Side:
    """One of two that are compared."""

    def __init__(self, valkey: Valkey, scenario: Scenario, stack: AsyncExitStack, learns: bool) -> None:
        self.spent = Spent()
        self._valkey = valkey
        self._play = Simulation(valkey.url, scenario, stack, learns=learns, client=Measured)

    async def begin(self) -> None:
        await self._play.begin()
        await self._play.run(FOUND_SECONDS)

    async def turn(self, seconds: float) -> None:
        for one in self._play.clients:
            one.spent = self.spent  # type: ignore[attr-defined]
        grants, before = len(self._play.granted), self._redis()
        await self._play.run(seconds)
        self.spent.redis += self._redis() - before
        self.spent.grants += len(self._play.granted) - grants

    def _redis(self) -> float:
        with self._valkey.client() as client:
            info: dict[str, Any] = client.info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


async def compare(name: str, options: argparse.Namespace, valkeys: tuple[Valkey, Valkey]) -> None:
    ratios = []
    for _ in range(options.repeat):
        async with AsyncExitStack() as stack:
            fixed, learned = (
                Side(valkey, scenario, stack, learns)
                for valkey, scenario, learns in zip(valkeys, PAIRS[name], (False, True), strict=True)
            )
            await fixed.begin()
            await learned.begin()
            for number in range(int(options.seconds / options.turn)):
                for side in (fixed, learned) if number % 2 else (learned, fixed):
                    await side.turn(options.turn)
        per = [side.spent.total / max(1, side.spent.grants) for side in (fixed, learned)]
        ratios.append(per[1] / per[0])
        for label, side in (("fixed", fixed), ("learn", learned)):
            spent, scale = side.spent, 1e6 / max(1, side.spent.grants)
            print(
                f"{name:<36} {label}  Redis {spent.redis * scale:7.1f} ms, worker {spent.worker * scale:7.1f} ms for 1,000"
                f" grants  ({spent.grants} grants, {spent.calls} calls)",
                flush=True,
            )
    print(
        f"{name:<36} ratio  {statistics.median(ratios):.3f}  of {', '.join(f'{one:.3f}' for one in ratios)}", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--seconds", type=float, default=400, help="simulated seconds that are measured")
    parser.add_argument("--turn", type=float, default=5, help="simulated seconds until the other side's turn")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    valkeys = (Valkey(), Valkey())
    try:
        for name in options.rows:
            asyncio.run(compare(name, options, valkeys))
    finally:
        for valkey in valkeys:
            valkey.close()


if __name__ == "__main__":
    main()
