"""`python -m tests.chaos`: plays the scenarios, prints what they came to, and exits 1 when a promise was broken.

It holds no scenario itself.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from tests.chaos.figures import Figures
from tests.chaos.performance import Postgres, perform, postgres
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
    found: list[Figures] = []
    began = time.monotonic()
    with postgres() as server:
        for one in chosen:
            for kind in (kind for kind in databases if kind in one.databases):
                found.append(play(one, kind, server, seed, options.scale))
    say("")
    say(table(found))
    bad = [figures for figures in found if figures.promises()]
    say(f"\n{len(found)} runs in {time.monotonic() - began:.0f} s, {len(bad)} broke a promise")
    if options.write is not None:
        write_catalogue(options.write, list(known.values()))
        write_table(options.write, found, f"{COMMAND}{told(options, seed)}")
    return 1 if bad or not found else 0


def play(one: Scenario, kind: str, server: Postgres, seed: int, scale: float) -> Figures:
    """Plays one, and says how it went; of a failure also how to repeat it."""
    url = "sqlite:" if kind == "sqlite" else server.new_database()
    figures = perform(one, url, seed=seed, scale=scale)
    broken = figures.promises()
    say(
        f"{'BROKEN' if broken else 'ok    '} {one.name} on {kind}: {figures.kills} kills, {figures.rows} rows, "
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
    words += [f"--scale {options.scale:g}"] if options.scale != 1.0 else []
    return f'"{" ".join(words)}"'


def repeat(figures: Figures, scale: float) -> str:
    """The command that plays one run again."""
    options = argparse.Namespace(only=[figures.scenario], database=figures.database, scale=scale)
    return f"{COMMAND}{told(options, figures.seed)}"


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
