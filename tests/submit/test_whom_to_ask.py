"""`--provider`, `--route`, `--no-fallback` and `--model`: for which lines they speak, and what is said of names nobody knows."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from models.config_file import load_config_text
from models.database import Database, open_database
from models.errors import ConflictError, UsageError
from models.store.reruns import Which
from submit.batch_options import BatchOptions, Given
from submit.cli.inputs import batch_options, takes_batch_options
from submit.producer import Submitted, submit_batch
from submit.rerunning import rerun
from tests.making import job_rows
from tests.servers import SandboxProcess
from tests.worker_by_hand import WorkerByHand

CONFIG = load_config_text(
    """
providers:
  - {id: openai, keys: [{id: a, secret: s, limit_req_per_min: 9, limit_tokens_per_min: 9}]}
  - {id: claude, keys: [{id: b, secret: s, limit_req_per_min: 9, limit_tokens_per_min: 9}]}
  - {id: gemini, keys: [{id: c, secret: s, limit_req_per_min: 9, limit_tokens_per_min: 9}]}
routes:
  smart: {candidates: [openai/gpt-4o, claude/claude-haiku-4-5]}
  cheap: {candidates: [gemini/gemini-3.5-flash, openai/gpt-4o-mini], models: [gpt-4o-mini]}
"""
)
TALK = [{"role": "user", "content": "x"}]
EACH_FORM: dict[str, dict[str, Any]] = {
    "simple": {"model": "own", "prompt": "x"},
    "openai": {
        "custom_id": "o",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "own", "messages": TALK},
    },
    "claude": {"custom_id": "c", "params": {"model": "own", "max_tokens": 5, "messages": TALK}},
    "gemini": {"key": "g", "request": {"model": "models/own", "contents": [{"parts": [{"text": "x"}]}]}},
}
"""One line of each form, with a model of its own."""


@pytest.fixture
def cli(quick_cli: Callable[..., Any]) -> Callable[..., Any]:
    return quick_cli


@pytest.fixture
def sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setenv("TRUCKLLM_HOME", str(tmp_path / "home"))
    database = open_database(f"sqlite:///{tmp_path}/only.db")
    yield database
    database.close()


@pytest.fixture
def put(sqlite: Database) -> Callable[..., Submitted]:
    def put(*lines: dict[str, Any], **options: Any) -> Submitted:
        return submit_batch(lines, config=CONFIG, database=sqlite, **options)

    return put


@pytest.fixture
def lanes(put: Callable[..., Submitted], sqlite: Database) -> Callable[..., list[tuple[str, str]]]:
    """Where such a batch's jobs wait, and what they ask for there."""

    def lanes(*lines: dict[str, Any], **options: Any) -> list[tuple[str, str]]:
        return [(row["lane"], row["model"]) for row in job_rows(sqlite, put(*lines, **options).batch_id)]

    return lanes


Lanes = Callable[..., list[tuple[str, str]]]


@pytest.mark.parametrize("form", EACH_FORM)
def test_a_lines_own_provider_and_route_go_before_the_batchs_in_every_form(lanes: Lanes, form: str) -> None:
    line = EACH_FORM[form]
    named = "custom_id" if form != "gemini" else "key"
    lines = [
        {**line, named: "1"},
        {**line, named: "2", "provider": "gemini"},
        {**line, named: "3", "route": "cheap"},
    ]
    own = [("gemini", "own"), ("cheap", "")]
    assert lanes(*lines, provider="claude") == [("claude", "own"), *own]
    assert lanes(*lines, route="smart", new=True) == [("smart", ""), *own]


@pytest.mark.parametrize("form", EACH_FORM)
def test_the_batchs_model_goes_before_a_lines_own_in_every_form(lanes: Lanes, form: str) -> None:
    assert lanes(EACH_FORM[form], model="gpt-4o") == [("openai", "gpt-4o")]


def test_the_command_line_goes_before_a_prefix_of_the_model(lanes: Lanes) -> None:
    line = {"model": "openai/gpt-4o", "prompt": "x"}
    assert lanes(line) == [("openai", "gpt-4o")]
    assert lanes(line, provider="openai", new=True) == [("openai", "gpt-4o")]
    assert lanes(line, provider="claude", new=True) == [("claude", "openai/gpt-4o")]
    assert lanes(line, route="cheap", new=True) == [("cheap", "")]


def test_the_batchs_route_goes_before_a_models(lanes: Lanes) -> None:
    line = {"model": "gpt-4o-mini", "prompt": "x"}
    assert lanes(line) == [("cheap", "")]
    assert lanes(line, route="smart", new=True) == [("smart", "")]


def test_a_route_needs_no_model_in_the_lines(lanes: Lanes) -> None:
    assert lanes({"prompt": "x"}, route="smart") == [("smart", "")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"provider": "cluade"}, "no provider 'cluade'; did you mean claude? (configured: openai, claude, gemini)"),
        ({"route": "smrt"}, "no route 'smrt'; did you mean smart? (routes: smart, cheap)"),
        ({"route": "smart", "provider": "claude"}, "keep one"),
        ({"route": "smart", "model": "gpt-4o"}, "a route's candidates name their models"),
    ],
)
def test_what_cant_be_meant_is_one_error_and_not_one_a_line(
    put: Callable[..., Submitted], options: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError) as refused:
        put({"prompt": "x", "model": "m"}, {"prompt": "y", "model": "m"}, **options)
    assert said in str(refused.value)


