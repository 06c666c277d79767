"""The public names work from a user's own script, whatever else lies in its folder, or say what is in the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import truckllm

SCRIPT = "from truckllm import Request, submit_batch; print(Request.__module__, submit_batch.__module__)"


def run(script: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60)


def test_a_script_called_like_one_of_our_rooms_is_no_obstacle(tmp_path: Path) -> None:
    script = tmp_path / "submit.py"
    script.write_text(SCRIPT)
    done = run(script)
    assert done.stdout.split() == ["models.request", "submit.producer"], done.stderr


@pytest.mark.parametrize("first", ["", "import models\n"])
def test_a_users_own_models_py_is_named_as_what_is_in_the_way(tmp_path: Path, first: str) -> None:
    (tmp_path / "models.py").write_text("MINE = True\n")
    script = tmp_path / "script.py"
    script.write_text(first + SCRIPT)
    done = run(script)
    assert done.returncode == 1
    assert f"{tmp_path}/models.py hides TruckLLM's own package 'models'" in done.stderr
    assert "python -P" in done.stderr


def test_python_p_gets_past_a_users_own_models_py(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("raise SystemExit('imported')\n")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, "-P", str(script)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_contract_asks_for_pytest_by_name_where_there_is_none(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys; sys.modules['pytest'] = None\nfrom truckllm import ProviderContract")
    done = run(script)
    assert done.returncode == 1
    assert "ProviderContract needs pytest: pip install 'truckllm[plugin]'" in done.stderr


def test_every_public_name_is_there() -> None:
    missing = [name for name in truckllm.__all__ if not hasattr(truckllm, name)]
    assert missing == []
