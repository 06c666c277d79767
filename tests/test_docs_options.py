"""Wherever a page names an option, there is one: of the command that it stands behind, if it stands behind one.

That each option of each command is documented, is shown by `tests/test_docs.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pages import PAGES, ROOT
from tests.test_docs import COMMANDS, with_its_own

EVERYWHERE = {"--help", "--version", "--install-completion", "--show-completion"}
OTHERS = {
    *("--data-binary",),  # curl
    *("--scale", "--rm", "--user", "--profile"),  # docker
    *("--appendonly",),  # Redis
    *("--api-key",),  # vLLM
    *("--list", "--only", "--seed", "--database", "--jobs", "--replay", "--minutes"),  # the chaos suite, the fuzzer
}
"""Options of other programs, which stand in the docs too."""
PAGES_AND_CHANGES = [*PAGES, ROOT / "CHANGELOG.md"]
ids = {path: path.name for path in PAGES_AND_CHANGES}


def options() -> dict[str, set[str]]:
    """The options of each command, by its words."""
    return {
        words: {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        for entry in COMMANDS
        for words, command in with_its_own(entry)
    }


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    return options()


@pytest.mark.parametrize("path", PAGES_AND_CHANGES, ids=ids.get)
def test_every_option_that_a_page_names_exists(path: Path, known: dict[str, set[str]]) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", path.read_text()))
    assert named <= EVERYWHERE.union(OTHERS, *known.values())


@pytest.mark.parametrize("path", PAGES_AND_CHANGES, ids=ids.get)
def test_an_option_behind_a_command_is_that_commands(path: Path, known: dict[str, set[str]]) -> None:
    wrong = []
    # in a code block or between backticks: the command's words up to the end of the line, of the span, the clause or the pipe
    for call in re.findall(r"\btruckllm ([a-z](?:(?!, )[^`\n|;)#&])*)", path.read_text()):
        words = call.split()
        name = next((" ".join(words[:many]) for many in (2, 1) if " ".join(words[:many]) in known), None)
        if name is not None:
            given = {word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)}
            wrong += [(name, option) for option in sorted(given - known[name] - EVERYWHERE)]
    assert not wrong


def test_the_rules_above_would_find_an_option_that_is_gone(known: dict[str, set[str]]) -> None:
    assert "--no-fallback" in known["run"]
    assert "--no-fallback" not in known["status"]
    assert "drain" in {words.split()[-1] for words in known}
