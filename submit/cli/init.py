"""`truckllm init`: writes a first truckllm.yaml from the keys found in the environment, by their names, never their values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from models.config_environment import VENDORS, Vendor
from models.errors import StorageError, UsageError
from submit.cli.output import note

_HEAD = """\
# TruckLLM's configuration. Keys stay in the environment: ${NAME} is replaced by the variable NAME, and only by commands that
# call providers. Limits are those of your account, a minute; prices are per 1,000 tokens, read exactly as written. Without
# limits what the server takes is learned, from a few calls at once on; without prices calls are reported as unpriced.

# Storage. Without these two, everything lives in ./.truckllm (SQLite, and a server of its own while work is done).
# redis_url: redis://localhost:6379/0
# database_url: postgresql://user:password@localhost:5432/truckllm

# Prices of models that have none below, from the package of that name (pip install genai-prices). It asks nobody.
# price_list: genai-prices

providers:
"""

_PROVIDER = """\
  - id: {id}
    name: "{name}"
    # base_url: the vendor's own; set it for a proxy or a compatible server
    keys:
      - id: "{key_id}"
        secret: "${{{variable}}}"
        # limit_req_per_min: 200
        # limit_tokens_per_min: 100000
        # limit_req_per_day: 10000      # in the days of day_resets: "America/Los_Angeles" (UTC by default)
        # use: 0.8                      # leaves a share of the limits to others
        # pool: team-a                  # keys that share one quota name the same pool
        # pricing:
        #   input_token_cost: 0.002     # for 1,000 tokens
        #   output_token_cost: 0.01
        #   currency: "USD"
"""

_TAIL = """\

# Routes: a line with "route": "{route}" goes to the first candidate that works. `truckllm models` lists the models there are.
# routes:
#   {route}:
#     candidates: [{candidates}]
#     strategy: priority              # or cost_first, latency_first, round_robin
"""


def init(
    config: Annotated[
        Path | None, typer.Option("-c", "--config", metavar="FILE", help="The file to write; else ./truckllm.yaml.")
    ] = None,
) -> None:
    """Write a first truckllm.yaml (or the file that -c names) from the keys in the environment.

    It looks for OPENAI_API_KEY, GEMINI_API_KEY, CLAUDE_API_KEY and ANTHROPIC_API_KEY, and writes their names, not their values. A file
    that is there already is never overwritten.
    """
    path = config or Path("truckllm.yaml")
    text, missing = first_config(os.environ)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} is there already; remove it, or name another file with -c") from None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from None
    note(f"{path} is written; fill in your limits and prices")
    if missing:
        note(f"no key was found in the environment: set {missing} before you run it")


def first_config(environ: Mapping[str, str]) -> tuple[str, str]:
    """The file's text, and the variable that has to be set first ("" if keys were found)."""
    found = [(vendor, name) for vendor in VENDORS for name in vendor.variables if environ.get(name)]
    chosen: dict[str, tuple[Vendor, str]] = {}
    for vendor, name in found:
        chosen.setdefault(vendor.id, (vendor, name))
    missing = "" if chosen else VENDORS[0].variables[0]
    used = list(chosen.values()) or [(VENDORS[0], missing)]
    blocks = [
        _PROVIDER.format(id=vendor.id, name=vendor.name, key_id=vendor.key_id, variable=name) for vendor, name in used
    ]
    candidates = ", ".join(f'"{vendor.id}/{vendor.model}"' for vendor, _ in used)
    return _HEAD + "\n".join(blocks) + _TAIL.format(route="default", candidates=candidates), missing
