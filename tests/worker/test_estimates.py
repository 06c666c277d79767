"""Estimates of tokens: cold by characters and bounds, warm by what calls really took, never negative and never beyond the request."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from models.guesses import COLD_OUTPUT_TOKENS, MEDIA_TOKENS, TOKENS_A_MESSAGE, characters
from worker.estimates import MOST_MODELS, WARM_AFTER, Estimates

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)
COUNTS = st.integers(0, 10**9)


def chat(text: str) -> tuple[int, int]:
    """The size of a request with one message."""
    return characters({"messages": [{"role": "user", "content": text}]})


def test_text_is_counted_wherever_it_lies_and_other_values_are_not() -> None:
    assert characters({"a": "four", "b": ["two", 7, None, True, {"c": "x"}]}) == (8, 0)
    assert characters({}) == (0, 0)
    assert characters(3.5) == (0, 0)


def test_an_inline_picture_counts_as_one_medium_and_not_as_a_megabyte_of_text() -> None:
    picture = "data:image/png;base64," + "A" * 1_000_000
    assert characters(["see", picture]) == (3, 1)
    assert characters("Q" * 1000) == (0, 1)
    prose = "a word and another " * 100
    assert characters(prose) == (len(prose), 0)
    assert Estimates().input_tokens("m", chat(picture)) < 2 * MEDIA_TOKENS


def test_cold_output_is_the_requests_own_bound_or_else_a_guess() -> None:
    assert Estimates().output_tokens("m", 300) == 300
    assert Estimates().output_tokens("m", None) == COLD_OUTPUT_TOKENS
    assert Estimates(default_output_tokens=77).output_tokens("m", None) == 77
    assert Estimates(default_output_tokens=77).output_tokens("m", 20) == 20


def test_warm_estimates_are_what_calls_take() -> None:
    estimates = Estimates()
    prompt = chat("x y " * 500)
    for _ in range(WARM_AFTER):
        estimates.learn("m", prompt, 504, 40)
    assert abs(estimates.input_tokens("m", prompt) - 504) <= 2
    assert abs(estimates.input_tokens("m", chat("x y " * 1000)) - 1004) <= 4
    assert estimates.output_tokens("m", None) == 40
    assert estimates.output_tokens("m", 4000) == 40
    assert estimates.output_tokens("m", 15) == 15


def test_what_is_learned_of_one_model_tells_nothing_of_another() -> None:
    estimates = Estimates()
    for _ in range(50):
        estimates.learn("short", chat("hello there"), 10, 3)
    assert estimates.output_tokens("short", None) == 3
    assert estimates.output_tokens("long", None) == COLD_OUTPUT_TOKENS


def test_a_few_first_calls_never_make_the_input_look_smaller_than_cold() -> None:
    estimates = Estimates()
    prompt = chat("w " * 700)
    cold = estimates.input_tokens("m", prompt)
    for _ in range(WARM_AFTER - 1):
        estimates.learn("m", prompt, 14, 1)
        assert estimates.input_tokens("m", prompt) >= cold


def test_a_change_of_habit_is_followed() -> None:
    estimates = Estimates()
    for _ in range(200):
        estimates.learn("m", chat("one two"), 10, 1000)
    for _ in range(100):
        estimates.learn("m", chat("one two"), 10, 10)
    assert estimates.output_tokens("m", None) < 50


def test_one_lie_about_the_output_does_not_make_the_next_calls_huge() -> None:
    estimates = Estimates()
    for _ in range(50):
        estimates.learn("m", chat("one two"), 10, 100)
    estimates.learn("m", chat("one two"), 10, 10**8)
    assert estimates.output_tokens("m", None) < 15_000
    for _ in range(100):
        estimates.learn("m", chat("one two"), 10, 100)
    assert estimates.output_tokens("m", None) < 250


@given(JSON, st.lists(st.tuples(JSON, COUNTS, COUNTS), max_size=12), st.none() | st.integers(1, 10**9))
def test_estimates_are_whole_positive_and_within_the_bound_after_any_experience(
    source: Any, past: list[tuple[Any, int, int]], most: int | None
) -> None:
    estimates = Estimates()
    for seen, input_tokens, output_tokens in past:
        estimates.learn("m", characters({"input": seen}), input_tokens, output_tokens)
    going_in = estimates.input_tokens("m", characters({"input": source}))
    assert isinstance(going_in, int)
    assert going_in >= TOKENS_A_MESSAGE
    coming_out = estimates.output_tokens("m", most)
    assert isinstance(coming_out, int)
    assert 1 <= coming_out <= (most or 10**9)


def test_experience_does_not_grow_with_the_number_of_model_names_and_the_used_ones_stay() -> None:
    estimates = Estimates()
    for number in range(MOST_MODELS + 50):
        estimates.learn(f"model-{number}", chat("word " * 10), 20, 3)
        estimates.learn("mine", chat("word " * 10), 20, 3)
    assert len(estimates._output) == len(estimates._input) == MOST_MODELS
    assert estimates.output_tokens("mine", 1000) == 3
    assert estimates.output_tokens("model-1", 1000) == 1000


def test_a_hidden_prompt_is_found_by_the_first_answer_and_a_long_prompt_does_not_pay_for_it_twice() -> None:
    estimates = Estimates()
    estimates.learn("m", (9, 0), 1000, 5)
    assert 990 <= estimates.input_tokens("m", (9, 0)) <= 1010
    assert estimates.input_tokens("m", (35_000, 0)) < 12_000


def test_overhead_and_ratio_are_told_apart_by_inputs_of_different_lengths() -> None:
    estimates = Estimates()
    for number in range(60):
        length = 200 + 900 * (number % 5)
        estimates.learn("m", (length, 0), 500 + length // 2, 5)
    assert abs(estimates.input_tokens("m", (10_000, 0)) - 5500) < 100
    assert abs(estimates.input_tokens("m", (100, 0)) - 550) < 50


def test_the_longest_output_without_a_bound_is_known_after_some_answers() -> None:
    estimates = Estimates()
    for tokens in (10, 80, 20, 30):
        estimates.learn_unbounded("m", tokens)
    assert estimates.longest_output("m") is None
    estimates.learn_unbounded("m", 40)
    assert estimates.longest_output("m") == 101
    assert estimates.longest_output("other") is None
