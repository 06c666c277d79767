"""What lies on disk is its owner's alone, whatever the umask; the local Valkey is nobody else's; what others may change is told."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.config_file import load_config
from models.database import home, open_database
from models.errors import StorageError
from models.model_lists import ModelList, keep
from models.permissions import exposed
from models.request import ModelInfo
from submit import valkey
from submit.api.access import found_access
from tests.servers import wait_for

NOBODY = 65534
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(quick_cli: Cli) -> Cli:
    return quick_cli


as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may act as another user")


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Everything that is made without a word on its mode is everybody's."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def as_nobody(act: Callable[[], None]) -> int:
    """The exit code of a child that acts as another user: 0 if it could, 13 if it was denied."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            act()
            os._exit(0)
        except PermissionError:
            os._exit(13)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.usefixtures("open_umask")
def test_whatever_the_umask_the_state_folder_and_all_in_it_are_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUCKLLM_HOME", str(tmp_path / "a" / "b" / "home"))
    monkeypatch.delenv("TRUCKLLM_API_TOKEN", raising=False)
    folder = home()
    assert [mode(one) for one in (folder, folder.parent, folder.parent.parent)] == [0o700] * 3
    databases = [open_database(), open_database(f"sqlite:///{folder}/named.db")]
    for database in databases:
        with database.write() as connection:
            connection.exec_driver_sql("CREATE TABLE a (b INT)")
    keep(folder, [ModelList("a", "b", 0.0, (ModelInfo("m"),))])
    found_access()
    names = {path.name for path in folder.iterdir()}
    assert {"truckllm.db", "truckllm.db-wal", "truckllm.db-shm", "named.db", "models.json", "api-token"} <= names
    for path in folder.iterdir():
        assert mode(path) == 0o600, path
    for database in databases:
        database.close()


def test_whatever_the_umask_what_a_run_leaves_and_uses_is_private(
    start: Callable[..., subprocess.Popen[str]],
    sandbox: object,
    write_config: Callable[..., Path],
    environment: dict[str, str],
) -> None:
    folder = Path(environment["TRUCKLLM_HOME"])
    config = write_config(sandbox.url)  # type: ignore[attr-defined]
    before = os.umask(0)
    try:
        worker = start("worker", "-c", config)
    finally:
        os.umask(before)
    wait_for(lambda: (folder / "stack.json").exists() and (folder / "truckllm.db-wal").exists(), "the stack to run", 60)
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # SQLite's own files come and go
            assert mode(path) == 0o600, path
    assert mode(folder) == 0o700
    worker.terminate()
    assert worker.wait(60) == 0


@pytest.mark.usefixtures("open_umask")
def test_the_local_valkey_has_no_port_and_a_socket_for_its_owner_alone() -> None:
    folder = valkey.new_folder()
    server = valkey.server(folder)
    server.start()
    try:
        valkey.wait_for(valkey.socket_path(folder), server)
        assert mode(folder) == 0o700
        assert not mode(valkey.socket_path(folder)) & 0o077
        assert not mode(folder / "valkey.log") & 0o077
        assert server.command[server.command.index("--port") + 1] == "0"

        def connect() -> None:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(valkey.socket_path(folder)))

        connect()
        if os.getuid() == 0:
            assert as_nobody(connect) == 13
    finally:
        server.release(time.monotonic() + 30)
    assert not folder.exists()


@as_root
def test_another_user_can_read_nothing_of_the_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path, *tmp_path.parents):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o011)  # the way there is open
    monkeypatch.setenv("TRUCKLLM_HOME", str(tmp_path / "home"))
    open_database().close()
    assert as_nobody(lambda: tmp_path.stat() and None) == 0
    assert as_nobody(lambda: os.listdir(tmp_path / "home") and None) == 13
    assert as_nobody(lambda: (tmp_path / "home" / "truckllm.db").read_bytes() and None) == 13


@as_root
def test_a_state_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs").mkdir(mode=0o777)
    os.chmod(tmp_path / "theirs", 0o777)
    os.chown(tmp_path / "theirs", 4711, 4711)
    monkeypatch.setenv("TRUCKLLM_HOME", str(tmp_path / "theirs"))
    monkeypatch.setattr(os, "getuid", lambda: NOBODY)
    with pytest.raises(StorageError, match="belongs to another user .4711.: set TRUCKLLM_HOME"):
        home()


def test_what_others_may_change_is_told_with_the_way_out(tmp_path: Path) -> None:
    config, folder = tmp_path / "truckllm.yaml", tmp_path / "home"
    assert exposed(config, folder) == []
    config.write_text("a")
    folder.mkdir(mode=0o700)
    config.chmod(0o644)
    assert exposed(config, folder) == []
    config.chmod(0o664)
    folder.chmod(0o777)
    assert exposed(config, folder) == [
        (f"others can change {config}: they could send your keys and prompts elsewhere", f"chmod go-w {config}"),
        (f"others can change {folder}: they could change your jobs", f"chmod go-w {folder}"),
    ]


def test_run_worker_and_doctor_warn_of_a_configuration_that_others_may_change(
    cli: Cli, sandbox: object, write_config: Callable[..., Path], write_lines: Callable[..., Path]
) -> None:
    config = write_config(sandbox.url)  # type: ignore[attr-defined]
    config.chmod(0o666)
    load_config(config, secrets=True)
    warning = f"others can change {config}"
    assert warning in cli("doctor", "-c", config).stdout
    assert warning in cli("run", write_lines([{"model": "x"}]), "-c", config).stderr
    refused = cli("worker", "-c", config, "--provider", "nobody")
    assert warning in refused.stderr
    assert refused.returncode == 2


def test_an_api_token_that_others_can_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUCKLLM_HOME", str(tmp_path))
    monkeypatch.delenv("TRUCKLLM_API_TOKEN", raising=False)
    found_access()
    (tmp_path / "api-token").chmod(0o644)
    with pytest.raises(StorageError, match="others can read the token"):
        found_access()
