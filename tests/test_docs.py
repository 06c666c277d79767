"""The documentation says what is: every field, command, option, exit code and JSON field.

It does not judge the prose; `tests/test_docs_examples.py` runs the examples.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import click
import pytest
import typer
import yaml
from pydantic import BaseModel

import truckllm
from models import config, errors
from models.config_file import STORAGE_VARIABLES, load_config_text
from models.formats import simple
from models.plugins import known_types
from models.states import Outcome
from submit.cli.app import INTERRUPTED, UNREAD, Entry, add, load, main
from tests.pages import PAGES, ROOT, blocks, page, section, table
from worker.sandbox import settings as sandbox_settings

COMMANDS = {name: Entry(*entry) for name, entry in truckllm._COMMANDS.items()}


# Configuration

SECTIONS: dict[str, type[BaseModel]] = {
    "Top level": config.Config,
    "Provider": config.ProviderConfig,
    "Signal": config.SignalConfig,
    "Key": config.KeyConfig,
    "Model": config.ModelConfig,
    "Pricing": config.Pricing,
    "Route": config.RouteConfig,
    "Worker": config.WorkerConfig,
    "API": config.ApiConfig,
}
WORDS = {
    "name": "the id",
    "type": "the id",
    "base_url": "by type",
    "default_output_tokens": "learned",
    "pool": "its own",
    "worker": "defaults",
    "api": "defaults",
    "cached_token_cost": "as input",
    "cache_write_token_cost": "as input",
    "cache_write_1h_token_cost": "as other writes",
    "context_window": "unknown",
    "max_output_tokens": "unknown",
    "modality_costs": "as text",
}
"""What stands in the column `default` where None, or nothing, means something else than nothing."""


def default_of(model: type[BaseModel], name: str) -> set[str]:
    """What the docs may say of a field's default."""
    field = model.model_fields[name]
    if field.is_required():
        return {"required"}
    if name == "pricing":
        return {"the key's" if model is config.ModelConfig else "unpriced"}
    if name in WORDS and model is not config.SignalConfig:
        return {WORDS[name]}
    value = field.get_default(call_default_factory=True)
    if value in (None, "", {}, (), []):
        return {"none", "no limit"}
    if isinstance(value, bool):
        return {f"`{str(value).lower()}`"}
    if isinstance(value, float):
        return {f"`{value:g}`"}
    return {f"`{value}`"}


@pytest.mark.parametrize("title", SECTIONS)
def test_every_field_of_the_configuration_is_documented_with_its_default(title: str) -> None:
    model = SECTIONS[title]
    rows = table(section(page("configuration.md"), title), "field")
    fields = {field.alias or name: name for name, field in model.model_fields.items()}
    assert set(rows) == set(fields)
    wrong = {name: cells[0] for name, cells in rows.items() if cells[0] not in default_of(model, fields[name])}
    assert not wrong
    assert all(cells[1] for cells in rows.values())


def test_every_node_of_the_configuration_has_a_section() -> None:
    nodes = {
        value
        for value in vars(config).values()
        if isinstance(value, type)
        and issubclass(value, BaseModel)
        and value.__module__ in ("models.config", "models.config_signals", "models.pricing")
    }
    abstract = {node for node in nodes if any(other is not node and issubclass(other, node) for other in nodes)}
    assert nodes - abstract - {BaseModel} == set(SECTIONS.values())


def test_every_environment_variable_of_ours_is_documented() -> None:
    used = {
        name
        for room in ("models", "submit", "worker")
        for path in (ROOT / room).rglob("*.py")
        for name in re.findall(r"\bTRUCKLLM_[A-Z_]+\b", path.read_text())
    }
    assert used >= set(STORAGE_VARIABLES.values())
    assert set(table(section(page("configuration.md"), "Environment"), "variable")) == used


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_configurations_in_the_docs_load(path: Path) -> None:
    for block in blocks(path.read_text(), "yaml"):
        names = set(re.findall(r"\$\{(\w+)\}", block))
        assert load_config_text(block, environ=dict.fromkeys(names, "x"), name=path.name).providers


