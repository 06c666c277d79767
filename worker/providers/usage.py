"""Usage that stands elsewhere than in a dialect's own fields: other places, pieces of a stream, items that are billed beside tokens.

It reads no dialect's own counts; `openai_chat`, `openai_responses`, `claude` and `gemini` do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import Any

from models.money import DEFAULT_CURRENCY, NANOS
from models.request import EMBEDDINGS, Usage
from worker.providers.replies import at, count, objects, table, told_count

_GIVEN = ("prompt_tokens", "input_tokens")
_MADE = ("completion_tokens", "output_tokens")
_MOST_COST = 10**6
"""A reported cost above this many units of a currency is nonsense."""
_TICKS = 10**10
"""xAI reports costs in ticks; so many are 1 USD (xAI docs: cost tracking)."""

_BILLED = re.compile(r"(_tokens|_requests|_queries|_searches|_calls|_units|_audio_seconds)$|^num_\w+_used$")
"""How fields of a usage are named that may be billed: counts of tokens, of requests, of uses of a tool, of seconds of sound."""
_PARTS = re.compile(r"^(num_)?(prompt|input|completion|output|cached?|total|text|image|audio|video)_")
"""How the parts of the input or of the output are named."""
_KNOWN = frozenset(
    {
        *_GIVEN,
        *_MADE,
        "total_tokens",
        "cached_tokens",
        "reasoning_tokens",
        "accepted_prediction_tokens",
        "rejected_prediction_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
        "prompt_cache_hit_tokens",
        "prompt_cache_miss_tokens",
        # xAI: their sum; the uses of each tool are told beside it
        "num_server_side_tools_used",
    }
)
_TOOLS = ("server_tool_use", "server_side_tool_usage", "server_side_tool_usage_details", "tool_usage")
"""Where vendors count the uses of tools that run at their side: Anthropic, OpenRouter, xAI."""
_FREE = frozenset(
    {"web_fetch_requests", "tool_search_requests", "mcp_calls", "view_image_calls", "view_x_video_calls", "total_calls"}
)
"""Uses that cost nothing but the tokens that they bring (Anthropic docs: web fetch; xAI docs: tools)."""
_SAME = {
    "web_search": "web_search_requests",
    "web_search_calls": "web_search_requests",
    "file_search": "file_search_requests",
    "file_search_calls": "file_search_requests",
    "image_generation_calls": "image_generation_requests",
}
"""Other names for uses that have a name already."""
_ITEM = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MOST_ITEMS = 20


def usage_of(body: Mapping[str, Any]) -> Any:
    """The usage that a body of OpenAI's dialect holds: at the top, inside its choices (Moonshot), or in `x_groq` (Groq)."""
    if _counts(own := body.get("usage")):
        return own
    inside = [choice["usage"] for choice in objects(body.get("choices")) if isinstance(choice.get("usage"), dict)]
    if len(inside) > 1 and any(one != inside[0] for one in inside):
        inside = [_folded(inside, sums=True)]
    found = [own, *inside[:1], at(body, "x_groq", "usage")]
    return next(
        (usage for usage in found if _counts(usage)), next((usage for usage in found if usage is not None), None)
    )


def _counts(usage: Any) -> bool:
    return isinstance(usage, dict) and any(count(usage.get(name)) for name in (*_GIVEN, *_MADE, "total_tokens"))


@dataclass(frozen=True, slots=True)
class _Piece:
    usage: dict[str, Any]
    with_text: bool
    """Its chunk brought a piece of the answer."""

    @property
    def made(self) -> int:
        return first_count(self.usage, *_MADE) or 0


