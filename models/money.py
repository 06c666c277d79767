"""Money as integer nano-units (a billionth of a currency unit): prices, the cost of a call, reading and showing amounts.

It does not know what a token of which kind costs (`models.prices` does), and it never touches a float.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache
from typing import NewType

from models.errors import UsageError

NANOS = 10**9
"""Nano-units in one unit of a currency."""

PRICED_TOKENS = 10**6
"""Tokens that a `Price` is for."""

DEFAULT_CURRENCY = "USD"

Price = NewType("Price", int)
"""Nano-units for 1,000,000 tokens: fine enough that every price in use is a whole number."""

_FINEST_DIGIT = -12  # of a price per 1,000 tokens: 10**-12 * 10**9 nanos * 1,000 thousands = 1
_LARGEST_DIGIT = 6
_MOST_NANOS = 10**9 * NANOS
_AMOUNT = re.compile(r"(?P<whole>\d+)(?:\.(?P<part>\d+))?(?:\s*(?P<currency>[A-Za-z]{3}))?")


@lru_cache(maxsize=4096)
def price_per_million(per_thousand: Decimal) -> Price:
    """The price of 1,000,000 tokens in nano-units, exactly, from the price of 1,000 tokens in units of the currency.

    Raises ValueError, saying what would be right, for a price that is negative, no number, absurdly large or finer than
    a nano-unit for 1,000,000 tokens.
    """
    if not per_thousand.is_finite():
        raise ValueError("should be a number")
    if per_thousand.is_zero():
        return Price(0)
    if per_thousand.is_signed():
        raise ValueError("should be 0 or more")
    # Sizes are judged by exponent first: 1e-999999999 as a ratio of integers would eat all memory.
    if per_thousand.adjusted() > _LARGEST_DIGIT:
        raise ValueError("should be a price for 1,000 tokens, at most 9,999,999")
    if per_thousand.adjusted() >= _FINEST_DIGIT:
        numerator, denominator = per_thousand.as_integer_ratio()
        nanos, rest = divmod(numerator * 10**-_FINEST_DIGIT, denominator)
        if not rest:
            return Price(nanos)
    raise ValueError("is too fine: a price for 1,000 tokens has at most 12 decimals")


def cost_nanos(
    parts: Iterable[tuple[int, Price]], factor: Decimal = Decimal(1), fees: Iterable[tuple[int, Price]] = ()
) -> int:
    """The cost in nano-units of one call, rounded once, half to even.

    It is the sum of tokens × price over `parts`, times `factor`, and the sum of uses × price over `fees`, which no factor
    touches. Raises ValueError for a negative number of tokens or uses.
    """
    numerator, denominator = factor.as_integer_ratio()
    whole = PRICED_TOKENS * denominator
    nanos, rest = divmod(_sum(parts) * numerator + _sum(fees) * denominator, whole)
    if 2 * rest > whole or (2 * rest == whole and nanos % 2):
        nanos += 1
    return nanos


def _sum(parts: Iterable[tuple[int, Price]]) -> int:
    total = 0
    for number, price in parts:
        if number < 0:
            raise ValueError(f"tokens and uses can't be negative: {number}")
        total += number * price
    return total


def decimal_amount(nanos: int) -> Decimal:
    """The amount in units of the currency, exact at any size, without trailing zeros beyond two decimals: Decimal("0.0012345")."""
    return Decimal(_digits(nanos))


def format_money(nanos: int, currency: str) -> str:
    """The exact amount as text, with two decimals or as many more as it needs: "12.50 USD", "0.0012345 USD"."""
    return f"{_digits(nanos)} {currency}"


def parse_amount(text: str, default_currency: str = DEFAULT_CURRENCY) -> tuple[int, str]:
    """Nano-units and currency of an amount as a person writes it: "20", "20.50", "20 USD", "20eur".

    Raises UsageError for anything else, a negative amount and more than nine decimals included.
    """
    match = _AMOUNT.fullmatch(text.strip())
    part = match["part"] or "" if match else ""
    if re.fullmatch("[A-Za-z]{3}", default_currency) is None:
        raise UsageError(f"{default_currency[:40]!r} is no currency: write its code, such as USD")
    if match is None or not text.strip().isascii() or len(part.rstrip("0")) > 9 or len(match["whole"]) > 12:
        raise UsageError(f'{text[:40]!r} is no amount of money: write it like "20", "0.50" or "20 {default_currency}"')
    nanos = int(match["whole"]) * NANOS + int(part.rstrip("0").ljust(9, "0"))
    return nanos, (match["currency"] or default_currency).upper()


def parse_cap(text: str | None, default_currency: str = DEFAULT_CURRENCY) -> tuple[int, str] | None:
    """What a batch may cost at most, as `parse_amount` gives it; None stays None. Raises UsageError, also for 0."""
    if text is None:
        return None
    nanos, currency = parse_amount(text, default_currency)
    if not 0 < nanos < _MOST_NANOS:
        raise UsageError(f"a cap of {text.strip()}: it must be more than 0 and less than {_MOST_NANOS // NANOS:,}")
    return nanos, currency


def _digits(nanos: int) -> str:
    whole, part = divmod(abs(nanos), NANOS)
    decimals = f"{part:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nanos < 0 else ''}{whole}.{decimals}"
