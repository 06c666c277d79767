"""Bad lines by their cause."""

from submit.causes import Causes, sentences


def test_one_cause_is_one_message() -> None:
    causes = Causes()
    for number in range(1, 201):
        causes.add(number, "has no model")
    causes.add(201, "not JSON")
    assert sentences(causes.found(), 201) == ["200 lines (1, 2, 3, 4, 5, …): have no model", "line 201: not JSON"]


def test_reasons_that_differ_in_values_only_are_shown_a_few_times() -> None:
    causes = Causes()
    for number in range(1, 11):
        causes.add(number, f"duplicate id 'a{number}': line {number + 100} has it too")
    found = causes.found()
    assert [cause.count for cause in found] == [1, 1, 8]
    assert sum(cause.count for cause in found) == 10
    assert sentences(found, 10)[1:] == [
        "line 2: duplicate id 'a2': line 102 has it too",
        "8 lines (3, 4, 5, 6, 7, …), such as line 3: duplicate id 'a3': line 103 has it too",
    ]


def test_memory_is_bounded() -> None:
    causes = Causes()
    for number in range(5000):
        causes.add(number, f"reason {'x' * number}")
    found = causes.found()
    assert len(found) < 1000
    assert sum(cause.count for cause in found) == 5000
