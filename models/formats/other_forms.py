"""Sentences on JSON that isn't made of requests: results, lists inside an object, tables written by columns, bare bodies.

It reads nothing as a request; it names the way out where a form is known by its fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LIKELY = (
    "question",
    "query",
    "text",
    "content",
    "instruction",
    "problem",
    "sentence",
    "page_content",
    "document",
    "article",
)
"""Names that data sets give to what is asked, the likeliest first."""
_RESULT = frozenset({"status", "finish_reason", "attempts"})
_RECORDS = 'write it with `to_json(FILE, orient="records", lines=True)`, as pandas can'


def explain(row: Mapping[str, Any]) -> str | None:
    """Returns what a line is that has no question of its own, and what to do; None where its form isn't known."""
    answered = (
        type(row.get("response")) is dict or type(row.get("result")) is dict or type(row.get("modelOutput")) is dict
    )
    if answered and any(name in row for name in ("custom_id", "key", "recordId", "request")):
        return "is a line of a batch's results, not a request: give the file that was asked"
    if row.keys() >= _RESULT:
        return "is a line of TruckLLM's results, not a request: give the file that was asked, or use `truckllm rerun`"
    if type(row.get("contents")) is list:
        return "is a Gemini body without its line: wrap it, as `jq -c '{request: .}'` does"
    if row.keys() >= {"columns", "data"}:
        return f"is a table in one object: {_RECORDS}"
    if row and all(type(value) is dict for value in row.values()):
        return f"is a table by columns, in one object: {_RECORDS}"
    return _list_inside(row)


def _list_inside(row: Mapping[str, Any]) -> str | None:
    lists = [name for name, value in row.items() if type(value) is list and value and type(value[0]) is dict]
    if len(lists) != 1 or not lists[0].isidentifier():
        return None
    (name,) = lists
    if name not in ("requests", "rows", "data", "items", "examples", "records", "instances", "prompts", "questions"):
        return None
    inner = ".row" if type(row[name][0].get("row")) is dict else ""
    return (
        f"holds its requests as a list in {name!r}: write each on a line of its own, as `jq -c '.{name}[]{inner}'` does"
    )


def likely_question(row: Mapping[str, Any]) -> str | None:
    """Returns the field that probably holds the question; None where none has a usual name."""
    return next((name for name in _LIKELY if type(row.get(name)) is str), None)
