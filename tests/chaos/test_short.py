"""The chaos suite in short: the same scenarios with few kills and rows, so that no change breaks a promise unnoticed."""

from __future__ import annotations

import pytest

from tests.chaos.__main__ import repeat
from tests.chaos.performance import perform
from tests.chaos.registry import Scenario, scenarios

SEED = 20_261_122
SHORT = [one for one in scenarios().values() if one.short is not None]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("one", SHORT, ids=lambda one: f"{one.name}-{one.short_on}")
def test_a_scenario_in_short_breaks_no_promise(one: Scenario, request: pytest.FixtureRequest) -> None:
    assert one.short is not None
    url = "sqlite:" if one.short_on == "sqlite" else str(request.getfixturevalue("postgres_url"))
    figures = perform(one, url, seed=SEED, scale=one.short)
    assert not figures.promises(), f"{figures.promises()} {figures.remarks}; again: {repeat(figures, one.short)}"
