"""What a log says seldom, and what becomes news again."""

from __future__ import annotations

import pytest

from worker import logs


def test_the_same_is_news_again_after_a_while_or_when_it_has_ended_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    seldom = logs.Seldom()
    assert seldom.news("away")
    assert not seldom.news("away")
    assert seldom.news("full")
    now += logs.TELL_AGAIN - 1
    assert not seldom.news("away")
    now += 1
    assert seldom.news("away")
    seldom.over("away")
    assert seldom.news("away")
    seldom.over("never there")
