"""A long wait that a provider has asked for: where it is shown, with what, and how a person ends it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from models.database import Database
from models.store import cooldowns
from models.store.cooldowns import Cooldown
from tests.submit.cli.reading import Cli, loaded

DAY = 86_400.0


def begin(database: Database, model: str, *, key: str = "openai/oa-1", seconds: float = DAY) -> Cooldown:
    with database.write() as connection:
        now = database.now(connection)
        one = Cooldown(key, model, key, "Limit 200, used 200", now, now + seconds)
        cooldowns.begin(connection, one)
    return one


@pytest.fixture
def batch(command: Cli, stored: Database, prompts: Path) -> int:
    number: int = loaded(command("submit", str(prompts), "--json"))["batch_id"]
    return number


def test_status_keys_and_jobs_show_scope_end_and_the_providers_words(
    command: Cli, stored: Database, batch: int
) -> None:
    one = begin(stored, "gpt-4o")
    end = datetime.fromtimestamp(one.until, UTC)
    for arguments in (("status", str(batch)), ("keys",), ("jobs", str(batch))):
        shown = command(*arguments).stdout
        assert "openai/oa-1, model gpt-4o: cooling down for 24 h 0 min" in shown, arguments
        assert f"{end:%Y-%m-%d %H:%M:%S} UTC" in shown
        assert "Limit 200, used 200" in shown
        assert "`truckllm keys enable openai/oa-1`" in shown
    status = loaded(command("status", str(batch), "--json"))
    (told,) = status["cooldowns"]
    assert (told["key"], told["model"], told["until"]) == ("openai/oa-1", "gpt-4o", f"{end:%Y-%m-%dT%H:%M:%SZ}")
    assert status["status"] == "queued", "it waits, and isn't blocked"
    keys = {key["key_id"]: key for key in loaded(command("keys", "--json"))["keys"]}
    assert (keys["oa-1"]["state"], keys["oa-1"]["cooldowns"][0]["model"]) == ("active", "gpt-4o")
    assert keys["cl-1"]["cooldowns"] == []
    jobs = loaded(command("jobs", str(batch), "--json"))["jobs"]
    assert {job["cooldown"]["until"] for job in jobs} == {told["until"]}


def test_a_wait_of_another_provider_or_model_holds_no_job_back(command: Cli, stored: Database, batch: int) -> None:
    begin(stored, "gpt-4")
    begin(stored, "", key="claude/cl-1")
    jobs = loaded(command("jobs", str(batch), "--json"))["jobs"]
    assert [job["cooldown"] for job in jobs] == [None] * 4
    assert [one["model"] for one in loaded(command("status", str(batch), "--json"))["cooldowns"]] == ["gpt-4"]


def test_what_is_over_is_not_shown(command: Cli, stored: Database, batch: int) -> None:
    begin(stored, "gpt-4o", seconds=-1.0)
    assert loaded(command("status", str(batch), "--json"))["cooldowns"] == []
    assert "cooling" not in command("keys").stdout


def test_enabling_a_key_ends_all_its_waits_once(command: Cli, stored: Database, batch: int) -> None:
    begin(stored, "gpt-4o")
    begin(stored, "gpt-4")
    begin(stored, "", key="claude/cl-1")
    run = command("keys", "enable", "openai/oa-1")
    assert "gpt-4, gpt-4o" in run.stdout + run.stderr
    again = command("keys", "enable", "openai/oa-1")
    assert "in use already" in again.stdout + again.stderr
    with stored.read() as connection:
        standing = cooldowns.standing(connection, stored.now(connection))
        assert [one.pool for one in standing] == ["claude/cl-1"]
        assert [one.lifted is None for one in cooldowns.everything(connection)] == [True, False, False]


def test_enabling_a_key_that_was_disabled_too_reports_both(command: Cli, stored: Database, batch: int) -> None:
    begin(stored, "gpt-4o")
    command("keys", "disable", "openai/oa-1")
    run = command("keys", "enable", "openai/oa-1")
    said = run.stdout + run.stderr
    assert "openai/oa-1 is back in use" in said
    assert "doesn't wait any longer for gpt-4o" in said


def test_a_wait_decades_long_is_brought_near_and_what_is_long_over_goes(stored: Database) -> None:
    begin(stored, "far", seconds=70 * 365 * DAY)
    begin(stored, "old", seconds=-2 * 3600.0)
    with stored.write() as connection:
        now = stored.now(connection)
        cooldowns.sweep(connection, now, 25 * 3600.0, DAY)
        (one,) = cooldowns.everything(connection)
    assert one.until == pytest.approx(now + DAY)
    assert datetime.fromtimestamp(one.until, UTC) - datetime.now(UTC) < timedelta(days=1, minutes=5)
