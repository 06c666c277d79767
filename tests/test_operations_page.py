"""docs/operations.md tells of every alarm: what may be logged as a warning or an error, and what `doctor`, `run` and `status` say of trouble.

Sentences are compared by what stands fixed in the code; the prose is not judged.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "operations.md").read_text()
LOGGED = {"log.warning", "log.error", "log.exception", "log.critical"}
SAID_BY = {
    "models/permissions.py": {"exposed"},
    "models/database.py": {"check_schema", "_refuse_to_outgrow", "upgrade"},
    "models/store/budgets.py": {"takes"},
    "submit/bell.py": {"unheard"},
    "submit/obstacles.py": {"blocked", "left_open", "lost_sentence", "unserved"},
    "submit/progress.py": {"remarks"},
    "submit/pulse.py": {"look"},
    "submit/reachability.py": {"never_answered"},
    "submit/troubles.py": {"_what", ""},
    "submit/disk.py": {"disk_trouble"},
    "submit/cli/vigil.py": {"_say_what_is_lost", "_say_if_no_failover", "_say_who_is_missing", "unreadable"},
}
"""Functions whose sentences are alarms ("" is a module's own level), besides what is logged and what `doctor` finds."""

LEAST = 7
"""Letters that must stand fixed before a text counts as a sentence that can be looked up."""
PIECE = 10
"""The same for the functions above, which also hold pieces of sentences."""


@dataclass(frozen=True)
class Sentence:
    """What the code may say: fixed parts, with anything between them."""

    place: str
    parts: tuple[str, ...]

    @property
    def fixed(self) -> int:
        return sum(character.isalpha() for part in self.parts for character in part)

    @property
    def text(self) -> str:
        return "…".join(self.parts)

    def within(self, alarm: str) -> bool:
        """Whether an alarm of the page says this, perhaps among other things."""
        if any(part not in alarm for part in self.parts):
            return False  # what most do, and quicker than a search
        return re.search(".*".join(map(re.escape, self.parts)), alarm) is not None


def parts_of(node: ast.expr) -> tuple[str, ...] | None:
    """The fixed parts of a literal with its places for values: %s, {} or an f-string's; None for anything else. The page can't show
    backticks within a sentence, so they don't count."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return tuple(re.split(r"%[-\d.,]*[sdfr]|\{\}", node.value.replace("`", "")))
    if isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
        return tuple(text.replace("`", "").split("\0"))
    return None


def found_in(tree: ast.AST, place: str, least: int = LEAST) -> Iterator[Sentence]:
    """Every literal, but docstrings, that says something."""
    quiet = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    quiet |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in quiet or not isinstance(node, ast.Constant | ast.JoinedStr):
            continue
        parts = parts_of(node)
        sentence = Sentence(place, parts or ())
        if sentence.fixed >= least and " " in sentence.text and "SELECT" not in sentence.text:
            yield sentence


SOURCES = [
    (str(path.relative_to(ROOT)), ast.parse(path.read_text()))
    for room in ("models", "submit", "worker")
    for path in sorted((ROOT / room).rglob("*.py"))
    if "sandbox" not in path.parts
]


def raised() -> Iterator[Sentence]:
    """Whatever has to be on the page."""
    for name, tree in SOURCES:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                by, place = ast.unparse(node.func), f"{name}:{node.lineno}"
                logged = by in LOGGED
                state = node.args[1] if by == "Finding" and len(node.args) > 2 else None
                if logged or (isinstance(state, ast.Constant) and state.value != "ok"):
                    parts = parts_of(node.args[0 if logged else 2])
                    assert not logged or parts, f"{place} logs what can't be found on any page"
                    sentence = Sentence(place, parts or ())
                    if logged or sentence.fixed >= LEAST:  # else `doctor` shows an error as it is
                        yield sentence
            elif isinstance(node, ast.FunctionDef) and node.name in SAID_BY.get(name, ()):
                yield from found_in(node, f"{name}:{node.lineno} {node.name}", PIECE)
        if "" in SAID_BY.get(name, ()):
            for node in tree.body:
                if isinstance(node, ast.Assign):
                    yield from found_in(node, f"{name}:{node.lineno}", PIECE)


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {title}"
    return found[1]


def rows() -> Iterator[tuple[str, list[str]]]:
    """Each alarm of the page with the other cells of its row."""
    for line in section("Alarms").splitlines():
        if line.startswith("| `"):
            first, *others = (cell.strip() for cell in line.strip("|").split("|"))
            for alarm in re.findall(r"`([^`]+)`", first):
                yield alarm, others


ALARMS = [alarm for alarm, _ in rows()]
RAISED = list(raised())


@pytest.mark.parametrize("sentence", RAISED, ids=lambda sentence: re.sub(r"\W+", "-", sentence.text)[:60])
def test_an_alarm_is_on_the_page(sentence: Sentence) -> None:
    assert sentence.fixed >= LEAST, f"{sentence.place}: {sentence.text!r} has too few words of its own to be looked up"
    assert any(sentence.within(alarm) for alarm in ALARMS), f"{sentence.place}: {sentence.text}"


def test_the_page_tells_of_no_alarm_that_nobody_raises() -> None:
    said = [sentence for name, tree in SOURCES for sentence in found_in(tree, name)]
    assert [alarm for alarm in ALARMS if not any(sentence.within(alarm) for sentence in said)] == []


def test_all_that_says_alarms_is_there_and_is_read() -> None:
    for name, functions in SAID_BY.items():
        read = {sentence.place.partition(" ")[2] for sentence in RAISED if sentence.place.startswith(f"{name}:")}
        assert read >= functions, name
    assert {sentence.place.split("/")[0] for sentence in RAISED} == {"models", "submit", "worker"}


def test_an_alarm_stands_once_and_says_what_it_means_or_what_to_do() -> None:
    assert len(ALARMS) == len(set(ALARMS))
    assert [alarm for alarm, others in rows() if not any(others)] == []


def test_alerts_are_made_of_metrics_and_labels_that_there_are() -> None:
    documented = re.findall(r"^\| `(truckllm_\w+)` \| ([^|]*) \|", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    labels = {name: set(re.findall(r"\w+", text)) for name, text in documented}
    alerts = section("Alerts")
    used = set(re.findall(r"truckllm_\w+", alerts))
    assert len(used) >= 6
    assert used <= set(labels)
    readers = ("submit/api/metrics.py", "models/states.py", "models/config_fields.py")
    known = "".join((ROOT / name).read_text() for name in readers)
    for name, label, value in re.findall(r'(truckllm_\w+)\{(\w+)!?="(\w+)"\}', alerts):
        assert label in labels[name], f"{name} has no label {label}"
        assert re.search(rf'"{value}"|"limit_{value}_per_min"', known), f"{name}: {label} is never {value}"
