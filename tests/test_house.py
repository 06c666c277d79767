"""The house keeps its order: imports go one way, files stay small and named for what they are, the schema is what the code says.

It reads source and asks Python; what the program does is tested room by room.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from models.database import SCHEMA, Database
from models.tables import metadata

ROOT = Path(__file__).parent.parent
ROOMS = ("models", "submit", "worker")
MAY_IMPORT = {"models": {"models"}, "submit": {"submit", "models"}, "worker": {"worker", "models"}}
NOT_IN_MODELS = {"celery", "kombu", "redis", "valkey", "httpx", "httpx_aiohttp", "aiohttp", "requests"}
LONGEST = 700
"""Lines in one file."""

VAGUE = {"util", "utils", "common", "helper", "helpers", "manager", "managers", "misc", "base_manager"}
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in a file, those inside functions and those by literal name included."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            yield node.lineno, ".".join([*start, *([node.module] if node.module else [])])
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith(("import_module", "__import__"))
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.lineno, str(node.args[0].value)


def test_there_is_source_to_read() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(ROOMS)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_go_from_submit_and_worker_to_models_and_nowhere_else(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    forbidden = ({*ROOMS, "tests", "truckllm", "bench"} - MAY_IMPORT[room]) | (
        NOT_IN_MODELS if room == "models" else set()
    )
    found = [f"line {line}: {module}" for line, module in imported(path) if module.split(".")[0] in forbidden]
    assert not found, f"{name_of(path)} reaches out of its room: {found}"


def test_importing_all_of_models_brings_in_no_network_library() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in SOURCES
        if path.is_relative_to(ROOT / "models") and "migrations" not in path.parts and path.name != "__init__.py"
    ]
    code = (
        f"import sys, importlib\nfor name in {names!r}: importlib.import_module(name)\n"
        f"print(sorted({NOT_IN_MODELS!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", [*SOURCES, *TESTS, ROOT / "truckllm.py"], ids=name_of)
def test_a_file_is_short_and_has_a_docstring_and_a_noun_for_a_name(path: Path) -> None:
    text = path.read_text()
    lines = len(text.splitlines())
    assert lines <= LONGEST, f"{name_of(path)} has {lines} lines: split it by noun"
    assert path.stem.strip("_") not in VAGUE, f"{name_of(path)}: name it for what it holds"
    documented = path in SOURCES or path.name in ("conftest.py", "truckllm.py")
    if documented and path.parent.name != "versions" and text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{name_of(path)} says nowhere what its duty is"


def test_every_table_and_column_says_what_it_holds() -> None:
    silent = [
        f"{table.name}.{column.name}"
        for table in metadata.tables.values()
        for column in table.columns
        if not column.comment
    ]
    silent += [table.name for table in metadata.tables.values() if not table.comment]
    assert not silent


def test_the_newest_migration_is_the_schema_that_the_code_asks_for() -> None:
    assert ScriptDirectory(str(ROOT / "models" / "migrations")).get_heads() == [SCHEMA]


def test_migrating_an_empty_database_gives_exactly_the_tables(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": not database.sqlite}
        )
        assert compare_metadata(context, metadata) == []


def test_a_users_own_files_cannot_take_the_place_of_ours(tmp_path: Path) -> None:
    for room in ("models", "submit", "worker", "truckllm", "redis", "yaml"):
        (tmp_path / f"{room}.py").write_text("raise SystemExit('the user\\'s own file was imported')\n")
    script = Path(sys.executable).parent / "truckllm"
    assert script.exists(), "install the project first: make test does"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for arguments in (["--version"], ["status", "--json"], ["sandbox", "--help"], ["worker", "--help"]):
        done = subprocess.run(
            [script, *arguments],
            cwd=tmp_path,
            env={**environment, "TRUCKLLM_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "user's own file" not in done.stdout + done.stderr
        assert done.returncode == 0, done.stderr


def test_processes_that_we_start_ourselves_leave_the_working_directory_off_the_path() -> None:
    """`-m truckllm` puts the working directory first on the path, unless Python is told not to."""
    started = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.List | ast.Tuple):
                words = [ast.unparse(item).strip("'\"") for item in node.elts]
                if "sys.executable" in words and "-m" in words:
                    started.append((f"{name_of(path)}:{node.lineno}", words))
    assert started
    assert [place for place, words in started if "-P" not in words and "-I" not in words] == []


def test_asking_for_the_status_does_not_import_celery(tmp_path: Path) -> None:
    code = (
        "import sys, atexit, truckllm\n"
        "atexit.register(lambda: print(sorted({name.split('.')[0] for name in sys.modules} & {'celery', 'kombu', 'aiohttp', 'httpx'})))\n"
        "sys.argv = ['truckllm', 'status', '--json']\n"
        "truckllm.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "TRUCKLLM_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
