"""The command line, as a person or a script meets it: exit codes, help, and what it does not import."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import truckllm
from tests.submit.cli.reading import Cli


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("submit", "nothing.jsonl"), "No such file"),
        (("submit",), "Missing argument"),
        (("status", "99"), "no batch 99"),
        (("jobs", "99"), "no batch 99"),
        (("results", "99"), "no batch 99"),
        (("rerun", "99"), "no batch 99"),
        (("cancel", "99"), "no batch 99"),
        (("costs", "--batch", "99"), "no batch 99"),
        (("costs", "--by", "colour"), "provider, model, key, batch, day"),
        (("status", "--watch"), "--watch needs a BATCH"),
        (("status", "-c", "nowhere.yaml"), "nowhere.yaml"),
        (("nonsense",), "No such command"),
        (("db", "downgrade"), "downgrade"),
    ],
)
def test_bad_usage_ends_with_2_and_a_sentence(command: Cli, arguments: tuple[str, ...], message: str) -> None:
    run = command(*arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_a_database_that_is_down_ends_with_4(cli: Cli, prompts: Path) -> None:
    url = "postgresql://someone:hunter2@127.0.0.1:1/none"
    for command in (("status",), ("submit", prompts)):
        run = cli(*command, TRUCKLLM_DATABASE_URL=url)
        assert run.returncode == 4
        assert "hunter2" not in run.stderr + run.stdout
        assert "Traceback" not in run.stderr


def test_db_upgrade_makes_the_schema_and_may_be_repeated(command: Cli, postgres_url: str) -> None:
    missing = command("status", TRUCKLLM_DATABASE_URL=postgres_url)
    assert missing.returncode == 4
    assert "truckllm db upgrade" in missing.stderr
    for _ in range(2):
        assert command("db", "upgrade", TRUCKLLM_DATABASE_URL=postgres_url).returncode == 0
    assert command("status", TRUCKLLM_DATABASE_URL=postgres_url).returncode == 0


def test_commands_that_only_look_need_no_configuration(command: Cli, config: Path) -> None:
    config.unlink()
    for name in ("status", "workers", "costs"):
        assert command(name).returncode == 0
    assert command("keys").returncode == 2


def test_help_lists_every_command_and_each_has_help_and_a_config_option(command: Cli) -> None:
    listed = command("--help").stdout
    for name, (target, _) in truckllm._COMMANDS.items():
        assert f"\n  {name} " in listed
        if target.startswith("submit.") and name != "demo":
            assert "--config" in command(name, "--help").stdout, name
    assert command("--version").stdout.startswith("truckllm 0.")


def test_help_calls_values_by_what_they_are(command: Cli) -> None:
    for name, (target, _) in truckllm._COMMANDS.items():
        options = command(name, "--help").stdout.partition("Options:")[2]
        if target.startswith("submit."):
            assert not {"<int", "<str>", "<float", "<path>", "INTEGER"} & set(options.split()), name
    assert "--limit N" in command("run", "--help").stdout
    assert "upgrade" in command("db", "--help").stdout.split("\n\n")[0]


def test_status_imports_nothing_that_only_workers_need(cli: Cli, prompts: Path, tmp_path: Path) -> None:
    cli("submit", prompts)
    script = """
import sys
import truckllm
sys.argv = ["truckllm", "status"]
try:
    truckllm.main()
except SystemExit as end:
    assert end.code == 0, end.code
print(sorted({name.partition(".")[0] for name in sys.modules} & {"celery", "kombu", "redis", "httpx", "aiohttp", "alembic", "worker"}))
"""
    run = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "TRUCKLLM_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stdout.splitlines()[-1] == "[]"
    assert "prompts.jsonl" in run.stdout


def test_streams_that_are_closed_or_lack_a_letter_fail_no_command(cli: Cli, prompts: Path, tmp_path: Path) -> None:
    cli("submit", prompts, "--name", "ñandú")
    environment = {**os.environ, "TRUCKLLM_HOME": str(tmp_path / "home")}
    command = f"{shlex.quote(sys.executable)} -P -m truckllm"
    closed = f"{command} status --json >&- 2>&- <&-"
    assert subprocess.run(["sh", "-c", closed], cwd=tmp_path, env=environment, timeout=60).returncode == 0
    heard = subprocess.run(
        ["sh", "-c", f"{command} run - <&-"],
        cwd=tmp_path,
        env=environment | {"OPENAI_CANARY": "x" * 8},
        timeout=60,
        stderr=-1,
    )
    assert heard.returncode == 2
    assert b"stdin is empty" in heard.stderr
    ascii_only = cli("status", PYTHONIOENCODING="ascii")
    assert (ascii_only.returncode, "\\xf1and\\xfa" in ascii_only.stdout) == (0, True)


def test_a_users_own_modules_do_not_shadow_ours(cli: Cli, tmp_path: Path) -> None:
    for name in ("models", "submit", "worker"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')")
    assert cli("status").returncode == 0


def test_an_interrupted_command_ends_with_130(
    cli: Cli, prompts: Path, start: Callable[..., Any], tmp_path: Path
) -> None:
    import signal

    from tests.servers import wait_for

    cli("submit", prompts)
    process = start("status", 1, "--watch")
    wait_for(lambda: "batch 1 queued" in (tmp_path / "process0.output").read_text(), "the first line of the view")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert "Traceback" not in (tmp_path / "process0.output").read_text()
