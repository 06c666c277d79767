"""Duplicate ids are found at any size, with flat memory."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from models.formats.ids import SeenIds


@given(st.lists(st.text(max_size=2), max_size=80))
def test_the_first_line_of_each_id_is_remembered(ids: list[str]) -> None:
    seen = SeenIds()
    first: dict[str, int] = {}
    for number, custom_id in enumerate(ids, start=1):
        assert seen.first_line(custom_id, number) == first.get(custom_id)
        first.setdefault(custom_id, number)


def test_a_big_file_costs_a_few_bytes_a_line_and_finds_its_duplicates() -> None:
    count = 200_000
    tracemalloc.start()
    try:
        seen = SeenIds()
        assert all(seen.first_line(f"customer-with-a-long-name-{n}", n) is None for n in range(1, count + 1))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 36 * count + 65_536
    for number in (1, 4_097, count):
        assert seen.first_line(f"customer-with-a-long-name-{number}", count + 1) == number