@pytest.mark.parametrize("options", [{"provider": "openai"}, {"route": "smart"}, {"no_fallback": True}], ids=str)
def test_whom_to_ask_makes_another_batch(put: Callable[..., Submitted], options: dict[str, Any]) -> None:
    line = {"model": "gpt-4o", "prompt": "x"}
    put(line)
    (name,) = options
    absent = "with fallback" if name == "no_fallback" else f"no {name}"
    with pytest.raises(ConflictError, match=rf"\({absent}; now {name}: "):
        put(line, **options)
    other = put(line, **options, new=True).batch_id
    assert put(line, **options).batch_id == other


def test_without_fallback_a_route_is_its_first_candidate(lanes: Lanes) -> None:
    routed = [
        {"prompt": "x"},
        {"id": "2", "prompt": "x", "route": "cheap"},
        {"id": "3", "prompt": "x", "model": "gpt-4o-mini"},
    ]
    expected = [("openai", "gpt-4o"), ("gemini", "gemini-3.5-flash"), ("openai", "gpt-4o")]
    assert lanes(*routed, route="smart", no_fallback=True) == expected
    assert lanes(routed[2], no_fallback=True, new=True) == [("gemini", "gemini-3.5-flash")]


def test_only_the_first_candidate_has_to_take_a_body_without_fallback(lanes: Lanes) -> None:
    line = {"custom_id": "r", "method": "POST", "url": "/v1/responses", "body": {"input": "x"}, "route": "smart"}
    assert lanes(line, no_fallback=True) == [("openai", "gpt-4o")]


def test_a_rerun_of_a_batch_without_fallback_goes_to_one_candidate_too(
    put: Callable[..., Submitted], sqlite: Database
) -> None:
    batch = put({"model": "own", "provider": "claude", "prompt": "x"}, no_fallback=True).batch_id
    worker = WorkerByHand(sqlite, provider="claude")
    (job,) = worker.claim()
    assert job.no_fallback
    worker.fail(job)
    assert rerun(sqlite, CONFIG, batch, Which(), route="smart") == 1
    assert [(row["lane"], row["model"]) for row in job_rows(sqlite, batch)] == [("openai", "gpt-4o")]


# The command line


def test_the_command_line_has_every_option_of_a_batch() -> None:
    assert set(inspect.signature(batch_options).parameters) == set(Given.__annotations__)


def test_a_command_gets_all_options_as_one() -> None:
    got: list[object] = []

    @takes_batch_options
    def command(file: str, *, options: BatchOptions, last: bool = False) -> None:
        got.extend([file, options, last])

    app = typer.Typer()
    app.command()(command)
    app(["f", "--route", "r", "--no-fallback", "--limit", "3", "--last"], standalone_mode=False)
    assert got == ["f", BatchOptions(route="r", no_fallback=True, limit=3), True]


def test_estimate_counts_for_the_route_that_is_given(
    cli: Callable[..., Any], write_config: Callable[..., Path], write_lines: Callable[..., Path]
) -> None:
    routes = {"smart": {"candidates": ["claude/claude-haiku-4-5", "openai/gpt-4o"]}}
    write_config("http://127.0.0.1:9", routes=routes)
    path = write_lines([{"prompt": "x"}])
    (group,) = json.loads(cli("estimate", path, "--route", "smart", "--json").stdout)["groups"]
    assert (group["provider"], group["model"]) == ("claude", "claude-haiku-4-5")
    refused = cli("estimate", path, "--route", "smrt")
    assert refused.returncode == 2
    assert "truckllm: no route 'smrt'; did you mean smart?" in refused.stderr


def test_a_model_with_a_route_and_its_bound_reach_a_reasoning_model_from_every_form(
    cli: Callable[..., Any],
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """The sandbox refuses max_tokens for gpt-5, as OpenAI does."""
    write_config(sandbox.url, routes={"five": {"candidates": ["openai/gpt-5-mini"], "models": ["house"]}})
    responses = {"custom_id": "r", "method": "POST", "url": "/v1/responses", "body": {"input": "x"}}
    own_bound = {**EACH_FORM["simple"], "id": "own", "max_tokens": 6}
    write_lines([*EACH_FORM.values(), responses, own_bound])
    done = cli("run", "prompts.jsonl", "--model", "house", "--max-tokens", "9", "--format", "simple")
    assert done.returncode == 0, done.stderr
    assert "4 lines in a vendor's own form go as they are: max_tokens of the batch isn't filled in" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "prompts.results.jsonl").read_text().splitlines()]
    assert {(row["provider"], row["requested_model"], row["served_model"]) for row in rows} == {
        ("openai", "gpt-5-mini", "gpt-5-mini")
    }
    by_name = {row["id"]: row["output_tokens"] for row in rows}
    assert by_name["line-1"] <= 9
    assert by_name["c"] <= 5
    assert by_name["own"] <= 6
