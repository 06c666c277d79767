"""What the formats' tests read with: three providers, and a reader of bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from models.config import Config
from models.errors import BadLine
from models.formats.lines import Line, read_lines
from models.lanes import Lanes

Reader = Callable[..., list[Line | BadLine]]


@pytest.fixture(scope="session")
def three_lanes() -> Lanes:
    key = {"id": "k1", "secret": "s"}
    providers = [{"id": name, "keys": [key]} for name in ("openai", "gemini", "claude")]
    routes = {"smart": {"candidates": ["openai/gpt-4o", "claude/claude-haiku-4-5"]}}
    return Lanes(Config.model_validate({"providers": providers, "routes": routes}))


@pytest.fixture(scope="session")
def read(three_lanes: Lanes) -> Reader:
    def read_bytes(content: bytes, **options: Any) -> list[Line | BadLine]:
        return list(read_lines(io.BytesIO(content), three_lanes, **options))

    return read_bytes
