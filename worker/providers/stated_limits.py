"""Reads the limits that a reply states: its rate-limit headers, and the words and fields of a refusal.

Total functions: what is malformed, not finite, negative or beyond belief is left out.

Traps, by vendor:

* The same header means different windows. `x-ratelimit-limit-requests` is a minute's at most vendors, a day's at Groq, and at OpenAI for
  small tiers (10,000 with a reset of 8.64 s for the one that is used: a day is 86,400 s). Where the name doesn't state the window,
  it is computed from what is used and the time that its refill takes.
* `reset` is the time until the limit is whole again at OpenAI, Groq and Anthropic, the end of a window elsewhere; as a duration (`6m0s`),
  seconds, a unix time in seconds or milliseconds (OpenRouter), or RFC 3339 (Anthropic).
* Together counts by the second. Mistral states what a call cost (`x-ratelimit-tokens-query-cost`).
* Anthropic rounds what remains to thousands, and states further limits for priority and fast tiers, which aren't the usual ones.

Sources: OpenAI, Azure, Groq, Cerebras, Mistral, Together, OpenRouter, Anthropic, Gemini, Moonshot, LiteLLM, Kong and APISIX docs: rate limits;
draft-ietf-httpapi-ratelimit-headers; public error reports of those vendors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from models.request import FailureScope, LimitUnit, StatedLimit
from worker.providers.error_bodies import codes_in
from worker.providers.replies import at, objects
from worker.providers.waits import moment

MINUTE, HOUR, DAY, MONTH = 60.0, 3600.0, 86400.0, 30 * 86400.0
LARGEST = 1e12
"""No limit is larger; such a number is a stand-in for "none" (LiteLLM states 2^63 - 1)."""
LONGEST_RESET = 40 * 86400.0
MOST_STATED = 16

_Value = Literal["limit", "remaining", "reset", "used", "cost"]

# Headers

_HEADER = re.compile(r"(?:x-)?(anthropic-|ai-)?(rate-?limit|token-?limit|ratelimitbysize)-(.{1,100})")
_VALUES: dict[str, _Value] = {
    "limit": "limit",
    "remaining": "remaining",
    "reset": "reset",
    "used": "used",
    "cost": "cost",
}
_UNITS: dict[str, LimitUnit] = {
    **dict.fromkeys(("requests", "request", "req", "reqs", "calls"), "requests"),
    **dict.fromkeys(("tokens", "token"), "tokens"),
    **dict.fromkeys(("input", "prompt"), "input_tokens"),
    **dict.fromkeys(("output", "completion"), "output_tokens"),
    **dict.fromkeys(("concurrent", "concurrency", "parallel"), "concurrent"),
}
_WINDOWS = {
    **dict.fromkeys(("second", "sec", "1s"), 1.0),
    **dict.fromkeys(("minute", "min", "1m", "60s"), MINUTE),
    **dict.fromkeys(("hour", "1h"), HOUR),
    **dict.fromkeys(("day", "daily", "1d", "24h"), DAY),
    **dict.fromkeys(("month", "monthly"), MONTH),
}
_WINDOW_NAMES = {1.0: "second", MINUTE: "minute", HOUR: "hour", DAY: "day", MONTH: "month"}
_QUALIFIERS = frozenset(
    {
        *("project", "organization", "org", "account", "team", "user", "customer", "api", "key", "global"),
        *("model", "group", "per", "deployment", "dynamic", "usage", "based", "query"),
    }
)
"""Words beside those; a header with any other is about something else (images, audio, a priority tier)."""
_NUMBER = re.compile(r"\s*\"?(\d{1,18}(?:\.\d{1,9})?)\b", re.ASCII)
_ITEM = re.compile(r'[^,"]*(?:"[^"]*"[^,"]*)*')
_PARAMETER = re.compile(r'([a-z]+)\s*=\s*"?([^";,]*)"?', re.IGNORECASE)
_QUOTA_UNITS: dict[str, LimitUnit] = {
    "requests": "requests",
    "tokens": "tokens",
    "concurrent-requests": "concurrent",
}


@dataclass(frozen=True, slots=True)
class _Named:
    """The value of a gauge that a header holds."""

    value: _Value
    gauge: str
    unit: LimitUnit
    window: float | None
    scope: Literal["", "model", "account"]


def stated_in_headers(headers: Mapping[str, str], now: float) -> tuple[StatedLimit, ...]:
    """Returns the limits in a reply's headers (names in lower case), one for each gauge. `now` is the reply's time, in unix seconds."""
    gauges: dict[str, dict[_Value, float]] = {}
    named: dict[str, _Named] = {}
    for header, text in headers.items():
        if (field := _named(header)) is None:
            continue
        value = _reset(text, now) if field.value == "reset" else _number(text)
        if value is None and field.value != "limit":
            continue
        gauges.setdefault(field.gauge, {})[field.value] = math.nan if value is None else value
        named[field.gauge] = field
    if not gauges and "ratelimit" not in headers and "ratelimit-policy" not in headers:
        return ()
    costs = {named[gauge].unit: values["cost"] for gauge, values in gauges.items() if "cost" in values}
    by_second = any(name.startswith("x-tokenlimit-") for name in headers)  # Together
    groq = "x-groq-region" in headers
    found = []
    for gauge, values in gauges.items():
        field, limit = named[gauge], values.get("limit")
        if limit is not None and not limit > 0:  # none, or a model that isn't in the plan (Mistral: 0)
            continue
        remaining, reset, used = values.get("remaining"), values.get("reset"), values.get("used")
        if remaining is None and used is not None and limit is not None:
            remaining = max(0.0, limit - used)
        if limit is None and remaining is None:
            continue
        window = field.window
        if window is None and field.unit != "concurrent":
            if by_second:
                window = 1.0
            elif groq and field.unit == "requests":
                window = DAY
            else:
                window = _window(headers, limit, remaining, reset)
        cost = costs.get(field.unit)
        found.append(
            StatedLimit(
                field.unit,
                limit,
                remaining,
                reset,
                window,
                used,
                None if cost is None else int(cost),
                scope=field.scope,
                gauge=gauge,
            )
        )
    found += _ietf(headers)
    return tuple(found[:MOST_STATED])


@lru_cache(maxsize=1024)
def _named(header: str) -> _Named | None:
    """The gauge and value that a header's name stands for; None for one that is about something else."""
    if "limit-" not in header and "bysize-" not in header:
        return None
    match = _HEADER.fullmatch(header)
    if match is None or header.startswith(("ratelimit-policy", "x-ratelimit-policy")):
        return None
    value: _Value | None = None
    unit: LimitUnit | None = "tokens" if match[2] != "ratelimit" and match[2] != "rate-limit" else None
    window: float | None = None
    rest: list[str] = []
    for word in re.split(r"[-_]", match[3]):
        if word in _VALUES and value is None:
            value = _VALUES[word]
        elif word in _UNITS:
            # "input-tokens": the side is the more telling word
            unit = _UNITS[word] if unit is None or _UNITS[word] != "tokens" else unit
        elif word in _WINDOWS and window is None:
            window = _WINDOWS[word]
        elif word in _QUALIFIERS or match[1] == "ai-":
            rest.append(word)
        else:
            return None
    if value is None:
        return None
    unit = unit or ("tokens" if match[1] == "ai-" else "requests")
    told = [*(word for word in rest if word != "query"), unit.replace("_", "-")]
    if window is not None:
        told.append(_WINDOW_NAMES[window])
    scope: Literal["", "model", "account"] = ""
    if "model" in rest:
        scope = "model"
    elif not {"project", "organization", "org", "account", "team", "user", "customer", "key", "global"}.isdisjoint(
        rest
    ):
        scope = "account"
    return _Named(value, "-".join(told), unit, window, scope)


