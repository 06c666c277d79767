"""The local stack with a real Valkey and small processes in the place of workers: owned once, joined, taken over, ended."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models import processes
from models.crew import Plan
from models.errors import StorageError, UsageError
from submit import valkey
from submit.stack import Stack, local_stack

WORKER = """
import os, signal, sys, time
home = os.environ["TRUCKLLM_HOME"]
mark = os.path.join(home, f"worker-{os.getpid()}")
signal.signal(signal.SIGTERM, lambda *_: (print("stopped", file=open(mark, "a"), flush=True), sys.exit(0)))
print(os.environ["TRUCKLLM_REDIS_URL"], file=open(mark, "a"), flush=True)
while sys.stdin.buffer.read(1):
    pass
"""

OWNER = """
import sys, time
from pathlib import Path
from models.crew import Plan
from submit.stack import local_stack
with local_stack(Path(sys.argv[1]), Plan(command=(sys.executable, "-c", sys.argv[2]))) as stack:
    print(stack.redis_url, *stack.crew.pids, flush=True)
    while not Path(sys.argv[1], "end").exists():
        stack.tick()
        time.sleep(0.02)
"""


def wait_until(true: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.01)


def answers(url: str) -> bool:
    """Whether a server is there; a machine may stand still while it is asked."""
    return valkey.answers(socket_of(url), 30.0)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def plan() -> Plan:
    return Plan(command=(sys.executable, "-c", WORKER), grace_seconds=30.0)


@pytest.fixture
def owner(home: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a process that owns the stack, until the file `end` appears; its first line is printed when it is up."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(home), WORKER],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def first_line(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def socket_of(url: str) -> Path:
    return Path(url.removeprefix("unix://"))


def worker_marks(home: Path) -> dict[int, str]:
    return {int(file.name.split("-")[1]): file.read_text() for file in home.glob("worker-*")}


def valkey_pid(url: str) -> int:
    import redis

    with redis.Redis(unix_socket_path=str(socket_of(url))) as client:
        return int(client.info("server")["process_id"])


def test_a_stack_serves_a_real_valkey_and_tells_its_workers_where_it_is(home: Path, plan: Plan) -> None:
    with local_stack(home, plan) as stack:
        assert stack.owner
        assert answers(stack.redis_url)
        [pid] = stack.crew.pids
        wait_until(lambda: worker_marks(home).get(pid, "").endswith("\n"), "the worker's mark")
        assert worker_marks(home)[pid].strip() == stack.redis_url


def test_nobody_else_can_reach_the_socket_or_read_where_it_is(home: Path, plan: Plan) -> None:
    with local_stack(home, plan) as stack:
        path = socket_of(stack.redis_url)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE((home / "stack.json").stat().st_mode) == 0o600
        assert len(os.fsencode(path)) < 104


def test_valkey_refuses_writes_rather_than_forgetting_limits(home: Path, plan: Plan) -> None:
    import redis

    with local_stack(home, plan) as stack, redis.Redis(unix_socket_path=str(socket_of(stack.redis_url))) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("port") == {"port": "0"}
        assert client.config_get("save") == {"save": ""}


def test_the_end_of_a_stack_leaves_nothing_running_and_no_folder(home: Path, plan: Plan) -> None:
    with local_stack(home, plan) as stack:
        [pid] = stack.crew.pids
        server, folder = valkey_pid(stack.redis_url), socket_of(stack.redis_url).parent
        wait_until(lambda: pid in worker_marks(home), "the worker's mark")
    assert worker_marks(home)[pid].endswith("stopped\n"), "the worker got no chance to stop"
    assert processes.started(pid) is None
    assert processes.started(server) is None
    assert not folder.exists()
    assert not (home / "stack.json").exists()


def test_kill_9_of_the_owner_ends_everything_at_once(home: Path, owner: Callable[[], subprocess.Popen[str]]) -> None:
    process = owner()
    url, pid = first_line(process)
    server, folder = valkey_pid(url), socket_of(url).parent
    process.kill()
    wait_until(
        lambda: processes.started(int(pid)) is None and processes.started(server) is None and not folder.exists(),
        "worker, server and folder gone",
    )


def test_a_second_one_joins_and_starts_nothing_of_its_own(
    home: Path, plan: Plan, owner: Callable[[], subprocess.Popen[str]]
) -> None:
    url, _ = first_line(owner())
    with local_stack(home, plan) as stack:
        assert not stack.owner
        assert stack.redis_url == url
        assert stack.crew.pids == []
    assert answers(url), "the guest's end took the owner's server with it"


def test_a_worker_command_that_joins_brings_its_own_workers(
    home: Path, owner: Callable[[], subprocess.Popen[str]]
) -> None:
    url, _ = first_line(owner())
    with local_stack(home, Plan(command=(sys.executable, "-c", WORKER), processes=2), always=True) as stack:
        assert not stack.owner
        wait_until(lambda: all(worker_marks(home).get(pid) for pid in stack.crew.pids), "the workers' marks")
        assert {worker_marks(home)[pid].strip() for pid in stack.crew.pids} == {url}
        assert len(stack.crew.pids) == 2


@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_a_guest_takes_over_when_the_owner(
    how: str, home: Path, plan: Plan, owner: Callable[[], subprocess.Popen[str]]
) -> None:
    process = owner()
    url, _ = first_line(process)
    with local_stack(home, plan) as stack:
        if how == "ends":
            (home / "end").touch()
        else:
            process.kill()
        told: list[str] = []
        wait_until(lambda: told.extend(stack.tick()) or stack.owner, "taking over")
        assert told == ["the local stack's owner has ended; this process goes on with it"]
        assert stack.redis_url != url
        assert answers(stack.redis_url)
        assert len(stack.crew.pids) == 1
        wait_until(lambda: not socket_of(url).parent.exists(), "the old folder gone")


def test_of_two_that_start_at_once_one_owns(home: Path, owner: Callable[[], subprocess.Popen[str]]) -> None:
    both = [owner(), owner()]
    lines = [first_line(process) for process in both]
    assert lines[0][0] == lines[1][0]
    assert sorted(len(line) for line in lines) == [1, 2], "exactly one has a worker"


def test_a_record_left_by_a_crash_is_not_trusted(home: Path, plan: Plan) -> None:
    folder = Path(tempfile.mkdtemp(prefix=valkey.PREFIX))
    (home / "stack.json").write_text(
        json.dumps({"folder": str(folder), "pid": os.getpid(), "pid_started": 1.0, "boot_id": "another"})
    )
    with local_stack(home, plan) as stack:
        assert stack.owner
        assert not folder.exists(), "the leftover stays"


def test_a_record_cannot_make_a_start_remove_other_folders(home: Path, plan: Plan, tmp_path: Path) -> None:
    precious = tmp_path / "truckllm-abcdefgh"
    precious.mkdir()
    (home / "stack.json").write_text(json.dumps({"folder": str(precious)}))
    with local_stack(home, plan):
        assert precious.is_dir()


def test_a_server_that_lost_its_watcher_and_its_owner_is_ended_by_the_next_start(home: Path, plan: Plan) -> None:
    folder = valkey.new_folder()
    path = valkey.socket_path(folder)
    orphan = subprocess.Popen(
        [str(valkey.server_binary()), "--port", "0", "--unixsocket", str(path), "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    wait_until(lambda: valkey.answers(path), "the orphan's answer")
    (home / "stack.json").write_text(json.dumps({"folder": str(folder)}))
    with local_stack(home, plan):
        assert orphan.wait(30) == 0
        assert not folder.exists()


def test_a_valkey_that_dies_comes_back_on_the_same_socket(home: Path, plan: Plan) -> None:
    with local_stack(home, plan) as stack:
        url, pid = stack.redis_url, valkey_pid(stack.redis_url)
        os.kill(pid, signal.SIGKILL)
        told: list[str] = []
        wait_until(lambda: told.extend(stack.tick()) or told, "the report")
        assert "the local Valkey" in told[0]
        wait_until(lambda: not stack.tick() and valkey.answers(socket_of(url)), "the server's answer")
        assert stack.redis_url == url
        assert valkey_pid(url) != pid


def test_a_server_that_lost_its_watcher_makes_room_for_the_next(home: Path, plan: Plan) -> None:
    folder = valkey.new_folder()
    path = valkey.socket_path(folder)
    orphan = subprocess.Popen(
        [str(valkey.server_binary()), "--port", "0", "--unixsocket", str(path), "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    wait_until(lambda: valkey.answers(path), "the orphan's answer")
    watcher = valkey.server(folder)
    watcher.start()
    assert orphan.wait(30) == 0
    wait_until(lambda: valkey.answers(path), "the new server's answer")
    watcher.release(time.monotonic() + 30)
    assert not folder.exists()


def test_a_worker_that_dies_is_reported_and_started_again(home: Path, plan: Plan) -> None:
    with local_stack(home, plan) as stack:
        [pid] = stack.crew.pids
        os.kill(pid, signal.SIGKILL)
        told: list[str] = []
        wait_until(lambda: told.extend(stack.tick()) or stack.crew.pids not in ([pid], []), "another worker")
        assert told == ["worker process 1 was killed by SIGKILL; it is started again"]


def test_a_worker_that_keeps_dying_is_started_less_and_less_often(home: Path, tmp_path: Path) -> None:
    plan = Plan(command=(sys.executable, "-S", "-c", "import sys; sys.exit('no luck')"), log=tmp_path / "worker.log")
    with local_stack(home, plan) as stack:
        told: list[str] = []
        start = time.monotonic()
        wait_until(lambda: told.extend(stack.tick()) or len(told) >= 3, "three deaths")
        assert time.monotonic() - start >= 1.0
        assert told[0].startswith("worker process 1 ended with exit code 1: no luck; it is started again")


def test_a_worker_that_refuses_its_configuration_ends_the_stack_with_its_reason(home: Path, tmp_path: Path) -> None:
    script = "import sys; print('error: providers[0].id is missing', file=sys.stderr); sys.exit(2)"
    plan = Plan(command=(sys.executable, "-S", "-c", script), log=tmp_path / "worker.log")
    with local_stack(home, plan) as stack, pytest.raises(UsageError, match=r"providers\[0\].id is missing"):
        wait_until(stack.tick, "the refusal")


def test_a_worker_that_does_not_stop_in_time_is_killed(home: Path) -> None:
    script = f"import os, signal, time; signal.signal(15, signal.SIG_IGN); open('{home}/deaf', 'w'); time.sleep(99)"
    with local_stack(home, Plan(command=(sys.executable, "-S", "-c", script), grace_seconds=0.2)) as stack:
        [pid] = stack.crew.pids
        wait_until((home / "deaf").exists, "a worker deaf to SIGTERM")
    assert processes.started(pid) is None


def test_workers_and_server_do_not_get_the_terminals_ctrl_c(home: Path, plan: Plan) -> None:
    with local_stack(home, plan) as stack:
        for pid in (*stack.crew.pids, valkey_pid(stack.redis_url)):
            assert os.getsid(pid) != os.getsid(0)


def test_valkey_gets_no_secrets(home: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    with local_stack(home, plan) as stack:
        server = valkey_pid(stack.redis_url)
        if sys.platform == "linux":
            assert b"sk-canary" not in Path(f"/proc/{server}/environ").read_bytes()
            assert b"sk-canary" in Path(f"/proc/{stack.crew.pids[0]}/environ").read_bytes()


def test_a_lock_that_is_held_without_a_stack_is_reported(
    home: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    monkeypatch.setattr("submit.stack.JOIN_SECONDS", 0.2)
    with (home / "stack.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="stack.lock is held by another process"):
            Stack(home, plan).start()


def test_a_long_log_is_put_aside_at_the_next_start(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.crew.LOG_BYTES", 10)
    log = home / "worker.log"
    log.write_text("more than ten bytes")
    with local_stack(home, Plan(command=(sys.executable, "-c", WORKER), log=log)):
        assert (home / "worker.log.1").read_text() == "more than ten bytes"
        assert log.stat().st_size == 0
