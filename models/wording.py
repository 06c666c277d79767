"""Numbers with their nouns, and times, for sentences that people read.

It does not print, and knows no sentence of its own.
"""

from __future__ import annotations

import time


def utc(moment: float) -> str:
    """Unix seconds as "2026-01-31 12:00:05 UTC", the same on every machine."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """As "1 job", "1,200 jobs"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float | None) -> str:
    """Seconds as people say it: "42 s", "3 min 5 s", "2 h 10 min"; "?" for None."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def learned_limits(requests: float | None, tokens: float | None, in_flight: float | None) -> str:
    """Returns learned limits as "300 requests a minute, 8 calls at once"; 0 and None are left away."""
    parts = [(requests, "request", " a minute"), (tokens, "token", " a minute"), (in_flight, "call", " at once")]
    return ", ".join(f"{counted(max(1, round(amount)), unit)}{per}" for amount, unit, per in parts if amount)
