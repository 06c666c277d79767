"""`class: module:Class` in the configuration: found beside it, hiding nothing, imported by those who call providers only, and errors that
say where and why.

What the class then does is test_plugin.py's business.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.config_file import load_config
from models.errors import ConfigError
from tests.servers import SandboxProcess
from worker.providers.contract import NoSender
from worker.providers.openai import OpenAI
from worker.providers.registry import make_provider, provider_class

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
GOOD = "from worker.providers.openai import OpenAI\n\nclass MyVendor(OpenAI):\n    pass\n"
UNFINISHED = (
    "from truckllm import JsonProvider\n\nclass MyVendor(JsonProvider):\n    def path(self, request): return '/x'\n"
)
PICKY = """\
from worker.providers.openai import OpenAI

class MyVendor(OpenAI):
    def __init__(self, config, sender):
        super().__init__(config, sender)
        raise KeyError(f"region {config.keys[0].secret.reveal()}")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a configuration; what is imported from it is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def configured(folder: Path, named: str, **more: Any) -> Any:
    """The provider's settings, as read from a file in the folder. It is the second one in it."""
    keys = [{"id": "k", "secret": "sk-plugin-class-1"}]
    mine = {"id": "mine", "class": named, "base_url": "https://x.example/v1", "keys": keys, **more}
    (folder / "truckllm.yaml").write_text(json.dumps({"providers": [{"id": "openai", "keys": keys}, mine]}))
    return load_config(folder / "truckllm.yaml", secrets=True).provider("mine")


def test_a_class_beside_the_configuration_is_found_wherever_one_stands(folder: Path) -> None:
    (folder / "my_vendor.py").write_text(GOOD)
    provider = make_provider(configured(folder, "my_vendor:MyVendor"), NoSender())
    assert isinstance(provider, OpenAI)
    assert (type(provider).__name__, provider.name) == ("MyVendor", "mine")


def test_a_class_may_lie_in_a_package_and_import_its_neighbours(folder: Path) -> None:
    package = folder / "my_vendors"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "first.py").write_text("from my_words import NAME\n" + GOOD + "    word = NAME\n")
    (folder / "my_words.py").write_text("NAME = 'neighbour'\n")
    assert vars(provider_class(configured(folder, "my_vendors.first:MyVendor")))["word"] == "neighbour"


def test_an_installed_class_needs_no_file(folder: Path) -> None:
    assert provider_class(configured(folder, "worker.providers.openai:OpenAI")) is OpenAI


def test_the_folder_is_the_last_place_that_is_searched(folder: Path) -> None:
    (folder / "my_vendor.py").write_text(GOOD)
    before = [*sys.path]
    provider_class(configured(folder, "my_vendor:MyVendor"))
    provider_class(configured(folder, "my_vendor:MyVendor"))
    assert sys.path == [*before, str(folder)]


@pytest.mark.parametrize(
    ("file", "text", "named", "told"),
    [
        (None, "", "my_vendor:MyVendor", ["there is no module my_vendor: {folder} holds none, and none is installed"]),
        ("my_vendor.py", GOOD, "my_vendor.inner:MyVendor", ["there is no module my_vendor.inner"]),
        ("my_vendor.py", GOOD, "my_vendor:MyVendr", ["my_vendor.py has no class MyVendr; did you mean MyVendor?"]),
        ("my_vendor.py", "MyVendor = dict\n", "my_vendor:MyVendor", ["is no subclass of truckllm.Provider"]),
        ("my_vendor.py", "MyVendor = 3\n", "my_vendor:MyVendor", ["is no subclass of truckllm.Provider"]),
        ("my_vendor.py", UNFINISHED, "my_vendor:MyVendor", ["it has to define read_answer, write_body"]),
        ("my_vendor.py", "import no_such_thing\n", "my_vendor:MyVendor", ["No module named 'no_such_thing'", "line 1"]),
        (
            "my_vendor.py",
            "\n1 / 0\n",
            "my_vendor:MyVendor",
            ["ZeroDivisionError: division by zero", "my_vendor.py, line 2"],
        ),
        ("my_vendor.py", "def (\n", "my_vendor:MyVendor", ["SyntaxError", "my_vendor.py, line 1"]),
        ("my_vendor.py", "raise SystemExit(3)\n", "my_vendor:MyVendor", ["SystemExit: 3"]),
        ("models.py", GOOD, "models:MyVendor", ["{folder}/models.py is hidden by", "rename yours"]),
        ("json.py", GOOD, "json:MyVendor", ["{folder}/json.py is hidden by", "rename yours"]),
        ("sys.py", GOOD, "sys:MyVendor", ["{folder}/sys.py is hidden by a module of Python's own"]),
        ("openai.py", GOOD, "openai:MyVendor", ["{folder}/openai.py is hidden by"]),
    ],
    ids=lambda value: value if isinstance(value, str) and "\n" not in value else None,
)
def test_what_is_wrong_with_a_class_is_told_with_its_place(
    folder: Path, file: str | None, text: str, named: str, told: list[str]
) -> None:
    if file:
        (folder / file).write_text(text)
    with pytest.raises(ConfigError) as error:
        provider_class(configured(folder, named))
    assert str(error.value).startswith(f"providers[1].class: {named}")
    for part in told:
        assert part.format(folder=folder) in str(error.value)