class StreamUsage:
    """The usage of a stream, which may come once, in every chunk as the sum so far, or in every chunk as what that chunk added.

    No count is lost to a later zero. Reports are taken as additions where a later count of output is smaller than an earlier one,
    where it stays the same while text goes on to come, or where the input, once reported, is 0 beside it.
    """

    def __init__(self) -> None:
        self._pieces: list[_Piece] = []
        self._last: Any = None

    def add(self, usage: Any, *, with_text: bool) -> None:
        """Takes the usage of one chunk, if it has one."""
        if usage is not None:
            self._last = usage
        if _counts(usage):
            self._pieces.append(_Piece(usage, with_text))

    def whole(self) -> Any:
        """The usage of the whole stream; None if none came."""
        if not self._pieces:
            return self._last
        return _folded([piece.usage for piece in self._pieces], sums=self._additions())

    def _additions(self) -> bool:
        given, pieces = 0, []
        for piece in self._pieces:
            if piece.made:
                pieces.append((piece, given > 0 and first_count(piece.usage, *_GIVEN) == 0))
            given = max(given, first_count(piece.usage, *_GIVEN) or 0)
        if len(pieces) < 2 and not any(late for _, late in pieces):
            return False
        last = pieces[-1][0]
        if first_count(last.usage, *_GIVEN) and last.made >= sum(piece.made for piece, _ in pieces[:-1]):
            return False  # it sums up what came before
        return any(late for _, late in pieces) or any(
            later.made < earlier.made or (later.made == earlier.made and earlier.with_text and later.with_text)
            for (earlier, _), (later, _) in pairwise(pieces)
        )


def _folded(usages: Iterable[dict[str, Any]], *, sums: bool) -> dict[str, Any]:
    """Several reports as one: of each number the largest, of the output's the sum where they are additions."""
    folded: dict[str, Any] = {}
    made: dict[str, int] = {}
    for usage in usages:
        _raise(folded, usage)
        for name in _MADE:
            made[name] = made.get(name, 0) + count(usage.get(name))
    if sums:
        folded |= {name: number for name, number in made.items() if number}
        given, output = first_count(folded, *_GIVEN) or 0, first_count(folded, *_MADE) or 0
        folded["total_tokens"] = max(count(folded.get("total_tokens")), given + output)
    return folded


def _raise(whole: dict[str, Any], usage: dict[str, Any]) -> None:
    for name, value in usage.items():
        old = whole.get(name)
        if isinstance(value, dict):
            whole[name] = dict(old) if isinstance(old, dict) else {}
            _raise(whole[name], value)
        elif _is_number(value) and _is_number(old):
            whole[name] = max(old, value)
        elif value is not None or name not in whole:
            whole[name] = value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def largest(old: Any, new: Any) -> dict[str, Any]:
    """Two reports of a running sum as one: of each number the larger."""
    whole: dict[str, Any] = {}
    _raise(whole, table(old))
    _raise(whole, table(new))
    return whole


def first_count(usage: Any, *names: str) -> int | None:
    """The first of these counts that the usage has."""
    return next((number for name in names if (number := told_count(at(usage, name))) is not None), None)


def billed_beside(usage: Any, tokens: int) -> tuple[tuple[str, int], ...]:
    """What a usage counts that no field of the dialect stands for, as uses to be priced by `fees`, in the vendor's own names.

    `tokens` are the input and output tokens: a count that is named as a part of these, and isn't larger, is inside. Perplexity
    bills `citation_tokens`, `num_search_queries` and each request by its `search_context_size` (Perplexity docs: pricing), xAI
    `num_sources_used` and uses of tools, Mistral seconds of sound.
    """
    found: dict[str, int] = {}
    for name, number in _items(table(usage)):
        if _PARTS.match(name) and name.endswith("_tokens") and number <= tokens:
            continue
        name = _SAME.get(name, name)
        if name not in _KNOWN and name not in _FREE and _ITEM.fullmatch(name) and len(found) < _MOST_ITEMS:
            found[name] = max(number, found.get(name, 0))
    return tuple(sorted(found.items()))


