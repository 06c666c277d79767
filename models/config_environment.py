"""The vendors whose keys are found in the environment by their usual names, and the configuration that these alone make.

It reads no file; `models.config_file` does, and comes here when there is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vendor:
    """What the file says of a provider. The first of `variables` is the one that is written when none is set."""

    id: str
    name: str
    key_id: str
    variables: tuple[str, ...]
    model: str


VENDORS = (
    Vendor("openai", "OpenAI", "oa-1", ("OPENAI_API_KEY",), "gpt-5.4-mini"),
    Vendor("gemini", "Gemini", "gm-1", ("GEMINI_API_KEY",), "gemini-3.5-flash"),
    Vendor("claude", "Claude", "cl-1", ("CLAUDE_API_KEY", "ANTHROPIC_API_KEY"), "claude-haiku-4-5"),
)


def found_keys(environ: Mapping[str, str]) -> list[tuple[Vendor, str]]:
    """The vendors that have a key in the environment, each with the first of its variables that is set."""
    return [
        (vendor, next(name for name in vendor.variables if environ.get(name)))
        for vendor in VENDORS
        if any(environ.get(name) for name in vendor.variables)
    ]


def smallest(found: list[tuple[Vendor, str]]) -> str:
    """The text of the configuration that these keys make: no limits, no prices."""
    providers = [
        {"id": vendor.id, "name": vendor.name, "keys": [{"id": vendor.key_id, "secret": f"${{{variable}}}"}]}
        for vendor, variable in found
    ]
    return json.dumps({"providers": providers})