def test_a_class_that_doesnt_like_its_configuration_says_so_without_the_key(folder: Path) -> None:
    (folder / "my_vendor.py").write_text(PICKY)
    with pytest.raises(ConfigError) as error:
        make_provider(configured(folder, "my_vendor:MyVendor"), NoSender())
    assert str(error.value).startswith(
        "providers[1]: MyVendor can't be made from this configuration: KeyError: 'region ***'"
    )
    assert "my_vendor.py, line 6" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"class": "my_vendor"}, "providers[1].class is 'my_vendor'; should be package.module:Class"),
        ({"class": "../evil:Class"}, "should be package.module:Class"),
        ({"class": 3}, "providers[1].class should be text"),
        ({"class": "a:B", "type": "openai"}, "providers[1].class stands beside type: 'openai'; keep one of them"),
        ({"class": "a:B", "type": "klingon"}, "providers[1].class stands beside type: 'klingon'; keep one of them"),
        ({"clas": "a:B"}, "providers[1].clas is an unknown field; did you mean class?"),
    ],
)
def test_what_is_no_class_is_told_with_its_yaml_path(folder: Path, changes: dict[str, Any], told: str) -> None:
    given = {"named": changes.pop("class", "a:B"), **changes}
    with pytest.raises(ConfigError) as error:
        configured(folder, **given)
    assert told in str(error.value)


HOSTILE = ("models", "submit", "worker", "truckllm", "json", "httpx", "yaml", "celery")
"""Files that anybody may have lying around."""


def test_only_workers_import_the_class_and_the_folder_hides_nothing(
    cli: Cli,
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    tmp_path: Path,
) -> None:
    for name in HOSTILE:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py was imported')\n")
    seen = tmp_path / "imported"
    (tmp_path / "my_vendor.py").write_text(f"open({str(seen)!r}, 'a').write('x')\n{GOOD}")
    write_config(sandbox.url, providers=["openai"], settings={"openai": {"class": "my_vendor:MyVendor"}})
    lines = write_lines([{"model": "gpt-4o-mini", "prompt": "a"}])

    for arguments in (("submit", lines), ("status",)):
        done = cli(*arguments)
        assert done.returncode == 0, done.stderr
    assert not seen.exists()
    done = cli("run", lines, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["succeeded"] == 1
    assert seen.exists()
    done = cli("models", "--json")
    assert done.returncode == 0, done.stderr
    assert {row["provider"] for row in json.loads(done.stdout)["models"]} == {"openai"}


def test_a_class_that_cant_be_loaded_stops_run_and_doctor_with_the_reason(
    cli: Cli, write_config: Callable[..., Path], write_lines: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "my_vendor.py").write_text("1 / 0\n")
    write_config("http://127.0.0.1:9", providers=["openai"], settings={"openai": {"class": "my_vendor:MyVendor"}})
    told = "my_vendor:MyVendor can't be loaded: ZeroDivisionError: division by zero"
    done = cli("run", write_lines([{"model": "gpt-4o-mini", "prompt": "a"}]))
    assert done.returncode == ConfigError.exit_code
    assert f"the worker can't start: providers[0].class: {told}" in done.stderr
    assert "Traceback" not in done.stderr
    done = cli("doctor")
    assert done.returncode != 0
    assert "providers[0] (openai): class: " in done.stdout
    assert told in done.stdout
