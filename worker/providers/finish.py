"""Classifies answers by their finish reason and content: whole, empty, removed by a filter, or broken.

It reads no body; each dialect reads its own and asks here.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from enum import StrEnum

from models.request import Failure, FailureKind
from worker.providers.base import Reply
from worker.providers.failures import clean

BROKEN_ANSWER = "broken_answer"
REASONING_ONLY = "reasoning_only"
NO_CONTENT = "no_content"


class Finish(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    """By itself, or at a stop sequence."""
    LENGTH = "length"
    """By a bound on its tokens."""
    FILTER = "filter"
    BROKEN = "broken"
    """By a fault of the provider: what came is a part of an answer."""
    NONE = "none"
    """The reply gives no reason."""
    OTHER = "other"


_REASONS = {
    Finish.STOP: "stop end_turn stop_sequence eos eos_token end complete completed finished done",
    Finish.LENGTH: "length max_tokens max_output_tokens max_length model_length model_context_window_exceeded context_length "
    "error_limit token_limit",
    Finish.FILTER: "content_filter content_filtered sensitive safety recitation blocklist prohibited_content spii moderation "
    "guardrail_intervened refusal error_toxic model_armor",
    Finish.BROKEN: "error network_error insufficient_system_resource abort aborted cancel cancelled canceled user_cancel failed "
    "failure server_error internal_error internal_server_error upstream_error engine_error timeout time_out timed_out interrupted "
    "disconnect disconnected overloaded resource_exhausted rate_limit rate_limit_exceeded "
    "malformed_function_call malformed_response malformed_model_output malformed_tool_use malformed_tool_call "
    "unexpected_tool_call too_many_tool_calls function_call_filter "
    "time_limit not_finished unfinished incomplete partial preempted shutdown killed connection_error",
}
"""The vendors' words. Broken: OpenRouter and Mistral (error), Zhipu (network_error, sensitive), DeepSeek
(insufficient_system_resource), vLLM and SGLang (abort), Cohere (user_cancel, timeout, error_toxic, error_limit), Bedrock (malformed_*,
guardrail_intervened), watsonx (time_limit, not_finished), Gemini's endpoint for OpenAI's dialect ("function_call_filter: MALFORMED_FUNCTION_CALL")."""
_BY_REASON = {word: finish for finish, words in _REASONS.items() for word in words.split()}
_TAGS = ("think", "thinking", "thought", "reasoning", "seed:think")
_OPENED, _CLOSED = tuple(f"<{tag}>" for tag in _TAGS), tuple(f"</{tag}>" for tag in _TAGS)
_TAG = rf"(?:{'|'.join(_TAGS)})"
_THOUGHT = re.compile(
    rf"\s*<({_TAG})>(?:(?!</\1>).)*(?:</\1>)?\s*"
    rf"|(?:(?!</{_TAG}>).)*</{_TAG}>\s*",  # templates that open the tag themselves
    re.DOTALL,
)


@functools.lru_cache(maxsize=256)
def finish_of(reason: str | None) -> Finish:
    """Reads a finish reason, in any case of letters and with whatever a vendor adds behind a colon."""
    if not reason:
        return Finish.NONE
    words = [re.sub(r"[^a-z]+", "_", part.strip().lower()).strip("_") for part in reason.split(":")]
    found = [_BY_REASON[word] for word in words if word in _BY_REASON]
    return Finish.BROKEN if Finish.BROKEN in found else found[0] if found else Finish.OTHER


@dataclass(frozen=True, slots=True)
class Content:
    """The content of an answer. `other` is anything but text that is an answer: a tool's call, sound, an image, code. `reasoning` is
    reasoning that came as text or as an item of its own, not as a mere count of tokens."""

    text: str | None = None
    other: bool = False
    reasoning: bool = False

    @property
    def nothing(self) -> bool:
        return not self.other and not (self.text and self.text.strip())


def with_thoughts_apart(content: Content) -> Content:
    """The content where a server leaves the reasoning in the text: text that is nothing but `<think>…`, or that ends with its `</think>`."""
    text = content.text
    # most answers have no tag at either end; the pattern looks at each character, which takes 1 ms for 10 kB
    if not text or not (text.lstrip().startswith(_OPENED) or text.rstrip().endswith(_CLOSED)):
        return content
    if _THOUGHT.fullmatch(text):
        return Content(None, content.other, reasoning=True)
    return content


@dataclass(frozen=True, slots=True)
class Judged:
    """`failure` is why the reply is no answer; `empty` is set for a whole answer that holds nothing."""

    failure: Failure | None = None
    empty: bool = False


def judged(reason: str | None, content: Content, reply: Reply) -> Judged:
    """What to think of an answer (see `docs/input-output.md`). Broken ones count as the provider's failure: they are asked again."""
    finish = finish_of(reason)
    if not content.nothing and finish is not Finish.BROKEN:
        return Judged()
    told = f"finish reason {clean(reason)!r}" if reason else "no finish reason"
    if finish is Finish.BROKEN:
        return Judged(broken(BROKEN_ANSWER, f"the answer broke off ({told})", reply))
    if finish is Finish.LENGTH:
        return Judged()
    if finish is Finish.FILTER:
        message = "the provider's content filter removed the whole answer"
        return Judged(Failure(FailureKind.CONTENT_FILTER, "content_filter", message, reply.status))
    if content.reasoning:
        return Judged(broken(REASONING_ONLY, f"the answer ended inside its reasoning ({told})", reply))
    if finish is Finish.STOP:
        return Judged(empty=True)
    return Judged(broken(NO_CONTENT, f"the reply holds no answer ({told})", reply))


def broken(code: str, message: str, reply: Reply) -> Failure:
    """The failure of a reply that was read whole and holds no whole answer: what it used is known and billed."""
    return Failure(FailureKind.SERVER, code, message, reply.status)


def of_all(verdicts: list[Judged]) -> Judged:
    """Several answers of one reply: a failure of one is the reply's, and it is empty where all of them are."""
    failure = next((one.failure for one in verdicts if one.failure), None)
    return Judged(failure, empty=failure is None and bool(verdicts) and all(one.empty for one in verdicts))
