"""Plays servers in virtual time against the limiter's own scripts, and prints how rate, calls in flight and refusals go.

Five minutes take about a second. The servers are those of the property tests (`tests/worker/limits/servers.py`): one that a seed draws,
or one that is described, or both.

    python bench/limits_simulated.py rpm=300 configured.requests=600 workers=4
    python bench/limits_simulated.py concurrent=8 retry_after=none latency=1 --seconds 120 --step 2
    python bench/limits_simulated.py --seed 17 window=fixed --state
    python bench/limits_simulated.py rpm=300 --raise 200:rpm=900 --seconds 600
    python bench/limits_simulated.py --seeds 1 40
    python bench/limits_simulated.py --table [learn half slow] [--workers 1 8]

Fields are those of a sandbox account's limits (`rpm`, `tpm`, `concurrent`, `window`, `counts`, `burst_seconds`, `retry_after`, `headers`,
`refusals_count`, `enforced`, `models`), of a scenario (`workers`, `keys`, `concurrency`, `models`, `prompt`, `output`, `max_tokens`, `stray`, `stalls`,
`provider`, `configured.requests`, `configured.tokens`), and `latency`, `latency.kind`, `latency.above`, `latency.beyond`,
`latency.growth`. `model_limits={...}` are limits by model. `--table` plays the rows of `bench/limits.py`, with the same columns.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import limits
import yaml
from limits_rows import DEFAULT_ROWS, GROUPS, OUTPUT_TOKENS, ROWS, Row

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.servers import Valkey
from tests.worker.limits.servers import Latency, Scenario, drawn
from tests.worker.limits.simulated import SERVER_FIRST, Simulation, played
from worker.sandbox.quotas import key_name

CONVERGED = 120.0
"""Seconds after which a limit should have been found."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "fields", nargs="*", metavar="FIELD=VALUE", help="what the server, its clients and the configuration are"
    )
    parser.add_argument("--seed", type=int, help="draws a server; fields replace its own")
    parser.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "LAST"), help="draws servers: one line each")
    parser.add_argument("--table", nargs="*", choices=[*GROUPS, *ROWS], metavar="ROW", help="plays rows of limits.py")
    parser.add_argument(
        "--stalls", type=float, default=0.0, help="of the rows of --table: seconds for which the machine stands still"
    )
    parser.add_argument("--workers", type=int, nargs="+", help="of the rows of --table, instead of their own")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--step", type=float, default=5, help="seconds of a line")
    parser.add_argument(
        "--raise", dest="changes", nargs="+", default=[], metavar="AT:FIELD=VALUE", help="other limits from then on"
    )
    parser.add_argument("--fixed", action="store_true", help="nothing is learned")
    parser.add_argument("--state", action="store_true", help="shows what is learned, at each line")
    options = parser.parse_args()
    logging.basicConfig(
        level=logging.CRITICAL if options.seeds or options.table is not None else logging.WARNING,
        format="# %(message)s",
    )
    fields = dict(parsed(one) for one in options.fields)
    valkey = Valkey()
    try:
        if options.table is not None:
            table(valkey.url, options)
        elif options.seeds is not None:
            numbers = range(options.seeds[0], options.seeds[1] + 1)
            good = [asyncio.run(summary(valkey.url, one, scenario_of(fields, one), options)) for one in numbers]
            print(f"{sum(good)} of {len(good)} refuse at most 1 % after second {CONVERGED:g}")
        else:
            asyncio.run(timeline(valkey.url, scenario_of(fields, options.seed), options))
    finally:
        valkey.close()


