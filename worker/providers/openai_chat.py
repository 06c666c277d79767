"""OpenAI's `/chat/completions`: what its bodies mean, piece by piece where they are streamed, and what their usage counts.

It does not judge errors: they have the form that all of the dialect's errors have, which `openai` reads.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from models.request import Failure, FailureKind, Usage
from worker.providers.answers import Answer
from worker.providers.base import Reply
from worker.providers.failures import clean, unreadable
from worker.providers.finish import Content, Judged, judged, of_all, with_thoughts_apart
from worker.providers.growing import Growing, grown, is_text, joined
from worker.providers.replies import at, count, decode, encode, name, objects, storable, table, told_count
from worker.providers.usage import billed_beside, first_count, merged_fees, searched

_SEARCHING = re.compile(r"-search-(preview|api)")
"""Chat models that search for every answer."""


def answer(body: dict[str, Any], usage: Usage | None, reply: Reply) -> Answer | None:
    """What a body means: the text of its first choice, if all of its choices are whole. None if it has none and no usage."""
    choice = at(body, "choices", 0)
    if usage is not None and _SEARCHING.search(name(body.get("model")) or ""):
        usage = replace(usage, fees=merged_fees(usage.fees, (("web_search_requests", 1),)))
    if usage is not None and (fees := searched(body, usage.fees)) != usage.fees:
        usage = replace(usage, fees=fees)
    if not isinstance(at(choice, "message"), dict):
        return (
            None
            if usage is None
            else Answer(usage=usage, failure=unreadable(reply, "the reply tells its usage but holds no choice"))
        )
    verdict = of_all([_judged(one, reply) for one in objects(body.get("choices"))])
    finish = finish_reason(choice)
    return Answer(usage, _text(choice["message"]), finish, name(body.get("model")), verdict.failure, verdict.empty)


def _text(message: dict[str, Any]) -> str | None:
    content = message.get("content")
    if isinstance(content, dict | int | float):  # servers that give JSON where it was asked for
        return encode(content).decode("utf-8", "replace")
    return storable(content) if isinstance(content, str) else _joined(content)


def _judged(choice: dict[str, Any], reply: Reply) -> Judged:
    """Judges one choice. Reasoning comes beside the content under several names, or as parts of it (Mistral)."""
    message = table(choice.get("message"))
    parts = list(objects(message.get("content")))
    others = any(message.get(field) for field in _OTHERS & message.keys())
    others |= any(part.get("type") not in (*_TEXTS, *_THOUGHTS) for part in parts)
    thoughts = any(message.get(field) for field in _REASONING & message.keys())
    thoughts |= any(part.get("type") in _THOUGHTS for part in parts)
    content = with_thoughts_apart(Content(_text(message), others, thoughts))
    if content.nothing:
        refused = [part["refusal"] for part in parts if isinstance(part.get("refusal"), str)]
        if refusal := clean(message.get("refusal")) or clean("".join(refused)):
            return Judged(Failure(FailureKind.CONTENT_FILTER, "refusal", refusal, reply.status))
    return judged(finish_reason(choice), content, reply)


def finish_reason(choice: Any) -> str | None:
    """Returns why a choice ended: a name, or the type of an object as SGLang's own API has it; None where servers write "null"."""
    reason = at(choice, "finish_reason")
    found = name(at(reason, "type") if isinstance(reason, dict) else reason)
    return None if found is None or found.lower() in ("null", "none") else found


_TEXTS = ("text", "output_text", "refusal", None)
_THOUGHTS = ("thinking", "reasoning", "redacted_thinking")
_OTHERS = frozenset({"tool_calls", "function_call", "audio", "images", "files"})
_REASONING = frozenset(
    {"reasoning_content", "reasoning", "reasoning_details", "thinking", "thinking_blocks", "reasoning_text"}
)
"""Where compatible servers put reasoning: DeepSeek, Moonshot, vLLM; OpenRouter, Groq; LiteLLM; GitHub Copilot."""


