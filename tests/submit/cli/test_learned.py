"""Learned limits on the command line: shown beside the configured ones, and reset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from models.config_file import load_config
from models.database import Database
from models.learning import fingerprints
from models.store import learned
from models.store.learned import Learned
from tests.submit.cli.reading import Cli, loaded

CONFIG = """
providers:
  - id: openai
    models: {small: {limit_req_per_min: 100}}
    keys:
      - {id: oa-1, secret: "sk-canary-one", limit_req_per_min: 600, limit_tokens_per_min: 40000}
      - {id: oa-2, secret: "${NOT_SET_HERE}", use: 0.5, limit_req_per_min: 600}
  - {id: claude, keys: [{id: cl-1, pool: team, secret: "sk-canary-two"}, {id: cl-2, pool: team, secret: "sk-canary-three"}]}
"""


Keep = Callable[..., None]


@pytest.fixture
def keep(config: Path, stored: Database) -> Keep:
    """Stores limits as workers with this configuration do."""
    config.write_text(CONFIG)

    def store(*found: Learned) -> None:
        marks = fingerprints(load_config(config, secrets=False).providers)
        with stored.write() as connection:
            rows = [replace(one, configured=one.configured or marks[one.pool] or "any") for one in found]
            learned.keep(connection, rows, stored.now(connection))

    return store


def test_keys_show_what_was_learned_beside_what_is_configured(command: Cli, keep: Keep) -> None:
    keep(
        Learned("openai/oa-1", "gpt-4o", 300.4, 20_000.0, 8.0),
        Learned("openai/oa-1", "small", 99.0),
        Learned("openai/oa-2", "gpt-4o", 200.0),
        Learned("pool:team", "opus", None, None, 4.0),
    )
    run = command("keys")
    for line in (
        "openai/oa-1, model gpt-4o: the server allows about 300 requests a minute (configured 600), 20,000 tokens a minute "
        "(configured 40,000), 8 calls at once; `truckllm keys reset-limits openai/oa-1` forgets that",
        "openai/oa-1, model small: the server allows about 99 requests a minute (configured 100);",
        "openai/oa-2, model gpt-4o: the server allows about 200 requests a minute (configured 300);",
        "claude/cl-1 and the other keys of team, model opus: the server allows about 4 calls at once;",
    ):
        assert line in run.stdout
    assert run.stdout.count("model opus") == 1, "its pool is shared"
    assert "canary" not in run.stdout + run.stderr


def test_the_json_holds_both_by_model_and_null_where_nothing_is_lowered(command: Cli, keep: Keep) -> None:
    keep(Learned("openai/oa-1", "gpt-4o", 300.44, None, 8.0), Learned("pool:team", "opus", 12.0))
    run = command("keys", "--json")
    first, second, third, fourth = (key["learned"] for key in loaded(run)["keys"])
    (one,) = first
    assert one.pop("updated_at").endswith("Z")
    assert one == {
        "model": "gpt-4o",
        "requests_per_min": 300.4,
        "tokens_per_min": None,
        "in_flight": 8.0,
        "configured": {"requests_per_min": 600, "tokens_per_min": None},
    }
    assert second == []
    assert third == fourth
    assert third[0]["configured"] == {"requests_per_min": None, "tokens_per_min": None}
    assert "canary" not in run.stdout


def test_what_lowers_nothing_or_was_learned_under_another_configuration_is_not_shown(
    command: Cli, keep: Keep, config: Path
) -> None:
    keep(
        Learned("openai/oa-1", "gpt-4o", 600.0, 50_000.0),
        Learned("openai/oa-1", "gpt-4", 300.0, configured="another"),
        Learned("gone/k", "gpt-4", 300.0, configured="another"),
    )
    assert "the server allows" not in command("keys").stdout
    keep(Learned("openai/oa-1", "gpt-4o", 300.0))
    assert "the server allows" in command("keys").stdout
    config.write_text(CONFIG.replace("sk-canary-one", "sk-canary-other"))
    assert "the server allows" not in command("keys").stdout


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ((), []),
        (("openai/oa-1",), ["openai/oa-2 gpt-4o", "pool:team opus"]),
        (("openai",), ["pool:team opus"]),
        (("claude/cl-2",), ["openai/oa-1 gpt-4o", "openai/oa-1 small", "openai/oa-2 gpt-4o"]),
        (("openai", "--model", "gpt-4o"), ["openai/oa-1 small", "pool:team opus"]),
        (("--model", "small"), ["openai/oa-1 gpt-4o", "openai/oa-2 gpt-4o", "pool:team opus"]),
    ],
)
def test_a_reset_names_what_it_forgets(
    command: Cli, keep: Keep, stored: Database, arguments: tuple[str, ...], left: list[str]
) -> None:
    keep(
        Learned("openai/oa-1", "gpt-4o", 300.0),
        Learned("openai/oa-1", "small", 9.0),
        Learned("openai/oa-2", "gpt-4o", 200.0),
        Learned("pool:team", "opus", 20.0, None, 4.0),
    )
    run = command("keys", "reset-limits", *arguments)
    assert run.returncode == 0
    with stored.read() as connection:
        there = [f"{one.pool} {one.model}" for one in learned.everything(connection, stored.now(connection))]
    assert there == left
    assert run.stderr.count(": forgotten: ") == 4 - len(left)
    if "pool:team opus" not in left:
        assert "team, model opus: forgotten: 20 requests a minute, 4 calls at once" in run.stderr
    again = command("keys", "reset-limits", *arguments)
    assert again.returncode == 0
    assert "no learned limit is stored" in again.stderr


@pytest.mark.parametrize("key", ["nobody", "nobody/oa-1", "openai/nobody"])
def test_a_key_that_is_not_configured_is_refused_as_by_enable(command: Cli, keep: Keep, key: str) -> None:
    run = command("keys", "reset-limits", key)
    assert run.returncode == command("keys", "enable", f"{key}/x" if "/" not in key else key).returncode != 0
    assert "nobody" in run.stderr


def test_without_a_database_there_is_nothing_to_forget_and_none_is_made(command: Cli, tmp_path: Path) -> None:
    run = command("keys", "reset-limits", TRUCKLLM_HOME=str(tmp_path / "none"))
    assert run.returncode == 0
    assert "no learned limit is stored of any key" in run.stderr
    assert not (tmp_path / "none").exists()
