"""The page that states the control law names its constants as the code has them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pages import page
from worker import refusal_kinds

FOLDER = Path(__file__).parents[3] / "worker" / "limits"
COMPARED = ("SPREAD_SECONDS", "APART", "STEEP", "FEWEST")


def constants() -> dict[str, str]:
    """Constants of the Lua scripts of the law, and of the comparison of refused and taken calls, by name."""
    found: dict[str, str] = {name: f"{getattr(refusal_kinds, name):g}" for name in COMPARED}
    for file in ("ceilings.lua", "law.lua", "cool.lua", "reserve.lua"):
        for names, values in re.findall(
            r"^ *local ([A-Z_]+(?:, [A-Z_]+)*) = ([^-\n]+)", (FOLDER / file).read_text(), re.M
        ):
            values = (
                [", ".join(re.findall(r"[\d.]+", values))] if "{" in values and "," not in names else values.split(",")
            )
            found |= dict(zip(names.split(", "), (value.strip() for value in values), strict=False))
    return found


def stated() -> list[tuple[str, str]]:
    """Constants as the page states them, name by name."""
    text = page("limits.md")
    text = text[text.index("### Learned limits") : text.index("### Long waits")]
    rows = re.findall(r"^\| (`[A-Z_`, ]+`) \| ([^|]+) \|", text, re.MULTILINE)
    pairs: list[tuple[str, str]] = []
    for names, values in rows:
        of = re.findall(r"`(\w+)`", names)
        pairs += [(of[0], values.strip())] if len(of) == 1 else list(zip(of, values.strip().split(", "), strict=True))
    return pairs


@pytest.mark.parametrize(("name", "value"), stated())
def test_the_page_states_a_constant_as_it_is(name: str, value: str) -> None:
    assert constants()[name] == value


def test_the_page_states_nearly_all_constants_of_the_law() -> None:
    text = (FOLDER / "law.lua").read_text()
    law = {
        name
        for names in re.findall(r"^local ([A-Z_]+(?:, [A-Z_]+)*) = ", text, re.MULTILINE)
        for name in names.split(", ")
    }
    assert law - {name for name, _ in stated()} <= {"FEW"}