def read_usage(usage: Any) -> Usage | None:
    """Cached and written tokens are part of prompt_tokens, reasoning is part of completion_tokens. None if a count is missing and
    the total doesn't give it.

    Where total_tokens is larger than both together, or a part larger than its whole, the part stands beside it and is added:
    xAI's reasoning, Perplexity's, cached input of some gateways. What nothing explains is output that isn't shown, such as the
    thoughts that Gemini's endpoint for this dialect leaves out of completion_tokens.
    """
    given, made = (
        first_count(usage, "prompt_tokens", "input_tokens"),
        first_count(usage, "completion_tokens", "output_tokens"),
    )
    total = told_count(at(usage, "total_tokens"))
    if total is not None and given is not None and made is None and total >= given:
        made = total - given
    elif total is not None and made is not None and given is None and total >= made:
        given = total - made
    if given is None or made is None:
        return None
    details, made_details = _details(usage, "prompt", "input"), _details(usage, "completion", "output")
    reasoning = count(made_details.get("reasoning_tokens")) or count(usage.get("reasoning_tokens"))
    cached = max(
        count(details.get("cached_tokens")),
        *(count(usage.get(field)) for field in ("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens")),
    )
    written = max(
        count(details.get("cache_write_tokens")),
        count(details.get("cache_creation_input_tokens")),
        count(usage.get("cache_creation_input_tokens")),
    )
    beside = billed_beside(usage, given + made)
    rest = (total or 0) - given - made
    if reasoning and (
        rest in (reasoning, reasoning + cached + written) or reasoning > made or "citation_tokens" in dict(beside)
    ):
        made += reasoning
        rest -= reasoning
    if cached + written and (rest == cached + written or cached + written > given):
        given += cached + written
    elif (
        rest > 0
        and rest not in (tokens := [number for field, number in beside if field.endswith("_tokens")])
        and rest != sum(tokens)
    ):
        made += rest
        reasoning += rest
    return Usage(
        input_tokens=given,
        output_tokens=made,
        cached_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=reasoning,
        fees=beside,
        modalities=_modalities(usage),
    )


def _details(usage: dict[str, Any], *names: str) -> dict[str, Any]:
    return next((found for one in names if (found := table(usage.get(f"{one}_tokens_details")))), {})


