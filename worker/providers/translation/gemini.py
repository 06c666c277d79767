"""Gemini's generateContent, written from the neutral shape; `gemini_bodies` reads it.

It knows no other dialect, and nothing of replies.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Mapping
from typing import Any

from worker.providers.neutral import (
    Ask,
    Media,
    Settings,
    Text,
    Tool,
    ToolResult,
    Turn,
    checked_name,
    given,
    refusal,
    with_ids,
)

TARGET = "Gemini"
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}", re.ASCII)
_ID = re.compile(r"[\x21-\x7e]{1,64}", re.ASCII)
_OWN_URL = re.compile(
    r"https://generativelanguage\.googleapis\.com/(?:[\w/]+/)?files/|gs://|https://(?:www\.)?youtube\.com/watch\?|https://youtu\.be/",
    re.ASCII,
)
_MODES = {"auto": "AUTO", "any": "ANY", "none": "NONE"}
_LEVELS = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "XHIGH"}
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}
"""For the models that know budgets only; the numbers are those that Gemini's own OpenAI-compatible endpoint takes."""
_OLD = re.compile(r"(?:models/)?gemini-[12]\b", re.ASCII)
_TIERS = {"auto": None, "default": "standard", "flex": "flex", "priority": "priority"}
_FOREIGN = "skip_thought_signature_validator"
"""Stands for the thought behind a call that another model made: without a signature Gemini 3 refuses the call."""


def write(ask: Ask, model: str) -> dict[str, Any]:
    """A generateContent body. The model only decides how thinking is asked for. Raises Untranslatable."""
    settings = ask.settings
    body: dict[str, Any] = {}
    if ask.system:
        body["systemInstruction"] = {"parts": [{"text": part.text} for part in ask.system]}
    body["contents"] = [
        content
        for turn in with_ids(ask.turns, _ID)
        for content in _contents(turn, ask.target, _OLD.match(model) is None)
    ]
    calling = _calling(ask)
    if ask.tools:
        body["tools"] = [{"functionDeclarations": [_declaration(tool, ask.target) for tool in ask.tools]}]
    if calling:
        body["toolConfig"] = {"functionCallingConfig": calling}
    config = {
        "temperature": settings.take_number("temperature", 0, 2),
        "topP": settings.take_number("top_p", 0, 1),
        "topK": settings.take_number("top_k", 1, 10**9),
        "maxOutputTokens": settings.take("max_completion_tokens", "max_tokens"),
        "stopSequences": _stop(settings),
        "seed": settings.take_number("seed", -(2**31), 2**31 - 1),
        "candidateCount": settings.take_number("n", 1, 8),
        "presencePenalty": settings.take_number("presence_penalty", -2, 2),
        "frequencyPenalty": settings.take_number("frequency_penalty", -2, 2),
        "responseLogprobs": settings.take("logprobs"),
        "logprobs": _top_logprobs(settings),
        "thinkingConfig": _thinking(settings, model),
    }
    if ask.form:
        config["responseMimeType"] = "application/json"
        config["responseJsonSchema"] = ask.form.schema
    where = settings.where("service_tier")
    if (tier := settings.take("service_tier")) is not None:
        if not isinstance(tier, str) or tier not in _TIERS:
            raise refusal(where, ask.target, f"there is no tier like {tier!r:.40}")
        if _TIERS[tier]:
            body["serviceTier"] = _TIERS[tier]
    settings.take("stream")  # says so in the URL
    settings.take("stream_options")  # asks for the usage, which comes in any case
    settings.take_only("store", False)
    settings.done()
    if config := given(config):
        body["generationConfig"] = config
    return body


def _stop(settings: Settings) -> list[str] | None:
    where = settings.where("stop")
    stop = settings.take_stop()
    if stop and len(stop) > 5:
        raise refusal(where, settings.target, f"it takes 5 of these at most, not {len(stop)}")
    return stop


def _top_logprobs(settings: Settings) -> Any:
    """Called after `logprobs` was taken."""
    return settings.take_number("top_logprobs", 0, 20)


def _thinking(settings: Settings, model: str) -> dict[str, Any] | None:
    where = settings.where("reasoning_effort")
    effort, budget = settings.take("reasoning_effort"), settings.take("thinking_budget")
    if budget is not None:
        return {"thinkingBudget": budget}
    if effort is None:
        return None
    old = _OLD.match(model) is not None
    known: Mapping[str, str | int] = _BUDGETS if old else _LEVELS
    if not isinstance(effort, str) or effort not in known:
        raise refusal(where, settings.target, f"{effort!r:.40} is none of {', '.join(known)}, which {model:.80} takes")
    return {"thinkingBudget" if old else "thinkingLevel": known[effort]}


def _contents(turn: Turn, target: str, signed: bool) -> list[dict[str, Any]]:
    """One turn; results of tools go before what else the user says, on their own."""
    contents = []
    role = "model" if turn.role == "assistant" else "user"
    if results := turn.results():
        contents.append({"role": role, "parts": [_result(result, target) for result in results]})
    parts = [_part(part, target) for part in turn.said()]
    for index, use in enumerate(turn.uses()):
        name = checked_name(use.where, use.name, _NAME, target)
        call: dict[str, Any] = {"functionCall": {"id": use.id, "name": name, "args": use.arguments}}
        if signed and index == 0:
            call["thoughtSignature"] = _FOREIGN
        parts.append(call)
    if parts:
        contents.append({"role": role, "parts": parts})
    return contents


def _part(part: Text | Media, target: str) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"text": part.text}
    if not part.url:
        return {"inlineData": {"mimeType": part.media_type, "data": part.data}}
    if not _OWN_URL.match(part.url):
        why = "it reads no URLs but those of its own files, of Cloud Storage (gs://) and of YouTube; give the data as base64"
        raise refusal(part.where, target, why)
    kind = part.media_type or mimetypes.guess_type(part.url.partition("?")[0])[0]
    return {"fileData": given({"mimeType": kind, "fileUri": part.url})}


def _result(result: ToolResult, target: str) -> dict[str, Any]:
    for part in result.parts:
        if isinstance(part, Media):
            raise refusal(part.where, target, "the result of a tool can only hold text")
    response = result.value
    if response is None:
        text = "\n\n".join(part.text for part in result.parts if isinstance(part, Text))
        response = {"error" if result.failed else "output": text}
    return {"functionResponse": {"id": result.id, "name": result.name, "response": response}}


def _declaration(tool: Tool, target: str) -> dict[str, Any]:
    name = checked_name(tool.where, tool.name, _NAME, target)
    return given({"name": name, "description": tool.description, "parametersJsonSchema": tool.schema})


def _calling(ask: Ask) -> dict[str, Any] | None:
    """What is said about calling. VALIDATED holds calls to their schemas, as `strict` asks; ANY does so in any case."""
    settings, choice = ask.settings, ask.choice
    where = settings.where("parallel_tool_calls")
    parallel = settings.take("parallel_tool_calls")
    if parallel is False:
        raise refusal(where, ask.target, "it may always call several tools at once")
    if parallel is not None and not ask.tools:
        raise refusal(where, ask.target, "there are no tools")
    mode = _MODES[choice.mode] if choice else None
    if mode in (None, "AUTO") and (any(tool.strict for tool in ask.tools) or (choice and choice.names)):
        mode = "VALIDATED"
    if mode is None:
        return None
    return {"mode": mode, **({"allowedFunctionNames": list(choice.names)} if choice and choice.names else {})}
