"""The chaos suite in short: the same scenarios with few kills and rows, so that no change breaks a promise unnoticed."""

from __future__ import annotations

import pytest

from tests.chaos.__main__ import repeat
from tests.chaos.performance import perform
from tests.chaos.registry import scenarios

SEED = 20_261_122
SHORT = [
    pytest.param(one, kind, id=f"{one.name}-{kind}")
    for one in scenarios().values()
    if one.short is not None
    for kind in one.databases[:1]
]


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("one", "kind"), SHORT)
def test_a_scenario_in_short_breaks_no_promise(one, kind, request: pytest.FixtureRequest) -> None:  # type: ignore[no-untyped-def]
    assert one.short is not None
    url = "sqlite:" if kind == "sqlite" else str(request.getfixturevalue("postgres_url"))
    figures = perform(one, url, seed=SEED, scale=one.short)
    assert not figures.promises(), f"{figures.promises()} {figures.remarks}; again: {repeat(figures, one.short)}"