def _number(text: Any) -> float | None:
    """The number at the start of a header's value, at least 0; None for anything else."""
    if not isinstance(text, str) or (match := _NUMBER.match(text)) is None:
        return None
    number = float(match[1])
    return number if number <= LARGEST else None


def _reset(text: Any, now: float) -> float | None:
    if not isinstance(text, str) or text.lstrip().startswith("-"):
        return None
    try:
        seconds = moment(text, now)
    except (ValueError, OverflowError):
        return None
    return seconds if seconds is not None and 0 <= seconds <= LONGEST_RESET else None


def _window(
    headers: Mapping[str, str], limit: float | None, remaining: float | None, reset: float | None
) -> float | None:
    """The window of a limit whose name states none: by what of it is used and how long the refill of that takes, else a minute, where
    nothing speaks against it."""
    if reset is None:
        return MINUTE
    if limit is not None and remaining is not None and limit > remaining:
        whole = reset * limit / (limit - remaining)
        if abs(whole - DAY) <= 0.02 * DAY:
            return DAY
        if reset > 2 * MINUTE and abs(whole - HOUR) <= 0.02 * HOUR:
            return HOUR
    if reset <= MINUTE + 1 or (remaining == 0 and reset <= 3 * MINUTE):  # a bucket that is in debt takes longer
        return MINUTE
    if HOUR + 1 < reset <= DAY + 1:
        return DAY
    return None


