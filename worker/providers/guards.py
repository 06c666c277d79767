"""What a stranger's methods return, made fit to be stored, counted and shown.

It calls none of them; `worker.providers.plugin` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from models.request import Failure, FailureKind, FailureScope, Usage
from worker.limits.shapes import believed
from worker.providers.answers import Answer
from worker.providers.base import Reply
from worker.providers.failures import clean, code_name
from worker.providers.finish import Finish, finish_of
from worker.providers.replies import name, seconds, storable, told_count

MISREAD = (
    *(LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError, StopIteration, RuntimeError),
)
"""Errors of code that reads or builds something that isn't as it was expected. A name that doesn't exist is a bug, and none of them."""


def raised(method: str, error: BaseException, secrets: Sequence[str]) -> str:
    """Returns a sentence on a method that raised, fit for a message."""
    return clean(f"{method} raised {type(error).__name__}: {error}", secrets)[:300]


def sound_answer(answer: Any, reply: Reply, secrets: Sequence[str]) -> Answer:
    """The answer with nothing in it but what can be stored and counted. Raises TypeError for what is none."""
    if not isinstance(answer, Answer):
        raise TypeError(f"read_answer gave {type(answer).__name__}, not an Answer")
    if answer.text is not None and not isinstance(answer.text, str):
        raise TypeError(f"the text is {type(answer.text).__name__}")
    failure = answer.failure
    if failure is not None:
        failure = sound_failure(failure, _unclear(reply), secrets)
    return Answer(
        usage=_counted(answer.usage),
        text=None if answer.text is None else storable(answer.text),
        finish_reason=name(answer.finish_reason),
        served_model=name(answer.served_model),
        failure=failure,
        empty=failure is None
        and (answer.empty or (answer.text is not None and not answer.text.strip()))
        and finish_of(name(answer.finish_reason)) is not Finish.LENGTH,
    )


def _unclear(reply: Reply) -> Failure:
    return Failure(FailureKind.SERVER, "no_answer", f"HTTP {reply.status} without an answer", reply.status)


def sound_failure(failure: Any, usual: Failure, secrets: Sequence[str]) -> Failure:
    """A plugin's failure with a short code, a clean message and a wait that can be kept. What it leaves out is as in `usual`: the
    status, the stated wait where the kind is the same, words. Where it is no failure, `usual` is returned."""
    if not isinstance(failure, Failure):
        return usual
    try:
        kind = FailureKind(failure.kind)
    except ValueError:
        return usual
    wait, resets = _wait(failure.retry_after), _wait(failure.resets_in)
    if kind is usual.kind:
        wait = usual.retry_after if wait is None else wait
        resets = usual.resets_in if resets is None else resets
    if kind is FailureKind.QUOTA:
        wait, resets = None, wait if resets is None else resets
    try:
        scope = None if failure.scope is None else FailureScope(failure.scope)
    except ValueError:
        scope = None
    return replace(
        failure,
        kind=kind,
        code=code_name(clean(failure.code, secrets)) or usual.code,
        message=clean(failure.message, secrets) or usual.message,
        http_status=failure.http_status if type(failure.http_status) is int else usual.http_status,
        retry_after=None if wait is None else believed(wait),
        resets_in=resets,
        scope=scope or (usual.scope if kind is usual.kind else None),
    )


def _wait(value: Any) -> float | None:
    return None if value is None or isinstance(value, bool) else seconds(value)


def _counted(usage: Usage | None) -> Usage | None:
    """The usage, None where one of its numbers can't be one of tokens: then the call counts as untold, not as free."""
    if not isinstance(usage, Usage):
        return None
    fields = ("input", "output", "cached", "cache_write", "reasoning", "cache_write_1h")
    counts = {f"{field}_tokens": told_count(getattr(usage, f"{field}_tokens")) for field in fields}
    known: dict[str, Any] = {field: value for field, value in counts.items() if value is not None}
    return replace(usage, **known) if len(known) == len(counts) else None