def _modalities(usage: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    """The tokens that aren't text. Which of them were cached isn't told: none, as far as there was other input."""
    details = usage.get("prompt_tokens_details")
    made = usage.get("completion_tokens_details")
    if not any(at(part, field) for part in (details, made) for field in ("audio_tokens", "image_tokens")):
        return ()
    fresh = (
        count(usage.get("prompt_tokens"))
        - count(at(details, "cached_tokens"))
        - count(at(details, "cache_write_tokens"))
    )
    sound = min(count(at(details, "audio_tokens")), max(0, fresh))
    found = {
        "input_audio": sound,
        "input_image": min(count(at(details, "image_tokens")), max(0, fresh - sound)),
        "output_audio": count(at(made, "audio_tokens")),
        "output_image": count(at(made, "image_tokens")),
    }
    return tuple((kind, tokens) for kind, tokens in found.items() if tokens)


def add(choices: dict[int, dict[str, Any]], part: dict[str, Any]) -> None:
    """Adds one chunk's part of a choice: texts grow, lists grow, other values replace."""
    index = count(part.get("index"))
    choice = choices.setdefault(
        index, {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None}
    )
    if finish_reason(part) is not None:
        choice["finish_reason"] = part["finish_reason"]
    for key, value in table(part.get("logprobs")).items():
        if isinstance(value, list):
            lists = choice.setdefault("logprobs", {})
            lists.setdefault(key, []).extend(value)
    message = choice["message"]
    # a server that doesn't stream puts the whole message where a piece of it belongs
    piece = part.get("delta") if isinstance(part.get("delta"), dict) else part.get("message")
    for key, value in table(piece).items():
        if key == "tool_calls":
            add_tool_calls(message.setdefault("tool_calls", []), list(objects(value)))
        elif key != "role":
            _grow(message, {key: value})


def add_tool_calls(calls: list[dict[str, Any]], pieces: list[dict[str, Any]]) -> None:
    """Adds one chunk's pieces of tool calls to the calls so far, in the order in which the calls began.

    The index alone doesn't tell calls apart: Gemini's endpoint for this dialect gives 0 to all of them, other servers leave it out,
    repeat the id and the name in every piece, or give every piece a new id. A new id with a name begins a call, and so does a name
    after a call whose arguments are complete.
    """
    for piece in pieces:
        call = _continued(calls, piece, together=len(pieces) > 1)
        if call is None:
            call = {_PLACE: piece.get("index")}
            calls.append(call)
        function = table(piece.get("function"))
        old = joined(at(call, "function", "name"))
        if old and isinstance(new := function.get("name"), str) and (new == old or _repeats(call, piece, old)):
            call["function"]["name"] = new
            piece = {**piece, "function": {key: value for key, value in function.items() if key != "name"}}
        if call.get("id"):
            piece = {key: value for key, value in piece.items() if key != "id"}
        _grow(call, piece)


_PLACE = "index"
"""Where a call that isn't finished keeps the index that its pieces have."""


def _repeats(call: dict[str, Any], piece: dict[str, Any], old: str) -> bool:
    """Whether a piece repeats the name so far together with the id, as servers do that send each piece whole."""
    return (
        bool(call.get("id"))
        and piece.get("id") == call.get("id")
        and str(at(piece, "function", "name")).startswith(old)
    )


def _continued(calls: list[dict[str, Any]], piece: dict[str, Any], *, together: bool) -> dict[str, Any] | None:
    """The call that a piece goes on with; None if it begins one. `together`: it isn't the only piece of its chunk."""
    index, own_id, name_told = piece.get("index"), piece.get("id"), at(piece, "function", "name")
    alike = [call for call in calls if index is None or call[_PLACE] == index]
    if own_id:
        same = [call for call in alike if call.get("id") == own_id]
        if same:
            return same[-1]
        last = alike[-1] if alike else None
        if last is None or (name_told and (last.get("id") or _has_arguments(last))):
            return None
        return last if not together or index is not None else None
    if not alike:
        return None
    last = alike[-1]
    if not name_told:
        return last
    if index is None and together:
        return None
    if not _has_arguments(last):
        return last
    return None if _complete(last) or joined(at(last, "function", "name")) != name_told else last


def _has_arguments(call: dict[str, Any]) -> bool:
    arguments = at(call, "function", "arguments")
    return any(arguments.pieces) if isinstance(arguments, Growing) else bool(arguments)


def _complete(call: dict[str, Any]) -> bool:
    """Whether the arguments so far are a whole JSON object."""
    arguments = at(call, "function", "arguments")
    if isinstance(arguments, Growing):
        if not arguments.pieces[-1].rstrip().endswith("}"):
            return False
        arguments = joined(arguments)
    return isinstance(arguments, dict) or (
        isinstance(arguments, str) and isinstance(decode(storable(arguments).encode()), dict)
    )


def finished(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice whose last piece has come. Calls without arguments get those that they would have unstreamed: `{}`."""
    message = choice.get("message")
    if not isinstance(message, dict):
        return choice
    for call in objects(message.get("tool_calls")):
        call.pop(_PLACE, None)
        function = call.get("function")
        if isinstance(function, dict) and not _has_arguments(call):
            function["arguments"] = "{}"
    legacy = message.get("function_call")
    if isinstance(legacy, dict) and not joined(legacy.get("arguments")):
        legacy["arguments"] = "{}"
    return choice


def _grow(whole: dict[str, Any], part: dict[str, Any]) -> None:
    for key, value in part.items():
        old = whole.get(key)
        if key == "index" or (value is None and key in whole):
            continue
        if isinstance(value, str) and is_text(old) and key not in ("id", "type"):
            whole[key] = grown(old, value)
        elif isinstance(value, dict) and isinstance(old, dict):
            _grow(old, value)
        else:
            whole[key] = dict(value) if isinstance(value, dict) else value


def _joined(content: Any) -> str | None:
    """The text of a content that came as a list of parts, as some compatible servers send it."""
    texts = [part["text"] for part in objects(content) if isinstance(part.get("text"), str)]
    return storable("".join(texts)) if texts else None
