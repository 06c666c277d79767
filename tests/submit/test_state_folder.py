"""The state folder: any name that a file system takes, and what happens when it is deleted or replaced under a run."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from models.database import Database, open_database
from models.errors import DatabaseFileLost
from tests.servers import SandboxProcess, wait_for

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]


def lines(number: int) -> list[dict[str, Any]]:
    return [{"id": str(n), "model": "gpt-4o-mini", "prompt": f"Say {n}."} for n in range(number)]


@pytest.mark.parametrize("name", ["a?mode=memory", "100%41", "a#b&c=d", "a;b @c:d"])
def test_a_path_with_characters_of_urls_is_the_folder_that_it_names(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUCKLLM_HOME", str(tmp_path / name))
    database = open_database()
    with database.write() as connection:
        connection.execute(sa.text("CREATE TABLE here (x)"))
    database.close()
    assert (tmp_path / name / "truckllm.db").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_run_works_in_folders_with_characters_of_urls(
    cli: Cli,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    sandbox: SandboxProcess,
    tmp_path: Path,
) -> None:
    home, temporary = tmp_path / "home?a=%41", tmp_path / "t%2F?x"
    temporary.mkdir()
    write_config(sandbox.url)
    done = cli("run", write_lines(lines(3)), TRUCKLLM_HOME=str(home), TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr
    assert (home / "truckllm.db").exists()
    assert json.loads((tmp_path / "prompts.results.jsonl").read_text().splitlines()[0])["status"] == "succeeded"


@pytest.mark.parametrize("change", ["deleted", "replaced"])
def test_a_lost_file_is_an_error_until_it_is_back(change: str, tmp_path: Path) -> None:
    path = tmp_path / "truckllm.db"
    database = Database(f"sqlite:///{path}")
    with database.write() as connection:
        connection.execute(sa.text("CREATE TABLE here (x)"))
    kept = tmp_path / "kept"
    path.rename(kept)
    if change == "replaced":
        path.touch()
    for use in (database.read, database.write, database.snapshot):
        with pytest.raises(DatabaseFileLost, match=f"was {change} while in use"), use():
            pass
    kept.replace(path)
    with database.read() as connection:
        assert connection.execute(sa.text("SELECT * FROM here")).all() == []
    database.close()


@pytest.mark.full
def test_a_state_folder_deleted_under_a_run_stops_new_calls_and_is_reported(
    start: Start,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    start_sandbox: Callable[..., SandboxProcess],
    tmp_path: Path,
) -> None:
    sandbox = start_sandbox()
    key = {"id": "k", "secret": "sk-a", "limit_req_per_min": 600}
    write_config(sandbox.url, providers=["openai"], keys={"openai": [key]})
    run = start("run", write_lines(lines(5000)))
    output = tmp_path / "process0.output"
    wait_for(lambda: len(sandbox.log()) > 5, "the first calls")
    shutil.rmtree(tmp_path / "home")
    wait_for(lambda: "was deleted while in use" in output.read_text(), "the loss to be reported")
    wait_for(lambda: _stands_still(sandbox), "calls to stop")
    run.terminate()
    assert run.wait(60) != 0
    assert not (tmp_path / "home" / "truckllm.db").exists()


def _stands_still(sandbox: SandboxProcess) -> bool:
    """Returns whether no call arrives any more, at ten calls a second before."""
    before = len(sandbox.log())
    time.sleep(3)
    return len(sandbox.log()) == before