def _items(usage: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for name, value in usage.items():
        if name in _TOOLS and isinstance(value, dict):
            for tool, uses in value.items():
                if number := count(uses):
                    yield (tool if _BILLED.search(tool) or tool in _SAME else f"{tool}_calls"), number
        elif name == "plugins" and isinstance(value, dict):  # Alibaba Cloud: {"search": {"count": 1}}
            for tool, uses in value.items():
                if number := count(at(uses, "count")):
                    yield _SAME.get(f"web_{tool}", f"{tool}_calls"), number
        elif name == "search_context_size" and isinstance(value, str):
            yield f"search_context_{value.lower()}", 1
        elif _BILLED.search(name) and (number := count(value)):
            yield name, number


def plausible(usage: Usage, operation: str) -> bool:
    """Returns whether a usage can be that of an answer that holds something. Servers that don't count report 0: no answer comes of no
    input, and none but embeddings has no output."""
    return usage.input_tokens > 0 and (usage.output_tokens > 0 or operation == EMBEDDINGS)


_SOURCES = frozenset({"citations", "search_results", "web_search", "search_info"})
_SEARCH = re.compile("search|sources|citation")


def searched(body: Mapping[str, Any], fees: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """Returns the fees, with a search that the body shows and its usage doesn't count, and with the tools that ran at the vendor's side.

    Sources of a search stand at the top (Perplexity and xAI: `citations`, `search_results`; Z.AI: `web_search`; Alibaba Cloud:
    `search_info`) or in a message's `annotations` (OpenRouter's web plugin); Groq's Compound lists `executed_tools`.
    """
    messages = [table(choice.get("message")) for choice in objects(body.get("choices"))]
    shown = any(body.get(field) for field in _SOURCES & body.keys()) or any(
        note.get("type") == "url_citation" for message in messages for note in objects(message.get("annotations"))
    )
    ran = sum(1 for message in messages for _ in objects(message.get("executed_tools")))
    found: dict[str, int] = {"executed_tools": ran} if ran else {}
    if shown and not ran and not any(_SEARCH.search(field) for field, _ in fees):
        found["web_search_requests"] = 1
    if not found:
        return fees
    return merged_fees(fees, found.items())


def merged_fees(*fees: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """Uses that were counted in several places, each once."""
    found: dict[str, int] = {}
    for name, number in (pair for pairs in fees for pair in pairs):
        found[name] = max(number, found.get(name, 0))
    return tuple(sorted(found.items()))


_COSTS = frozenset({"cost_in_usd_ticks", "cost", "estimated_cost"})
_COST_HEADER = "x-litellm-response-cost"


def reported_cost(usage: Any, headers: Mapping[str, str]) -> tuple[int, str] | None:
    """Returns the cost that the provider itself reports, as nano-units and currency; None if it reports none.

    OpenRouter and gateways like it write `usage.cost` in US dollars, and for a key of one's own (`is_byok`) only their fee, with the
    vendor's part in `cost_details.upstream_inference_cost` (OpenRouter docs: usage accounting). Perplexity writes
    `usage.cost.total_cost`, xAI `usage.cost_in_usd_ticks`, DeepInfra `usage.estimated_cost`, LiteLLM the header
    `x-litellm-response-cost`.
    """
    if _COST_HEADER not in headers and (not isinstance(usage, dict) or _COSTS.isdisjoint(usage)):
        return None
    ticks = _amount(at(usage, "cost_in_usd_ticks"), _MOST_COST * _TICKS)
    if ticks is not None:
        return round(ticks * NANOS / _TICKS), DEFAULT_CURRENCY
    cost = at(usage, "cost")
    currency = at(usage, "cost", "currency") or at(usage, "currency") or DEFAULT_CURRENCY
    amount = _amount(at(cost, "total_cost") if isinstance(cost, dict) else cost)
    if amount is not None and at(usage, "is_byok") is True:
        upstream = _amount(at(usage, "cost_details", "upstream_inference_cost"))
        amount = None if upstream is None else amount + upstream
    if amount is None and cost is None:
        amount = _amount(at(usage, "estimated_cost"))
    if amount is None and cost is None:
        amount = _amount(headers.get(_COST_HEADER))
    if amount is None or not isinstance(currency, str) or not re.fullmatch("[A-Za-z]{3}", currency):
        return None
    return round(amount * NANOS), currency.upper()


def _amount(value: Any, most: int = _MOST_COST) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        amount = Decimal(str(value)[:40])
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and 0 <= amount <= most else None