def _ietf(headers: Mapping[str, str]) -> Iterator[StatedLimit]:
    """The limits of `RateLimit` and `RateLimit-Policy`, in the forms of all drafts: `"burst";q=100;w=60`, `100;w=60`,
    `"burst";r=50;t=30`, `limit=100, remaining=50, reset=30`."""
    policies: dict[str, dict[str, str]] = {}
    for header in ("ratelimit-policy", "ratelimit"):
        text = headers.get(header, "")
        if not isinstance(text, str) or len(text) > 2000:
            continue
        if header == "ratelimit" and "remaining" in text:
            policies.setdefault("", {}).update((name.lower(), value) for name, value in _PARAMETER.findall(text))
            continue
        for item in _ITEM.findall(text):
            first, _, _ = item.partition(";")
            name = first.strip().strip('"')
            parameters = {key.lower(): value for key, value in _PARAMETER.findall(item)}
            if name.isdigit():
                parameters["q"], name = name, ""
            if parameters:
                policies.setdefault(name, {}).update(parameters)
    for name, told in policies.items():
        unit = _QUOTA_UNITS.get(told.get("qu", "requests"))
        limit, window = _number(told.get("q", told.get("limit"))), _number(told.get("w"))
        remaining, reset = _number(told.get("r", told.get("remaining"))), _number(told.get("t", told.get("reset")))
        if unit is None or limit == 0 or (limit is None and remaining is None):
            continue
        if unit == "concurrent":
            window = None
        reset = None if reset is not None and reset > LONGEST_RESET else reset
        yield StatedLimit(unit, limit, remaining, reset, window or None, gauge=f"ratelimit:{name[:60]}")


# Refusals

