"""`python -m tests.chaos`: plays the scenarios, prints what they came to, and exits 1 when a promise was broken.

It holds no scenario itself.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.chaos.figures import Figures
from tests.chaos.performance import Postgres, perform, perform_named, postgres
from tests.chaos.registry import BOTH, Scenario, scenarios
from tests.chaos.report import table, write_catalogue, write_table


def main() -> int:
    """The exit code: 0 when all promises were kept."""
    known = scenarios()
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description="Attacks TruckLLM and counts what is lost."
    )
    parser.add_argument("--seed", type=int, help="of all choices; a new one by default, and always printed")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of: {', '.join(known)}")
    parser.add_argument("--database", choices=BOTH, help="only this one; both by default")
    parser.add_argument("--scale", type=float, default=1.0, help="of kills and rows; 1 is the full suite")
    parser.add_argument("--jobs", type=int, default=1, help="so many runs at a time; most of them wait for limits")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="PAGE",
        help="put table and list of scenarios into this page, between its markers; with --list only the list",
    )
    parser.add_argument("--list", action="store_true", help="say what there is, and play nothing")
    options = parser.parse_args()
    if strangers := set(options.only or ()) - set(known):
        parser.error(f"no scenario {', '.join(sorted(strangers))}; there are {', '.join(known)}")
    chosen = [one for name, one in known.items() if name in (options.only or known)]
    if options.list:
        for one in chosen:
            say(f"{one.name:<24} {one.promise}")
        if options.write is not None:
            write_catalogue(options.write, chosen)
        return 0
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    say(f"seed {seed}")
    databases = [options.database] if options.database else list(BOTH)
    runs = [(one, kind) for one in chosen for kind in databases if kind in one.databases]
    began = time.monotonic()
    with postgres() as server:
        found = list(played(runs, server, seed, options.scale, options.jobs))
    say("")
    say(table(found))
    bad = [figures for figures in found if figures.promises()]
    say(f"\n{len(found)} runs in {time.monotonic() - began:.0f} s, {len(bad)} broke a promise")
    if options.write is not None:
        write_catalogue(options.write, list(known.values()))
        write_table(options.write, found, f"{COMMAND}{told(options, seed)}")
    return 1 if bad or not found else 0


def played(
    runs: Sequence[tuple[Scenario, str]], server: Postgres, seed: int, scale: float, jobs: int
) -> Iterator[Figures]:
    """Plays scenarios on databases, `jobs` at a time, and says how each went; in order."""
    urls = ["sqlite:" if kind == "sqlite" else server.new_database() for _, kind in runs]
    if jobs == 1:
        for (one, _), url in zip(runs, urls, strict=True):
            yield shown(perform(one, url, seed=seed, scale=scale), scale)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        names = [one.name for one, _ in runs]
        for figures in pool.map(perform_named, names, urls, [seed] * len(runs), [scale] * len(runs)):
            yield shown(figures, scale)


def shown(figures: Figures, scale: float) -> Figures:
    """Says how one run went; of a failure also how to repeat it."""
    broken = figures.promises()
    say(
        f"{'BROKEN' if broken else 'ok    '} {figures.scenario} on {figures.database}: {figures.kills} kills, {figures.rows} rows, "
        f"{figures.extra} extra of {figures.in_flight} in flight, {figures.seconds:.0f} s"
    )
    for sentence in [*broken, *figures.remarks]:
        say(f"       {sentence}")
    if broken:
        say(f"       again: {repeat(figures, scale)}")
    return figures


COMMAND = "make chaos ARGS="


def told(options: argparse.Namespace, seed: int) -> str:
    """The arguments of this very run, quoted for make."""
    words = [f"--seed {seed}"]
    words += [f"--only {' '.join(options.only)}"] if options.only else []
    words += [f"--database {options.database}"] if options.database else []
    words += [f"--jobs {options.jobs}"] if options.jobs > 1 else []
    words += [f"--scale {options.scale:g}"] if options.scale != 1.0 else []
    return f'"{" ".join(words)}"'


def repeat(figures: Figures, scale: float) -> str:
    """The command that plays one run again."""
    options = argparse.Namespace(only=[figures.scenario], database=figures.database, scale=scale, jobs=1)
    return f"{COMMAND}{told(options, figures.seed)}"


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
