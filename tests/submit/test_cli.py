"""The command line, as a person or a script meets it: what it prints where, its exit codes, and what it does not import."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import truckllm
from models.config_file import load_config_text
from models.database import Database, open_database
from models.store import batches
from models.store import keys as key_store
from submit.cli import app
from submit.cli.init import first_config
from tests.worker_by_hand import WorkerByHand

Cli = Callable[..., subprocess.CompletedProcess[str]]

CONFIG = """
providers:
  - {id: openai, keys: [{id: oa-1, secret: "${OPENAI_CANARY}", limit_req_per_min: 9, limit_tokens_per_min: 9}]}
  - {id: claude, keys: [{id: cl-1, pool: team, secret: "sk-canary-5b1c", limit_req_per_min: 9, limit_tokens_per_min: 9}]}
"""


@pytest.fixture(autouse=True)
def config(tmp_path: Path) -> Path:
    path = tmp_path / "truckllm.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def command(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Cli:
    """Runs a command like `cli`, but in this process, which is faster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRUCKLLM_HOME", environment["TRUCKLLM_HOME"])
    entries = {name: app.Entry(*entry) for name, entry in truckllm._COMMANDS.items()}

    def run(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
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
def stored(tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """The database that the commands use."""
    monkeypatch.setenv("TRUCKLLM_HOME", environment["TRUCKLLM_HOME"])
    database = open_database()
    yield database
    database.close()


@pytest.fixture
def prompts(write_lines: Callable[..., Path]) -> Path:
    return write_lines([{"id": f"p{n}", "prompt": f"say {n}", "model": "gpt-4o"} for n in range(4)])


def worked_on(database: Database) -> None:
    """Two jobs of the first batch succeed, one fails, one stays queued."""
    worker = WorkerByHand(database)
    first, second, third = worker.claim(3)
    worker.succeed(first, cost_nanos=1_500_000)
    worker.succeed(second, cost_nanos=None, currency=None)
    worker.fail(third, "bad_request", "it can't do that")


def loaded(run: subprocess.CompletedProcess[str]) -> Any:
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_submit_prints_only_the_batch_id_on_stdout(cli: Cli, prompts: Path) -> None:
    first = cli("submit", prompts)
    assert (first.returncode, first.stdout) == (0, "1\n")
    assert "4 jobs, enqueued" in first.stderr
    again = cli("submit", prompts)
    assert (again.returncode, again.stdout) == (0, "1\n")
    assert "found, and goes on" in again.stderr


def test_submit_json_is_documented(command: Cli, prompts: Path) -> None:
    assert loaded(command("submit", prompts, "--json")) == {"batch_id": 1, "total": 4, "found": "new", "warnings": []}


def test_submit_takes_stdin(tmp_path: Path, environment: dict[str, str]) -> None:
    run = subprocess.run(
        [sys.executable, "-P", "-m", "truckllm", "submit", "-"],
        input='{"prompt": "hi", "model": "gpt-4o"}\n',
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "1\n")


def test_bad_lines_end_with_2_and_the_first_twenty_reasons(command: Cli, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "fine", "model": "gpt-4o"}\n' + "{\n" * 25)
    run = command("submit", path)
    assert (run.returncode, run.stdout) == (2, "")
    lines = run.stderr.splitlines()
    assert "25 of 26 lines" in lines[0]
    assert "nothing was enqueued" in lines[0]
    assert lines[1].startswith("  line 2: ")
    assert len(lines) == 22
    assert lines[-1] == "  … and 5 more"
    assert loaded(command("status", "--json")) == {"batches": []}


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


def test_other_options_conflict_and_new_forces(command: Cli, prompts: Path) -> None:
    assert command("submit", prompts).returncode == 0
    other = command("submit", prompts, "--limit", 2)
    assert other.returncode == 2
    assert "batch 1" in other.stderr
    assert command("submit", prompts, "--limit", 2, "--new").stdout == "2\n"


def test_a_database_that_is_down_ends_with_4(cli: Cli, prompts: Path) -> None:
    url = "postgresql://someone:hunter2@127.0.0.1:1/none"
    for command in (("status",), ("submit", prompts)):
        run = cli(*command, TRUCKLLM_DATABASE_URL=url)
        assert run.returncode == 4
        assert "hunter2" not in run.stderr + run.stdout
        assert "Traceback" not in run.stderr


def test_status_shows_what_is_documented(command: Cli, prompts: Path, stored: Database) -> None:
    assert "no batches yet" in command("status").stderr
    command("submit", prompts)
    worked_on(stored)
    one = loaded(command("status", 1, "--json"))
    expected = {"batch_id": 1, "name": "prompts.jsonl", "total": 4, "succeeded": 2, "failed": 1, "cancelled": 0}
    assert expected.items() <= one.items()
    assert {"status": "running", "running": 0, "queued": 1, "blocked": None, "finished_at": None}.items() <= one.items()
    assert one["costs"] == {"USD": 1_500_000}
    assert one["unpriced_tokens"] == 15
    (part,) = one["providers"]
    assert (part["provider"], part["succeeded"], part["failed"], part["calls"]) == ("openai", 2, 1, 3)
    assert loaded(command("status", "--json"))["batches"][0]["batch_id"] == 1
    text = command("status", 1).stdout
    assert "batch 1 running: 3/4 done, 1 failed" in text
    assert "0.0015 USD + 15 tokens UNPRICED" in text
    assert "prompts.jsonl" in command("status").stdout


def test_status_watch_ends_with_the_batch_and_its_exit_code(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    worked_on(stored)
    worker = WorkerByHand(stored)
    worker.succeed(worker.claim()[0])
    run = command("status", 1, "--watch", "--json")
    assert run.returncode == 1
    assert json.loads(run.stdout)["status"] == "completed"
    assert "batch 1 completed: 4/4 done, 1 failed" in run.stderr


def test_status_watch_gives_a_blocked_batch_up_with_3(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    with stored.write() as connection:
        key_store.quarantine(
            connection, provider="openai", key_id="oa-1", mark="m", pool="p", reason="refused", now=1.0, until=None
        )
    run = command("status", 1, "--watch")
    assert run.returncode == 3
    assert "no usable key: openai/oa-1: refused" in run.stderr


def test_jobs_are_listed_in_input_order_and_by_status(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    worked_on(stored)
    found = loaded(command("jobs", 1, "--json"))["jobs"]
    assert [(job["id"], job["status"]) for job in found] == [
        ("p0", "succeeded"),
        ("p1", "succeeded"),
        ("p2", "failed"),
        ("p3", "queued"),
    ]
    (failed,) = loaded(command("jobs", 1, "--status", "failed", "--json"))["jobs"]
    assert failed["error"] == {"code": "bad_request", "message": "it can't do that"}
    assert (failed["position"], failed["lane"], failed["provider"], failed["attempts"]) == (2, "openai", "openai", 1)
    text = command("jobs", 1, "--limit", 3)
    assert "bad_request: it can't do that" in text.stdout
    assert "--limit" in text.stderr


def test_results_so_far_and_final(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    worked_on(stored)
    so_far = command("results", 1)
    assert so_far.returncode == 0
    assert "1 not done yet" in so_far.stderr
    lines = prompts.with_name("prompts.results.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["succeeded", "succeeded", "failed", "queued"]
    printed = command("results", 1, "-o", "-")
    assert printed.stdout.splitlines() == lines
    assert loaded(command("results", 1, "-o", "x.jsonl", "--json")) == {
        "path": "x.jsonl",
        "lines": 4,
        "succeeded": 2,
        "failed": 1,
        "cancelled": 0,
        "unfinished": 1,
    }


def test_cancel_stops_what_waits_and_keeps_what_is_done(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    worked_on(stored)
    run = command("cancel", 1)
    assert run.returncode == 0
    assert "1 jobs cancelled" in run.stderr
    one = loaded(command("status", 1, "--json"))
    assert (one["status"], one["succeeded"], one["failed"], one["cancelled"]) == ("cancelled", 2, 1, 1)
    assert one["finished_at"] is not None
    again = command("cancel", 1)
    assert again.returncode == 2
    assert "ended already" in again.stderr


def test_a_cancel_that_was_interrupted_can_be_repeated(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    with stored.write() as connection:
        assert batches.cancel(connection, 1)
    assert "4 jobs cancelled" in command("cancel", 1).stderr
    assert loaded(command("status", 1, "--json"))["cancelled"] == 4


def test_rerun_takes_only_failed_jobs_and_keeps_the_results(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    worker = WorkerByHand(stored)
    for job in worker.claim(3):
        worker.succeed(job)
    worker.fail(worker.claim()[0])
    assert loaded(command("status", 1, "--json"))["status"] == "completed"
    run = command("rerun", 1)
    assert run.returncode == 0
    assert "1 failed jobs are queued again" in run.stderr
    one = loaded(command("status", 1, "--json"))
    assert (one["status"], one["succeeded"], one["failed"], one["queued"]) == ("running", 3, 0, 1)
    worker.succeed(worker.claim()[0])
    assert loaded(command("status", 1, "--json"))["status"] == "completed"
    assert "has no failed jobs" in command("rerun", 1).stderr


def test_rerun_waits_for_another_batch_of_the_same_file(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    worker = WorkerByHand(stored)
    for job in worker.claim(4):
        worker.fail(job)
    assert command("submit", prompts).stdout == "2\n"
    run = command("rerun", 1)
    assert run.returncode == 2
    assert "another batch works on the same file" in run.stderr


def test_costs_in_three_formats(command: Cli, prompts: Path, stored: Database, tmp_path: Path) -> None:
    assert command("costs").stdout == "no calls have been made yet\n"
    command("submit", prompts)
    worked_on(stored)
    table = command("costs").stdout
    assert "0.0015 USD" in table
    assert "UNPRICED: 1 calls used 15 tokens" in table
    tree = loaded(command("costs", "--by", "provider,key", "--format", "json"))
    assert (tree["rows"][0]["key"], tree["rows"][0]["cost"], tree["rows"][0]["calls"]) == ("oa-1", "0.0015", 3)
    assert loaded(command("costs", "--json"))["by"] == ["provider", "model"]
    assert command("costs", "--batch", 1, "--format", "csv", "-o", "costs.csv").returncode == 0
    (row,) = csv.DictReader(io.StringIO((tmp_path / "costs.csv").read_text()))
    assert (row["provider"], row["model"], row["cost"]) == ("openai", "gpt-4o", "0.0015")
    assert command("costs", "-o", "nowhere/costs.csv").returncode == 4


def test_keys_are_listed_with_their_state_and_never_their_secret(command: Cli, stored: Database) -> None:
    with stored.write() as connection:
        key_store.quarantine(
            connection,
            provider="openai",
            key_id="oa-1",
            mark="any",
            pool="p",
            reason="refused: invalid_api_key",
            now=1_700_000_000.0,
            until=1_700_000_060.0,
        )
    run = command("keys", "--json")
    assert loaded(run) == {
        "keys": [
            {
                "provider": "openai",
                "key_id": "oa-1",
                "pool": "openai/oa-1",
                "state": "quarantined",
                "reason": "refused: invalid_api_key",
                "since": "2023-11-14T22:13:20Z",
                "until": "2023-11-14T22:14:20Z",
            },
            {
                "provider": "claude",
                "key_id": "cl-1",
                "pool": "team",
                "state": "active",
                "reason": "",
                "since": None,
                "until": None,
            },
        ]
    }
    everything = run.stdout + command("keys").stdout
    assert "quarantined" in command("keys").stdout
    assert "sk-canary" not in everything


def test_workers_are_listed_with_what_they_serve(command: Cli, stored: Database) -> None:
    assert loaded(command("workers", "--json")) == {"workers": []}
    WorkerByHand(stored)
    (worker,) = loaded(command("workers", "--json"))["workers"]
    assert (worker["host"], worker["providers"], worker["alive"], worker["tickets"]) == ("here", ["openai"], True, 0)
    assert "openai" in command("workers").stdout


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


def test_init_writes_variables_and_no_secret_and_never_overwrites(command: Cli, tmp_path: Path, config: Path) -> None:
    before = config.read_text()
    taken = command("init", OPENAI_API_KEY="sk-canary-77")
    assert taken.returncode == 2
    assert config.read_text() == before
    assert (
        command("init", "-c", "new.yaml", OPENAI_API_KEY="sk-canary-77", ANTHROPIC_API_KEY="sk-canary-78").returncode
        == 0
    )
    text = (tmp_path / "new.yaml").read_text()
    assert "canary" not in text
    loaded_config = load_config_text(text, environ={"OPENAI_API_KEY": "a", "ANTHROPIC_API_KEY": "b"})
    assert [provider.id for provider in loaded_config.providers] == ["openai", "claude"]


def test_what_init_writes_is_right_also_with_every_comment_taken_away() -> None:
    for environ in ({}, {"GEMINI_API_KEY": "g"}, {"OPENAI_API_KEY": "o", "CLAUDE_API_KEY": "c", "GEMINI_API_KEY": "g"}):
        text, missing = first_config(environ)
        assert bool(missing) == (not environ)
        known = environ or {missing: "x"}
        load_config_text(text, environ=known)
        fields = (
            "limit_",
            "pricing",
            "  input_",
            "  output_",
            "  currency",
            "routes",
            "  default",
            "    candid",
            "    strat",
        )
        bare = "\n".join(
            line.replace("# ", "", 1) if line.lstrip().removeprefix("# ").startswith(fields) else line
            for line in text.splitlines()
        )
        full = load_config_text(bare, environ=known)
        assert full.providers[0].keys[0].pricing is not None
        assert full.providers[0].keys[0].limit_req_per_min == 200
        assert full.routes["default"].pairs()


def test_help_lists_every_command_and_each_has_help_and_a_config_option(command: Cli) -> None:
    listed = command("--help").stdout
    for name, (target, _) in truckllm._COMMANDS.items():
        assert f"\n  {name} " in listed
        if target.startswith("submit.") and name != "demo":
            assert "--config" in command(name, "--help").stdout, name
    assert command("--version").stdout.startswith("truckllm 0.")


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
        env={**__import__("os").environ, "TRUCKLLM_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stdout.splitlines()[-1] == "[]"
    assert "prompts.jsonl" in run.stdout


def test_a_users_own_modules_do_not_shadow_ours(cli: Cli, tmp_path: Path) -> None:
    for name in ("models", "submit", "worker"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')")
    assert cli("status").returncode == 0


def test_an_interrupted_command_ends_with_130(
    cli: Cli, prompts: Path, start: Callable[..., Any], tmp_path: Path
) -> None:
    import signal

    from tests.conftest import wait_for

    cli("submit", prompts)
    process = start("status", 1, "--watch")
    wait_for(lambda: "batch 1 queued" in (tmp_path / "process0.output").read_text(), "the first line of the view")
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert "Traceback" not in (tmp_path / "process0.output").read_text()