_PERIODS = {
    **dict.fromkeys(("second", "sec", "s"), 1.0),
    **dict.fromkeys(("minute", "min", "m"), MINUTE),
    **dict.fromkeys(("hour", "h"), HOUR),
    **dict.fromkeys(("day", "d"), DAY),
    "month": MONTH,
}
_SIDES: dict[str, LimitUnit] = {
    **dict.fromkeys(("input", "prompt", "i"), "input_tokens"),
    **dict.fromkeys(("output", "completion", "generated", "o"), "output_tokens"),
}
_SIDE = r"(?:(input|prompt|output|completion|generated)[ -])?"
_THING = r"(tokens?|requests?|calls?|queries|messages)"
_PERIOD = r"(second|sec|minute|min|hour|day|month)s?\b"
_RATE = re.compile(rf"{_SIDE}{_THING}(?: \w+)?? ?(?:/|per|a|an|each|every)[ -]?(?:\d+ )?{_PERIOD}")
_RATE_TURNED = re.compile(rf"(?:per[ -]|/ ?){_PERIOD}[ -]{_SIDE}{_THING}")
_DAILY = re.compile(rf"\b(dai|month|hour)ly (?:\w+ )?{_SIDE}{_THING}")
_ACRONYM = re.compile(r"(?<![a-z])(?:[a-z]*(?:endpoint|account|model))?([io])?([trq])p([smhd])(?![a-z])")
_ACRONYM_IN_CODE = re.compile(
    r"(?:^|[^a-z]|endpoint|account|model)([io])?([trq])p([smhd])(?:$|[^a-z]|rate|exceed|limit)"
)
_PERIOD_ALONE = re.compile(rf"\bper[ -]?{_PERIOD}|每(?:分钟|天)")
_CONCURRENT = re.compile(
    r"concurren(?:t|cy)|parallel[ -](?:request|call)|simultaneous|\bin[ -]flight\b|requests? at (?:once|the same time)|"
    r"too many (?:open )?connections|并发|同時|同时"
)
_ADVICE = re.compile(
    r"(?:reduce|lower|decrease|limit|adjust)(?: your| the| number of| request)* (?:concurren|parallel|simultan)\w*"
)
_TOKENS = re.compile(
    r"tokens? (?:rate|quota|limit|usage)|too many (?:input |output )?tokens|(?:number|amount|maximum) of tokens|tokens? (?:was |were )?exceeded|"
    r"allocated ?quota|allocation ?quota|token-limit"
)
_REQUESTS = re.compile(
    r"\bcalls? rate|requests? (?:rate|quota|limit)|number of requests|max(?:imum)? requests?|rate ?quota|too many api calls|call volume"
)
_LITELLM = (
    re.compile(r"\b([tr])pm limit:? (\d{1,19}),? current [tr]pm:? (\d{1,18})"),
    re.compile(r"\bcurrent ([tr])pm:? (\d{1,18}),? [tr]pm limit:? (\d{1,19})"),
)
_LIMIT_TYPE = re.compile(r"\blimit type: ([a-z ]{1,40})")
_LIMITS = (
    re.compile(r"\blimit:? ?~?(\d{1,18})\b"),
    re.compile(r"\b(?:limit(?:ed)?|max(?:imum)?|quota|threshold)(?: \w+){0,3}? (?:of|to|is|=) ?~?(\d{1,18})\b"),
    re.compile(rf"\b(\d{{1,18}}) (?:\w+ )??{_SIDE}{_THING} ?(?:/|per|a|an|each|every)"),
    re.compile(r"\b(?:max|limit|[trq]p[mdsh])(?: \w+){0,4}? ?[:=] ?~?(\d{1,18})\b"),
    re.compile(r"\b(\d{1,18}) (?:concurrent|parallel|simultaneous)"),
    re.compile(r"(?:concurren\w+|parallel \w+|simultaneous \w+)(?: \w+){0,4}? ?[:=(] ?(\d{1,18})\b"),
)
_USED = re.compile(r"\b(?:used|current(?: usage)?):? ?~?(\d{1,18})\b")
_REQUESTED = re.compile(r"\brequested:? ?~?(\d{1,18})\b")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_QUOTA_PERIOD = re.compile(r"per(second|minute|hour|day|month)")
_SCOPES: dict[FailureScope | None, Literal["", "model", "account"]] = {
    FailureScope.MODEL: "model",
    FailureScope.KEY: "account",
    FailureScope.POOL: "account",
    FailureScope.PROVIDER: "account",
}


def stated_in_refusal(
    body: Any, message: str, scope: FailureScope | None, stated: Sequence[StatedLimit] = ()
) -> tuple[StatedLimit, ...]:
    """Returns the limits for which a call was refused, by a decoded body (None if there is none) and its message. Where those name none, what `stated`, from the
    headers, has nothing left of, if that is one kind. Empty where all that is unclear. `scope` is what the refusal names by the signals."""
    found = tuple(_violations(body))
    if not found and (worded := _in_words(body, message)) is not None:
        found = (worded,)
    if not found:
        empty = [one for one in stated if one.remaining == 0]
        found = tuple(replace(one, exceeded=True) for one in empty) if len({one.unit for one in empty}) == 1 else ()
    named = _SCOPES.get(scope, "")
    return tuple(one if one.scope or not named else replace(one, scope=named) for one in found[:MOST_STATED])


def stated_by(
    headers: Mapping[str, str],
    now: float,
    *,
    body: Any = None,
    message: str = "",
    scope: FailureScope | None = None,
    refused: bool = False,
) -> tuple[StatedLimit, ...]:
    """Returns all that a reply states: its headers, and where it is `refused` the limits that it is refused for."""
    stated = stated_in_headers(headers, now)
    if not refused:
        return stated
    found = stated_in_refusal(body, message, scope, stated)
    gauges = {one.gauge for one in found if one.gauge}
    return (*(one for one in stated if one.gauge not in gauges), *found)


