"""`truckllm doctor`: finds what is wrong, says what to do, changes nothing and tells no secret."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from models.config_file import load_config
from models.database import open_database
from models.learning import fingerprints
from models.store import keys as key_store
from models.store import learned
from models.store.learned import Learned
from models.tables import key_states
from tests.conftest import SECRETS

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(quick_cli: Cli) -> Cli:
    return quick_cli


@pytest.fixture
def findings(cli: Cli) -> Callable[..., tuple[int, dict[str, dict[str, Any]]]]:
    """Runs it; the exit code and the findings by what was looked at."""

    def ask(*arguments: object, **env: str) -> tuple[int, dict[str, dict[str, Any]]]:
        done = cli("doctor", "--json", *arguments, **env)
        told = json.loads(done.stdout)
        assert told["ok"] == (done.returncode == 0)
        return done.returncode, {finding["what"]: finding for finding in told["findings"]}

    return ask


def test_a_sound_setup_is_fine_and_stays_untouched(
    findings: Any, sandbox: Any, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    code, found = findings("-c", write_config(sandbox.url))
    assert code == 0
    assert found["broker"]["message"].startswith("no redis_url: the local stack, on valkey-server")
    assert {found[what]["state"] for what in ("configuration", "environment", "database", "broker")} == {"ok"}
    assert not (tmp_path / "home").exists()
    assert sandbox.summary()["calls"] == 0


def test_without_a_configuration_it_says_how_to_make_one(findings: Any) -> None:
    code, found = findings()
    assert code == 2
    assert "truckllm init" in found["configuration"]["message"]


def test_a_missing_variable_is_named(findings: Any, sandbox: Any, write_config: Callable[..., Path]) -> None:
    keys = {"claude": [{"id": "cl-1", "secret": "${NOBODY_SET_THIS}"}]}
    code, found = findings("-c", write_config(sandbox.url, keys=keys))
    assert code == 2
    assert "NOBODY_SET_THIS" in found["environment"]["message"]


def test_a_dialect_that_nobody_speaks_is_an_error(
    findings: Any, sandbox: Any, write_config: Callable[..., Path]
) -> None:
    code, found = findings("-c", write_config(sandbox.url, settings={"claude": {"type": "klingon"}}))
    assert code == 2
    assert "no provider plugin claims the type 'klingon'" in found["providers[2] (claude)"]["message"]


def test_a_redis_that_does_not_answer_is_an_error_without_its_password(
    findings: Any, cli: Cli, sandbox: Any, write_config: Callable[..., Path]
) -> None:
    config = write_config(sandbox.url, redis_url="redis://user:canary-password@127.0.0.1:1/0")
    code, found = findings("-c", config)
    assert code == 2
    assert found["broker"]["state"] == "error"
    done = cli("doctor", "-c", config)
    assert "canary-password" not in done.stdout + done.stderr


def test_a_redis_that_forgets_when_it_is_full_is_a_warning(
    findings: Any, sandbox: Any, valkey: Any, write_config: Callable[..., Path]
) -> None:
    config = write_config(sandbox.url, redis_url=valkey.url)
    assert findings("-c", config)[1]["broker"]["state"] == "ok"
    valkey.client().config_set("maxmemory-policy", "allkeys-lru")
    code, found = findings("-c", config)
    assert (code, found["broker"]["state"]) == (0, "warning")
    assert "noeviction" in found["broker"]["todo"]


def test_an_empty_postgres_is_an_error_until_it_is_upgraded(
    findings: Any, cli: Cli, sandbox: Any, postgres_url: str, write_config: Callable[..., Path]
) -> None:
    config = write_config(sandbox.url, database_url=postgres_url)
    code, found = findings("-c", config)
    assert code == 2
    assert found["database"]["todo"] == "run `truckllm db upgrade`"
    assert cli("db", "upgrade", "-c", config).returncode == 0
    assert findings("-c", config)[0] == 0


def test_a_configuration_with_keys_in_it_that_others_can_read_is_a_warning(
    findings: Any, sandbox: Any, write_config: Callable[..., Path]
) -> None:
    config = write_config(sandbox.url)
    config.chmod(0o644)
    assert findings("-c", config)[1]["files"]["message"] == f"others can read {config}"
    config.chmod(0o600)
    assert findings("-c", config)[1]["files"]["state"] == "ok"


def test_keys_are_asked_about_only_when_told_to_and_never_with_a_job(
    findings: Any, sandbox: Any, write_config: Callable[..., Path]
) -> None:
    config = write_config(sandbox.url)
    sandbox.faults({"kind": "key_invalid", "provider": "openai"})
    code, found = findings("-c", config, "--keys")
    assert code == 2
    assert found["key openai/openai-1"]["state"] == "error"
    assert found["key claude/claude-1"]["message"].startswith("accepted")
    assert findings("-c", config)[0] == 0


def test_it_tells_no_secret(cli: Cli, sandbox: Any, write_config: Callable[..., Path]) -> None:
    config = write_config(sandbox.url)
    sandbox.faults({"kind": "key_invalid"})
    done = cli("doctor", "--keys", "-c", config)
    assert done.returncode == 2
    assert "canary" not in done.stdout + done.stderr


def test_a_provider_without_a_live_worker_is_a_warning(
    findings: Any, sandbox: Any, valkey: Any, write_config: Callable[..., Path], tmp_path: Path, cli: Cli
) -> None:
    config = write_config(sandbox.url, redis_url=valkey.url)
    assert cli("db", "upgrade", "-c", config).returncode == 0
    code, found = findings("-c", config)
    assert (code, found["workers"]["state"]) == (0, "warning")
    assert "no live worker serves openai, gemini, claude" in found["workers"]["message"]


def test_a_key_that_is_out_of_use_is_told_with_its_way_back_until_its_secret_is_another(
    findings: Any, sandbox: Any, write_config: Callable[..., Path], tmp_path: Path, cli: Cli
) -> None:
    config = write_config(sandbox.url)
    url = f"sqlite:///{tmp_path}/keys.db"
    database = open_database(url)
    mark = key_store.fingerprint(SECRETS["openai"])
    row = {"provider": "openai", "key_id": "openai-1", "pool": "openai/openai-1", "now": time.time()}

    def told() -> dict[str, Any] | None:
        code, found = findings("-c", config, TRUCKLLM_DATABASE_URL=url)
        assert code == 0
        return found.get("keys")

    with database.write() as connection:
        key_store.quarantine(connection, **row, mark=mark, reason="refused: bad key", until=None)
    refused = told()
    assert refused is not None
    assert refused["message"].endswith("openai-1 is out of use: refused: bad key")
    assert refused["todo"] == "replace the key where its secret comes from"
    other = key_store.fingerprint("another secret")
    with database.write() as connection:
        connection.execute(sa.update(key_states).values(fingerprint=other))
    assert told() is None
    assert cli("keys", "disable", "openai/openai-1", "-c", config, TRUCKLLM_DATABASE_URL=url).returncode == 0
    disabled = told()
    database.close()
    assert disabled is not None
    assert disabled["todo"] == "`truckllm keys enable openai/openai-1`"


def test_limits_that_a_server_does_not_honour_are_named_with_what_to_set(
    findings: Any, cli: Cli, sandbox: Any, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    keys = {
        "openai": [{"id": "k1", "secret": "sk-canary-k1", "use": 0.5, "limit_req_per_min": 1200}],
        "gemini": [{"id": "k2", "secret": "sk-canary-k2"}],
    }
    config = write_config(sandbox.url, keys=keys)
    marks = fingerprints(load_config(config, secrets=False).providers)
    database = open_database(url := f"sqlite:///{tmp_path}/limits.db")

    def shown(*found: Learned) -> list[dict[str, Any]]:
        rows = [replace(one, configured=marks[one.pool] or "") for one in found]
        with database.write() as connection:
            learned.keep(connection, rows, database.now(connection))
        done = cli("doctor", "--json", "-c", config, TRUCKLLM_DATABASE_URL=url)
        assert "canary" not in done.stdout + done.stderr
        return [row for row in json.loads(done.stdout)["findings"] if "the server allows" in row["message"]]

    assert shown() == []
    lower, free = shown(Learned("openai/k1", "m", 299.7, None, 8.0), Learned("gemini/k2", "flash", 20.0))
    assert lower["state"] == "warning"
    assert lower["message"] == (
        "openai/k1, model m: the server allows about 300 requests a minute (configured 600), 8 calls at once"
    )
    assert lower["todo"] == (
        "set limit_req_per_min: 300 for m under `models`, or `truckllm keys reset-limits openai/k1` if the limit was raised"
    )
    assert (free["state"], free["todo"]) == ("ok", "")
    many = shown(*(Learned("openai/k1", f"m{n}", 30.0) for n in range(30)))
    assert len(many) < 15
    database.close()
