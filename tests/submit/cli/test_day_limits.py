"""Limits by day where people see them: keys, status, jobs, estimate, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from models.database import Database
from models.days import day_at, used_up
from models.store import cooldowns
from models.store.cooldowns import Cooldown
from models.tables import attempts
from models.wording import utc
from submit.shapes import iso
from tests.making import noon_zone
from tests.submit.cli.reading import Cli, loaded
from tests.worker_by_hand import WorkerByHand

ZONE = noon_zone()
DAYS = f"""
providers:
  - id: openai
    day_resets: {ZONE}
    models: {{gpt-4o: {{limit_tokens_per_day: 5000}}}}
    keys:
      - {{id: oa-1, secret: sk-canary-1, pool: team, use: 0.5, limit_req_per_day: 6}}
      - {{id: oa-2, secret: sk-canary-2, pool: team, use: 0.5, limit_req_per_day: 6}}
  - {{id: claude, keys: [{{id: cl-1, secret: sk-canary-3}}]}}
"""


@pytest.fixture
def limited(config: Path) -> Path:
    config.write_text(DAYS)
    return config


@pytest.fixture
def batch(command: Cli, limited: Path, stored: Database, prompts: Path) -> int:
    number: int = loaded(command("submit", str(prompts), "--json"))["batch_id"]
    return number


def call(
    database: Database, serial: int, at: float, *, key: str = "oa-1", model: str = "gpt-4o", used: int | None = None
) -> None:
    with database.write() as connection:
        row: dict[str, Any] = {"input_tokens": used, "output_tokens": 0} if used is not None else {}
        connection.execute(
            sa.insert(attempts).values(
                id=serial,
                job_id=serial,
                batch_id=99,
                epoch=1,
                provider="openai",
                key_id=key,
                requested_model=model,
                outcome="succeeded",
                booked_tokens=100,
                started_at=at,
                **row,
            )
        )


def spend(database: Database, limit: int = 3, model: str = "") -> Cooldown:
    """What a worker stores that found a day used up."""
    with database.write() as connection:
        now = database.now(connection)
        end = float(day_at(ZONE, now).end)
        one = Cooldown("pool:team", model, "openai/oa-1", used_up("requests", limit, ZONE), now, end, configured=True)
        cooldowns.begin(connection, one)
    return one


def test_keys_show_what_is_used_of_the_day_and_when_it_resets(command: Cli, stored: Database, limited: Path) -> None:
    with stored.read() as connection:
        now = stored.now(connection)
    day = day_at(ZONE, now)
    call(stored, 1, day.start + 1, used=40)
    call(stored, 2, now, key="oa-2")
    call(stored, 3, now, model="gpt-4")
    call(stored, 4, day.start - 1, used=40)
    found = {one["key_id"]: one["days"] for one in loaded(command("keys", "--json"))["keys"]}
    requests, tokens = found["oa-1"]
    assert found["oa-2"] == found["oa-1"], "keys of one pool share it"
    assert found["cl-1"] == []
    assert (requests["model"], requests["unit"], requests["limit"], requests["used"]) == (None, "requests", 3, 3)
    assert (tokens["model"], tokens["unit"], tokens["limit"], tokens["used"]) == ("gpt-4o", "tokens", 2500, 200)
    assert (requests["zone"], requests["since"], requests["resets"]) == (ZONE, iso(day.start), iso(day.end))
    assert requests["resets_local"].partition("T")[2].startswith("00:00:00")
    shown = command("keys").stdout
    assert (
        "openai/oa-1 and the other keys of team, all models: 3 of 3 requests of the day are used; "
        f"it resets at {utc(day.end)}"
    ) in shown
    assert "model gpt-4o: 200 of 2,500 tokens of the day are used" in shown
    assert shown.count("of the day are used") == 2
    assert (f"00:00 {ZONE})" in shown) == (ZONE != "UTC")


def test_a_day_that_is_used_up_is_shown_as_a_provider_s_own_wait_is(command: Cli, stored: Database, batch: int) -> None:
    one = spend(stored)
    for arguments in (("status", str(batch)), ("keys",), ("jobs", str(batch))):
        shown = command(*arguments).stdout
        assert "openai/oa-1 and the other keys of team, all models: no call starts until" in shown, arguments
        assert utc(one.until) in shown
        assert "limit_req_per_day of 3 is used up" in shown
        assert "only a higher limit in the configuration ends that" in shown
        assert "keys enable" not in shown
    status = loaded(command("status", str(batch), "--json"))
    (told,) = status["cooldowns"]
    assert (told["configured"], told["model"], told["until"]) == (True, None, iso(one.until))
    assert (status["status"], status["blocked"]) == ("queued", None)
    assert [job["cooldown"]["until"] for job in loaded(command("jobs", str(batch), "--json"))["jobs"]] == [
        iso(one.until)
    ] * 4


def test_enabling_a_key_does_not_lift_a_limit_of_the_configuration(command: Cli, stored: Database, batch: int) -> None:
    one = spend(stored)
    run = command("keys", "enable", "openai/oa-2")
    said = run.stdout + run.stderr
    assert "limit_req_per_day of 3 is used up" in said
    assert "only a higher limit in the configuration ends that" in said
    with stored.read() as connection:
        assert cooldowns.standing(connection, stored.now(connection)) == [one]


def test_a_provider_s_own_wait_goes_before_a_configured_limit_and_is_ended_by_hand(
    command: Cli, stored: Database, batch: int
) -> None:
    spend(stored)
    with stored.write() as connection:
        now = stored.now(connection)
        own = Cooldown("pool:team", "", "openai/oa-1", "daily quota", now, now + 3600)
        cooldowns.begin(connection, own)
    spend(stored)
    (told,) = loaded(command("status", str(batch), "--json"))["cooldowns"]
    assert (told["reason"], told["configured"]) == ("daily quota", False)
    command("keys", "enable", "openai/oa-1")
    assert loaded(command("status", str(batch), "--json"))["cooldowns"] == []


def test_what_the_configuration_does_not_limit_any_more_is_not_shown(
    command: Cli, stored: Database, batch: int, limited: Path
) -> None:
    spend(stored)
    limited.write_text(DAYS.replace("limit_req_per_day: 6", "limit_req_per_day: 60"))
    assert loaded(command("status", str(batch), "--json"))["cooldowns"] == []
    assert "used up" not in command("keys").stdout


def test_status_counts_the_days_of_the_quota(command: Cli, stored: Database, batch: int) -> None:
    WorkerByHand(stored)
    status = loaded(command("status", str(batch), "--json"))
    assert status["quota_days"] == pytest.approx(4 / 3, abs=0.01)
    assert status["eta_seconds"] == pytest.approx(4 / 3 * 86_400, abs=1)
    assert "1.3 days at the configured limits of requests a day" in command("status", str(batch)).stdout


def test_without_limits_by_day_nothing_is_said_of_them(command: Cli, stored: Database, prompts: Path) -> None:
    number = loaded(command("submit", str(prompts), "--json"))["batch_id"]
    assert loaded(command("status", str(number), "--json"))["quota_days"] is None
    assert [key["days"] for key in loaded(command("keys", "--json"))["keys"]] == [[], []]
    assert loaded(command("estimate", str(prompts), "--json"))["days"] is None


def test_estimate_states_the_days_at_this_quota(command: Cli, limited: Path, prompts: Path) -> None:
    found = loaded(command("estimate", str(prompts), "--json"))
    assert found["days"] == pytest.approx(1.33)
    assert found["seconds"] == pytest.approx(4 / 3 * 86_400, abs=0.1)
    assert ", 1.3 days at this quota" in command("estimate", str(prompts)).stdout
    limited.write_text(DAYS.replace("limit_req_per_day: 6", "limit_req_per_day: 80"))
    run = command("estimate", str(prompts))
    assert "days at this quota" not in run.stdout
    assert "note: openai: " in run.stderr + run.stdout
    assert "of a day's quota" in run.stderr + run.stdout


def test_doctor_names_work_that_takes_more_than_a_day_and_a_used_up_limit(
    command: Cli, stored: Database, batch: int
) -> None:
    spend(stored)
    found = [one for one in json.loads(command("doctor", "--json").stdout)["findings"] if one["state"] == "warning"]
    work = next(one for one in found if "days of work" in one["message"])
    assert work["message"] == "openai: 4 jobs wait, 1.3 days of work at its limits of requests a day"
    assert "raise limit_req_per_day" in work["todo"]
    spent = next(one for one in found if "used up" in one["message"])
    assert spent["todo"] == "wait, or raise the limit and restart a worker"


def test_doctor_names_the_zone_of_gemini_s_days(command: Cli, stored: Database, config: Path) -> None:
    def found(day_resets: str) -> list[str]:
        config.write_text(
            f"providers: [{{id: gemini, {day_resets} keys: [{{id: g-1, secret: sk-canary-1, limit_req_per_day: 6}}]}}]"
        )
        return [
            one["todo"]
            for one in json.loads(command("doctor", "--json").stdout)["findings"]
            if "California" in one["message"]
        ]

    assert found("") == ["day_resets: America/Los_Angeles"]
    assert found("day_resets: America/Los_Angeles,") == []