def _violations(body: Any) -> Iterator[StatedLimit]:
    """The limits in Google's `QuotaFailure`."""
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    for detail in objects(at(body, "error", "details")):
        for violation in objects(detail.get("violations")):
            told = " ".join(
                text for name in ("quotaId", "quotaMetric") if isinstance(text := violation.get(name), str)
            ).lower()
            if not told:
                continue
            plain = told.replace("_", "").replace("-", "")
            unit: LimitUnit = "requests"
            if "concurrent" in plain:
                unit = "concurrent"
            elif "token" in plain:
                unit = "input_tokens" if "input" in plain else "output_tokens" if "output" in plain else "tokens"
            period = _QUOTA_PERIOD.search(plain)
            window = _PERIODS[period[1]] if period and unit != "concurrent" else None
            value = violation.get("quotaValue")
            limit = _number(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
            per_model = "permodel" in plain or "perbasemodel" in plain or at(violation, "quotaDimensions", "model")
            yield StatedLimit(
                unit, limit or None, window=window, exceeded=True, scope="model" if per_model else "account"
            )


def _in_words(body: Any, message: str) -> StatedLimit | None:
    codes, types = codes_in(body)
    text = " ".join(_THOUSANDS.sub("", message[:4000].lower()).replace("_", " ").split())
    told = " ".join(codes)[:1000]
    unit, window = _kind(text, told.lower(), types)
    if unit is None:
        return None
    limit = _limit(text, unit)
    requested = _REQUESTED.search(text)
    used = _USED.search(text)
    return StatedLimit(
        unit,
        limit,
        window=None if unit == "concurrent" else window,
        used=_number(used[1]) if used else None,
        requested=int(requested[1]) if requested and float(requested[1]) <= LARGEST else None,
        exceeded=True,
    )


def _kind(text: str, codes: str, types: Sequence[str]) -> tuple[LimitUnit | None, float | None]:
    """The unit and window that the words of a refusal name."""
    if found := _litellm(text):
        return found[0], MINUTE
    if named := _LIMIT_TYPE.search(text):  # LiteLLM
        if "parallel" in named[1]:
            return "concurrent", None
        return ("tokens" if "token" in named[1] else "requests"), MINUTE
    without_advice = _ADVICE.sub("", text)
    if _CONCURRENT.search(without_advice) or "concurren" in codes:
        return "concurrent", None
    for pattern in (_RATE, _RATE_TURNED, _DAILY):
        if match := pattern.search(text):
            side, thing, period = (
                match.groups() if pattern is _RATE else (match[2], match[3], match[1].replace("dai", "day"))
            )
            return _unit(side, thing), _PERIODS.get(period, MINUTE)
    for pattern, where in ((_ACRONYM, text), (_ACRONYM_IN_CODE, codes)):
        if match := pattern.search(where):
            unit: LimitUnit = "requests" if match[2] != "t" else _SIDES.get(match[1] or "", "tokens")
            return unit, _PERIODS[match[3]]
    period = _PERIOD_ALONE.search(text)
    window = None
    if period:
        window = _PERIODS[period[1]] if period[1] else DAY if "天" in period[0] else MINUTE
    both = f"{text} {codes}"
    if "tokens" in types or "token" in types or _TOKENS.search(both):
        return "tokens", window
    if "requests" in types or _REQUESTS.search(both) or window is not None:
        return "requests", window
    return ("concurrent", None) if _CONCURRENT.search(text) else (None, None)


def _litellm(text: str) -> tuple[LimitUnit, float] | None:
    """The limit that LiteLLM means where it words one of tokens or requests as one of parallel requests."""
    for pattern in _LITELLM:
        for which, one, other in pattern.findall(text):
            limit, current = (one, other) if pattern is _LITELLM[0] else (other, one)
            if float(current) >= float(limit) > 0:
                return ("tokens" if which == "t" else "requests"), float(limit)
    return None


def _unit(side: str | None, thing: str) -> LimitUnit:
    return _SIDES.get(side or "", "tokens") if thing.startswith("token") else "requests"


def _limit(text: str, unit: LimitUnit) -> float | None:
    if found := _litellm(text):
        return found[1]
    patterns = _LIMITS if unit != "concurrent" else (*_LIMITS[4:], *_LIMITS[:2], _LIMITS[3])
    for pattern in patterns:
        if (match := pattern.search(text)) and (number := _number(match[1])):
            return number
    return None