def parsed(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SystemExit(f"{text}: a field is NAME=VALUE")
    return name, yaml.safe_load(value)


def scenario_of(fields: dict[str, Any], seed: int | None) -> Scenario:
    scenario = Scenario({}) if seed is None else drawn(seed)
    latency, enforced = scenario.latency, dict(scenario.limits)
    configured: dict[Any, Any] = dict(scenario.configured)
    own: dict[str, Any] = {}
    for name, value in fields.items():
        first, _, rest = name.partition(".")
        if first == "latency":
            latency = replace(latency, **{rest or "mean": value})
        elif first == "configured":
            configured[rest] = value
            if value is None:
                del configured[rest]
        elif name == "model_limits":
            enforced["models"] = value
        elif name in Scenario.__dataclass_fields__ and name != "limits":
            own[name] = tuple(value) if isinstance(value, list) else value
        else:
            enforced[name] = value
    if isinstance(own.get("models"), str):
        own["models"] = (own["models"],)
    enforced = {name: value for name, value in enforced.items() if value is not None}
    return replace(scenario, limits=enforced, configured=configured, latency=latency, **own)


def changes_of(texts: Sequence[str]) -> list[tuple[float, dict[str, Any]]]:
    found = []
    for text in texts:
        at, _, field = text.partition(":")
        found.append((float(at), dict([parsed(field)])))
    return sorted(found, key=lambda one: one[0])


async def play(
    url: str, scenario: Scenario, options: argparse.Namespace, each: Callable[[Simulation, float], Any] | None = None
) -> Simulation:
    async with AsyncExitStack() as stack:
        simulation = Simulation(url, scenario, stack, learns=not options.fixed)
        await simulation.begin()
        changes = changes_of(options.changes)
        while simulation.seconds < options.seconds:
            while changes and changes[0][0] <= simulation.seconds:
                simulation.server.change(simulation.now, **changes.pop(0)[1])
            await simulation.run(min(options.step, options.seconds - simulation.seconds))
            if each is not None:
                await each(simulation, options.step)
        return simulation


async def timeline(url: str, scenario: Scenario, options: argparse.Namespace) -> None:
    possible = scenario.possible
    print(scenario)
    print(f"the server takes {possible:.2f} calls/s, about {possible * scenario.mean_tokens:.0f} tokens/s")
    print("    until     asked     taken   share    429  in flight (most)  refused for")

    async def each(simulation: Simulation, step: float) -> None:
        begin, end = simulation.seconds - step, simulation.seconds
        mine = [one for one in simulation.server.seen if SERVER_FIRST + begin <= one.at < SERVER_FIRST + end]
        refused: dict[str, int] = {}
        for one in mine:
            if one.refused is not None:
                refused[one.refused] = refused.get(one.refused, 0) + 1
        result = simulation.server.between(SERVER_FIRST + begin, SERVER_FIRST + end)
        flying = [one.in_flight for one in mine] or [simulation.server.in_flight]
        print(
            f"{end:7.0f} s {len(mine) / step:7.2f}/s {result.taken / step:7.2f}/s {simulation.share(begin, end):7.1%}"
            f" {result.refused_share:6.1%} {simulation.server.in_flight:10d} {max(flying):6d}"
            f"  {', '.join(f'{n} × {what}' for what, n in refused.items())}"
        )
        if options.state:
            for pool, learned in (await simulation.learned()).items():
                print(f"          {pool}: {shown(learned)}")

    simulation = await play(url, scenario, options, each)
    print(line(simulation, options.seconds))


async def summary(url: str, seed: int, scenario: Scenario, options: argparse.Namespace) -> bool:
    """Prints a line; returns whether few calls are refused in the end."""
    simulation = await play(url, scenario, options)
    late = simulation.server.between(SERVER_FIRST + CONVERGED, SERVER_FIRST + options.seconds)
    good = late.refused <= max(3, 0.01 * (late.taken + late.refused))
    print(f"{seed:4d} {'  ' if good else '!!'} {line(simulation, options.seconds)}  {scenario}", flush=True)
    return good


# The rows of limits.py


def table(url: str, options: argparse.Namespace) -> None:
    """Plays rows of `limits.py` and prints its columns."""
    named = [name for one in options.table or DEFAULT_ROWS for name in GROUPS.get(one, [one])]
    print(limits.HEAD)
    found = []
    for name in dict.fromkeys(named):
        for workers in options.workers or ROWS[name].workers:
            figures = row_figures(url, name, workers, options.stalls)
            found.append(figures)
            print(limits.line(figures), flush=True)
    print(f"{sum(one.verdict == 'ok' for one in found)} of {len(found)} reach what is asked")


def row_figures(url: str, name: str, workers: int, stalls: float) -> limits.Figures:
    scenario = replace(row_scenario(ROWS[name], workers), stalls=stalls)
    sides = [True, False] if ROWS[name].kind == "unlimited" else [True]
    logs = [calls_of(played(url, scenario, 120, learns=learns), ROWS[name]) for learns in sides]
    first = min(call["at"] for call in logs[0])
    window, spent = (first + 30, first + 120), limits.Spent(0.0, 0.0, 0.0)
    if len(logs) > 1:
        return limits.compared(name, workers, logs, window, spent)
    return limits.figures(name, workers, logs[0], first, window, spent)


def row_scenario(row: Row, workers: int) -> Scenario:
    """The row's server and clients, in virtual time."""

    def units(configured: Mapping[str, Any]) -> dict[Any, int]:
        return {UNITS[name]: limit for name, limit in configured.items() if name in UNITS}

    load = row.sandbox.get("load", {})
    latency = Latency(
        row.latency,
        "lognormal" if row.sandbox.get("jitter") else "constant",
        load.get("above", 0),
        load.get("latency"),
        load.get("growth", 0.0),
    )
    return Scenario(
        row.enforced,
        units(row.configured),
        {model: units(own) for model, own in row.configured.get("models", {}).items()},
        latency=latency,
        keys=row.keys,
        workers=workers,
        concurrency=row.concurrency_of(workers),
        models=row.models,
        prompt=row.prompt_tokens,
        output=OUTPUT_TOKENS,
        max_tokens=row.max_tokens,
        provider=row.provider,  # type: ignore[arg-type]
    )


UNITS = {"limit_req_per_min": "requests", "limit_tokens_per_min": "tokens"}


def calls_of(simulation: Simulation, row: Row) -> list[limits.Call]:
    """The calls as the sandbox would log them."""
    return [
        {
            "at": one.at,
            "mono": one.at,
            "limited": one.refused is not None,
            "key_id": key_name(limits.secret(row, one.key)),
            "model": one.model,
            "booked_tokens": one.tokens,
            "output_tokens": OUTPUT_TOKENS,
            "finished_at": one.ended,
            "status": 429 if one.refused else 200,
        }
        for one in simulation.server.seen
    ]


def line(simulation: Simulation, seconds: float) -> str:
    parts = [(begin, min(end, seconds)) for begin, end in ((0, 30), (30, 120), (120, seconds)) if begin < seconds]
    return "; ".join(
        f"{begin:g}-{end:g} s: {simulation.share(begin, end):6.1%}, 429 {simulation.refused(begin, end):6.2%}"
        for begin, end in parts
        if end > begin
    )


def shown(value: Any) -> str:
    """Returns what is learned, with short numbers."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{shown(name)}: {shown(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value)) + "]"
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float):
        return f"{value - SERVER_FIRST:.1f}s" if value > SERVER_FIRST / 2 else f"{value:.4g}"
    return str(value)


if __name__ == "__main__":
    main()