def test_input_lines_in_the_docs_are_good_lines(tmp_path: Path) -> None:
    from models.lanes import Lanes
    from submit.producer import check
    from submit.source import opened

    lines = blocks(page("input-output.md"), "jsonl")
    assert len(lines) == 5  # one of each form, and what may stand beside
    example = load_config_text((ROOT / "examples" / "truckllm.yaml").read_text(), secrets=False)
    file = tmp_path / "lines.jsonl"
    file.write_text("".join(lines))
    with opened(str(file)) as source:
        assert check(source, Lanes(example)).total == sum(block.count("\n") for block in lines)


# Commands


def command_of(name: str) -> click.Command:
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.callback()(lambda: None)
    add(app, name, "", load(COMMANDS[name].target))
    found: click.Command = commands_of(typer.main.get_command(app))[name]
    return found


def commands_of(group: Any) -> dict[str, click.Command]:
    """By name; typer may bring a click of its own, so its classes tell nothing."""
    return getattr(group, "commands", {})


def with_its_own(name: str) -> list[tuple[str, click.Command]]:
    """A command and those below it, by the titles of their sections."""
    command = command_of(name)
    return [(name, command), *((f"{name} {each}", one) for each, one in commands_of(command).items())]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_documented_and_helps(name: str) -> None:
    for title, command in with_its_own(name):
        wanted: set[str] = set()
        for parameter in command.params:
            if getattr(parameter, "hidden", False) or "--help" in parameter.opts:
                continue
            assert getattr(parameter, "help", None), f"{title}: {parameter.name} has no help"
            argument = parameter.param_type_name == "argument"
            wanted |= (
                {(parameter.metavar or str(parameter.name)).strip("[]{}").upper()} if argument else set(parameter.opts)
            )
        text = section(page("cli.md"), f"truckllm {title}")
        assert command.help, title
        assert set(table(text, "option") if wanted else {}) == wanted, title


def test_every_command_is_documented_and_nothing_else() -> None:
    titles = re.findall(r"^## truckllm (\S+)$", page("cli.md"), re.MULTILINE)
    assert titles == list(COMMANDS)
    below = re.findall(r"^### truckllm (.+)$", page("cli.md"), re.MULTILINE)
    assert below == [title for name in COMMANDS for title, _ in with_its_own(name)[1:]]


def test_exit_codes_are_documented_as_they_are() -> None:
    codes = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.TruckError)
    }
    documented = set(table(section(page("cli.md"), "Exit codes"), "code"))
    assert documented == {str(code) for code in codes | {0, INTERRUPTED, UNREAD}}


