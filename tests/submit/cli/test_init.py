"""`init`: a first configuration, by the names of variables."""

from __future__ import annotations

from pathlib import Path

from models.config_file import load_config_text
from submit.cli.init import first_config
from tests.submit.cli.reading import Cli


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


def test_no_model_that_is_gone_is_suggested() -> None:
    text, _ = first_config({"OPENAI_API_KEY": "o", "CLAUDE_API_KEY": "c", "GEMINI_API_KEY": "g"})
    assert '["openai/gpt-5.4-mini", "gemini/gemini-3.5-flash", "claude/claude-haiku-4-5"]' in text
    for gone in ("gemini-1.5", "claude-3", "gpt-3.5"):
        assert gone not in text
