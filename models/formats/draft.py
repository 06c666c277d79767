"""What a dialect reads from one input line, before the line has found its lane.

It does not decide anything: `lines` does, with the ids seen so far and the lanes of the configuration.
"""

from __future__ import annotations

from typing import NamedTuple


class Draft(NamedTuple):
    """`body` is what is stored for the worker; names are None where the line has none. `metadata` is what stands beside the body."""

    operation: str
    model: str | None
    provider: str | None
    route: str | None
    body: bytes
    metadata: bytes | None = None
