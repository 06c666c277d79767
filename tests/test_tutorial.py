"""Follows docs/plugins.md from an empty folder, word for word: saves its files, types its commands, compares what they say.

What it changes: the port, which may be taken; and `pip install` puts the plugin into a folder of the test instead of where we live.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "plugins.md"
PORT = "8765"
MARK = "~~~ step {number} ended with {code} ~~~"
START = "trap 'kill $!' EXIT\n"
"""The vendor ends with the page, or with the first step that fails."""
PIP = """\
#!/bin/sh
[ "$1" = install ] && shift && exec "{python}" -m pip install --quiet --no-deps --disable-pip-version-check --target "{site}" "$@"
"""


@dataclass
class Step:
    """A file to save, or a command to type with what it says. `expected` is None where the page doesn't tell."""

    text: str
    file: str | None = None
    expected: str | None = None


def steps(page: str) -> Iterator[Step]:
    """The fenced blocks in order. Whatever is no command and no output has to say under which name it is saved."""
    step: Step | None = None
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        language, text = found.groups()
        before = page[: found.start()].rstrip()
        if language == "text":
            assert step is not None
            step.expected = text
            continue
        if step is not None:
            yield step
        step = None
        if before.endswith("-->") and "<!-- not run here: " in before.rpartition("\n")[2]:
            continue
        named = re.search(r"as\s+`([\w.]+)`:$", before)
        assert language == "bash" or named, f"under which name is this {language} saved?\n{text}"
        step = Step(text, named[1] if named and language != "bash" else None)
    if step is not None:
        yield step


def as_bash(number: int, step: Step, port: int) -> str:
    text = step.text.replace(PORT, str(port))
    if step.file:
        return f"cat > {step.file} <<'END OF {step.file}'\n{text}END OF {step.file}\n"
    if text.endswith("&\n"):  # people type slower than servers start
        text += f"until (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.05; done\n"
    mark = MARK.format(number=number, code="'$?'")
    return f"{text}echo '{mark}'\n"


def pattern(expected: str) -> str:
    """`…` stands for anything."""
    return ".*?".join(re.escape(part) for part in expected.strip().split("…"))


def free_port() -> int:
    """One that nobody is given who asks for any: the page's server takes it only seconds later."""
    for port in random.sample(range(15_000, 30_000), 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for the path, with `truckllm` as installed and a `pip` that doesn't touch this environment."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name, text in (
        ("truckllm", f'#!/bin/sh\nexec "{sys.executable}" -P -m truckllm "$@"\n'),
        ("pip", PIP.format(python=sys.executable, site=tmp_path / "site")),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.full
def test_the_tutorial_makes_a_working_plugin(tools: Path, tmp_path: Path) -> None:
    page = list(steps(PAGE.read_text()))
    assert [step.file for step in page if step.file] == [
        "acme_server.py",
        "acme.py",
        "test_acme.py",
        "truckllm.yaml",
        "prompts.jsonl",
        "pyproject.toml",
    ]
    port = free_port()
    here = tmp_path / "here"
    here.mkdir()
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRUCKLLM_", "PYTEST_"))}
    process = subprocess.Popen(
        ["bash", "-euc", START + "".join(as_bash(number, step, port) for number, step in enumerate(page))],
        cwd=here,
        env={**kept, "PATH": path, "PYTHONPATH": str(tmp_path / "site")},
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "stderr").open("w"),
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=100)
    finally:
        with contextlib.suppress(ProcessLookupError):  # the vendor, if a step before its end hangs
            os.killpg(process.pid, signal.SIGKILL)
    told = (tmp_path / "stderr").read_text()
    left = said
    for number, step in enumerate(page):
        if step.file:
            continue
        output, mark, left = left.partition(MARK.format(number=number, code=0) + "\n")
        assert mark, f"{step.text}failed:\n{output}\n{told}"
        if step.expected is not None:
            assert re.fullmatch(pattern(step.expected), output.strip(), re.DOTALL), (
                f"{step.text}said:\n{output}\n{told}"
            )