def fields(text: str, *, first: str = "`--json` field") -> set[str]:
    return set(table(text, first))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterable[tuple[Path, Any]]:
    """A batch of two lines has run against a sandbox: in which folder, and what it said."""
    folder = tmp_path_factory.mktemp("docs")
    ready = folder / "url"
    program = [sys.executable, "-P", "-m", "truckllm"]
    sandbox = subprocess.Popen(
        [*program, "sandbox", "--port", "0", "--ready-file", str(ready), "--until-stdin-closes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert sandbox.stdout is not None
    url = sandbox.stdout.readline().split()[-1]
    key = {"id": "oa-1", "secret": "sk-docs", "pricing": {"input_token_cost": "0.001", "output_token_cost": "0.002"}}
    tree = {"providers": [{"id": "openai", "base_url": f"{url}/openai/v1", "keys": [key]}]}
    (folder / "truckllm.yaml").write_text(yaml.safe_dump(tree))
    (folder / "in.jsonl").write_text(
        '{"model": "gpt-4o-mini", "prompt": "a"}\n{"model": "no-such-model", "prompt": "b"}\n'
    )

    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRUCKLLM_")}
    command = [*program, "run", "in.jsonl", "--json"]
    done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    yield folder, json.loads(done.stdout)
    assert sandbox.stdin is not None
    sandbox.stdin.close()
    sandbox.wait(30)


@pytest.fixture
def ran(
    run: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """Asks a command for JSON, after that run."""
    monkeypatch.chdir(run[0])
    for name in [name for name in os.environ if name.startswith("TRUCKLLM_")]:
        monkeypatch.delenv(name)

    def ask(*arguments: str) -> Any:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main(COMMANDS, [*arguments, "--json"])
        out, err = capfd.readouterr()
        assert end.value.code in (0, 1, None), err
        return json.loads(out)

    return ask


def test_json_of_run_and_status_is_documented(run: tuple[Path, Any], ran: Any) -> None:
    one = fields(section(page("cli.md"), "truckllm status"))
    assert set(ran("status", "1")) == one
    assert set(ran("status")["batches"][0]) == one
    assert set(run[1]) == one | fields(section(page("cli.md"), "truckllm run"))
    part = re.search(r"`providers` \| List of `\{(.*?)\}`", page("cli.md"))
    assert part
    assert set(run[1]["providers"][0]) == set(part[1].split(", "))


@pytest.mark.parametrize(
    ("name", "arguments", "inside"),
    [
        ("jobs", ("1",), "jobs"),
        ("results", ("1",), None),
        ("keys", (), "keys"),
        ("models", (), "models"),
        ("doctor", (), None),
        ("costs", (), None),
        ("submit", ("in.jsonl", "--new"), None),
        ("estimate", ("in.jsonl",), None),
    ],
)
def test_json_of_a_command_is_documented(ran: Any, name: str, arguments: tuple[str, ...], inside: str | None) -> None:
    given = ran(name, *arguments)
    assert set(given[inside][0] if inside else given) == fields(section(page("cli.md"), f"truckllm {name}"))


def test_json_of_workers_is_documented(ran: Any) -> None:
    from submit import shapes

    documented = fields(section(page("cli.md"), "truckllm workers"))
    assert ran("workers") == {"workers": []}  # the stack has ended, and so have its workers
    assert set(re.findall(r'^        "(\w+)":', inspect.getsource(shapes.worker), re.MULTILINE)) == documented


def test_rows_of_the_cost_report_are_documented(ran: Any) -> None:
    report = ran("costs", "--by", "provider,model,key,batch,day")
    documented = fields(section(page("cli.md"), "truckllm costs"), first="field of a row")
    assert set(report["rows"][0]) == documented | {"provider", "model", "key", "batch", "day"}
    assert set(report["totals"][0]) == documented


def test_fields_of_a_result_line_are_documented() -> None:
    rows = table(section(page("input-output.md"), "Results of simple lines"), "field")
    assert list(rows) == list(simple._Row.__struct_fields__)
    asked = table(section(page("input-output.md"), "Simple lines"), "field")
    assert set(asked) - {"anything else", "custom_id", "line-<n>"} >= (simple.OWN_FIELDS - {"custom_id"}) | {"system"}


def test_outcomes_of_calls_are_documented() -> None:
    assert set(table(page("costs-and-ledger.md"), "outcome")) == {outcome.value for outcome in Outcome}


def test_every_dialect_is_documented() -> None:
    assert set(table(page("providers.md"), "type")) == set(known_types())


@pytest.mark.parametrize(
    ("title", "model"),
    [
        ("Settings", sandbox_settings.SandboxSettings),
        ("Accounts", sandbox_settings.Account),
        ("Faults", sandbox_settings.Fault),
    ],
)
def test_every_setting_of_the_sandbox_is_documented(title: str, model: type[BaseModel]) -> None:
    assert set(table(section(page("sandbox.md"), title), "field")) == set(model.model_fields)


def test_every_kind_of_fault_is_documented() -> None:
    kinds = re.search(r"^Kinds: (.*?)\.$", page("sandbox.md"), re.MULTILINE | re.DOTALL)
    assert kinds
    assert re.findall(r"`(\w+)`", kinds[1]) == list(get_args(sandbox_settings.FaultKind))
