"""Money is exact: prices from decimals, one rounding per call, amounts that read back as they were shown."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import UsageError
from models.money import Price, cost_nanos, decimal_amount, format_money, parse_amount, parse_cap, price_per_million

PRICES = st.decimals(min_value=0, max_value=9_999_999, places=12, allow_nan=False, allow_infinity=False)
PARTS = st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**18).map(Price)), max_size=6)
NANOS = st.integers(-(10**30), 10**30)


@given(PRICES)
def test_a_price_per_thousand_tokens_is_kept_exactly(per_thousand: Decimal) -> None:
    # The arithmetic must not depend on anybody's decimal context.
    with localcontext(prec=3):
        price = price_per_million.__wrapped__(per_thousand)
    assert Fraction(price) == Fraction(per_thousand) * 1000 * 10**9


def test_the_cheapest_cached_token_of_the_hard_corners_costs_what_it_costs() -> None:
    # 18.75 nanos a token: no whole number, but a whole number a million.
    assert price_per_million(Decimal("0.00001875")) == 18_750_000


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("-0.001", "0 or more"),
        ("NaN", "a number"),
        ("Infinity", "a number"),
        ("10000000", "at most 9,999,999"),
        ("1E+999999", "at most 9,999,999"),
        ("0.0000000000001", "12 decimals"),
        ("1.0000000000001", "12 decimals"),
        ("1E-999999999", "12 decimals"),
    ],
)
def test_an_impossible_price_says_what_would_be_right(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        price_per_million(Decimal(text))


@pytest.mark.parametrize("zero", ["0", "0.000", "-0", "0E-999999999", "0E+999999999"])
def test_a_price_of_nothing_is_allowed_when_it_is_written_down(zero: str) -> None:
    assert price_per_million(Decimal(zero)) == 0


@given(PARTS)
def test_a_call_is_rounded_once_half_to_even(parts: list[tuple[int, Price]]) -> None:
    exact = sum((Fraction(tokens * price, 10**6) for tokens, price in parts), Fraction(0))
    assert cost_nanos(parts) == round(exact)  # Fraction rounds half to even


@given(PARTS)
def test_the_order_of_the_parts_does_not_matter(parts: list[tuple[int, Price]]) -> None:
    assert cost_nanos(parts) == cost_nanos(reversed(parts))


@pytest.mark.parametrize(("price", "nanos"), [(499_999, 0), (500_000, 0), (500_001, 1), (1_500_000, 2), (2_500_000, 2)])
def test_halves_go_to_the_even_nano(price: int, nanos: int) -> None:
    assert cost_nanos([(1, Price(price))]) == nanos


def test_two_halves_of_one_call_are_added_before_they_are_rounded() -> None:
    assert cost_nanos([(1, Price(500_000)), (1, Price(500_000))]) == 1


def test_negative_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        cost_nanos([(-1, Price(1))])


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "0.00 USD"),
        (1, "0.000000001 USD"),
        (1_234_500, "0.0012345 USD"),
        (12_500_000_000, "12.50 USD"),
        (-500_000_000, "-0.50 USD"),
        (-1, "-0.000000001 USD"),
        (10**27, "1000000000000000000.00 USD"),
    ],
)
def test_an_amount_shows_two_decimals_or_as_many_as_it_needs(nanos: int, text: str) -> None:
    assert format_money(nanos, "USD") == text


@given(NANOS)
def test_a_decimal_amount_is_exact_at_any_size(nanos: int) -> None:
    assert Fraction(decimal_amount(nanos)) == Fraction(nanos, 10**9)


@given(st.integers(0, 10**21 - 1), st.sampled_from(["USD", "EUR", "JPY"]))
def test_what_is_shown_reads_back_as_the_same_amount(nanos: int, currency: str) -> None:
    assert parse_amount(format_money(nanos, currency)) == (nanos, currency)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("20", (20 * 10**9, "USD")),
        ("20 USD", (20 * 10**9, "USD")),
        (" 0.50eur ", (5 * 10**8, "EUR")),
        ("0.0000000010000", (1, "USD")),
    ],
)
def test_amounts_are_read_as_people_write_them(text: str, amount: tuple[int, str]) -> None:
    assert parse_amount(text) == amount


@pytest.mark.parametrize(
    "text", ["", "-1", "1,5", "abc", "1e3", "20 dollars", "0.0000000001", "٣", "1." + "0" * 9 + "1", "1" * 13, ".5 USD"]
)
def test_anything_else_is_no_amount(text: str) -> None:
    with pytest.raises(UsageError, match="no amount of money"):
        parse_amount(text)


def test_an_amount_without_currency_takes_the_one_that_was_asked_for() -> None:
    assert parse_amount("3", "EUR") == (3 * 10**9, "EUR")


@pytest.mark.parametrize("text", ["0", "0.00 EUR", "1000000000", "-1", ""])
def test_a_cap_is_more_than_nothing_and_less_than_a_database_holds(text: str) -> None:
    assert parse_cap(None) is None
    assert parse_cap("999999999") == (999_999_999 * 10**9, "USD")
    with pytest.raises(UsageError):
        parse_cap(text)


def test_a_factor_and_fees_are_rounded_once_with_the_rest() -> None:
    half = Price(500_000)  # half a nano-unit a token
    assert cost_nanos([(1, half)]) == 0  # 0.5, half to even
    assert cost_nanos([(3, half)], Decimal("0.5")) == 1  # 0.75
    assert cost_nanos([(1, half)], Decimal(1), [(1, half)]) == 1  # 0.5 + 0.5
    assert cost_nanos([(1000, Price(10**6))], Decimal("1.000001"), [(2, Price(10**6))]) == 1002  # 1000.001 + 2
    assert cost_nanos([(1000, Price(10**6))], Decimal(0), [(2, Price(10**6))]) == 2  # no factor touches a fee
