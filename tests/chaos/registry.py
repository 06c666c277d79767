"""The scenarios of the suite, by name: every module in `scenarios/` adds its own with `@scenario`.

It runs none; `tests.chaos.performance` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tests.chaos.ground import Ground

BOTH = ("sqlite", "postgresql")


@dataclass(frozen=True, slots=True)
class Scenario:
    """`play` sets the ground up, attacks it, and returns when all is done; the numbers are taken after it."""

    name: str
    play: Callable[[Ground], None]
    databases: tuple[str, ...]
    short: float | None
    """Its scale in `make test`; None: only in the full suite."""
    short_on: str
    """The database it stands on in `make test`."""

    @property
    def promise(self) -> str:
        """What it shows: the first line of its docstring."""
        return (self.play.__doc__ or "").strip().splitlines()[0]


_SCENARIOS: dict[str, Scenario] = {}


def scenario(
    name: str, *, databases: tuple[str, ...] = BOTH, short: float | None = None, short_on: str | None = None
) -> Callable[[Callable[[Ground], None]], Callable[[Ground], None]]:
    """Adds a function to the suite. Names are kebab-case nouns."""

    def add(play: Callable[[Ground], None]) -> Callable[[Ground], None]:
        assert name not in _SCENARIOS, f"two scenarios are called {name}"
        assert play.__doc__, f"scenario {name} doesn't say what it shows"
        _SCENARIOS[name] = Scenario(name, play, databases, short, short_on or databases[0])
        return play

    return add


def scenarios() -> dict[str, Scenario]:
    """All of them, in order of their files and places."""
    for path in sorted((Path(__file__).parent / "scenarios").glob("*.py")):
        if path.stem != "__init__":
            import_module(f"tests.chaos.scenarios.{path.stem}")
    return dict(_SCENARIOS)
