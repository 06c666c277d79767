"""Links and files in the documentation are there, and its examples run as they stand."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import PAGES, ROOT, blocks
from tests.servers import SandboxProcess


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_and_named_files_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        assert not file or (path.parent / file).exists(), f"{path.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (path.parent / file).read_text() if file else text, re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
    for file in re.findall(r"`((?:tests|models|submit|worker|docs|examples)/[\w./-]*)`", text):
        assert (ROOT / file).exists(), f"{path.name} names {file}"


def test_the_two_commands_for_developers_are_the_readmes() -> None:
    first = blocks((ROOT / "README.md").read_text(), "bash")[0]
    assert first.split("\n")[:-1] == ["make demo", "make test"]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {name for path in PAGES for name in re.findall(r"`?make ([a-z][\w-]+)`", path.read_text())}
    assert named <= set(targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def runnable(text: str) -> list[str]:
    """The bash and Python blocks that no comment excuses (the comment says why), in order, as bash."""
    found = re.findall(r"(<!-- not run here: [^>]+ -->\n)?```(bash|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    as_bash = {"bash": "{}", "python": "python -P - <<'PYTHON'\n{}PYTHON\n"}
    return [as_bash[language].replace("{}", block) for excuse, language, block in found if not excuse]


SHIM = """\
#!/bin/sh
# truckllm as installed; a configuration that `init` writes is pointed at the sandbox
if [ "$1" != init ]; then exec "{python}" -P -m truckllm "$@"; fi
"{python}" -P -m truckllm "$@" || exit
exec "{python}" - <<'END'
import pathlib, re
path = pathlib.Path("truckllm.yaml")
path.write_text(re.sub("(  - id: (.*)\\n    name: .*\\n)", "\\\\1    base_url: {url}/\\\\2/v1\\n", path.read_text()))
END
"""


@pytest.mark.parametrize(
    "path", [p for p in PAGES if p.stem != "plugins" and runnable(p.read_text())], ids=lambda p: p.name
)
def test_examples_run_as_they_stand(path: Path, sandbox: SandboxProcess, tmp_path: Path) -> None:
    tools, here = tmp_path / "tools", tmp_path / "here"
    tools.mkdir()
    here.mkdir()
    shim = tools / "truckllm"
    shim.write_text(SHIM.format(python=sys.executable, url=sandbox.url))
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("TRUCKLLM_", "OPENAI_", "PYTHONPATH"))
    }
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", "\n".join(runnable(path.read_text()))],
        cwd=here,
        env={**kept, "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), kept["PATH"]])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=90)
    finally:
        with contextlib.suppress(ProcessLookupError):  # what an example leaves running when it fails half way
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, said
    assert "succeeded" in said


def test_the_readme_runs_more_than_it_excuses() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(runnable(text)) >= 4
    assert all(len(excuse) > 15 for excuse in re.findall(r"<!-- not run here: (.*?) -->", text))
