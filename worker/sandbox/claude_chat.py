"""What the sandbox's Claude accepts as a message, and how it words a refusal.

It writes no replies and knows no limits.
"""

import re
from dataclasses import replace
from typing import Any

import orjson

from worker.sandbox.claude_blocks import check_calls, check_newest_version, content_text, named
from worker.sandbox.claude_marks import check_marks, marks_in
from worker.sandbox.claude_words import bad
from worker.sandbox.deeds import Wants
from worker.sandbox.dialect import Chat, chat, names
from worker.sandbox.samples import Shape
from worker.sandbox.schemas import open_object

_FIELDS = names(
    "model messages max_tokens system metadata stop_sequences stream temperature top_k top_p tools tool_choice thinking "
    "service_tier container context_management mcp_servers output_config cache_control inference_geo speed"
)
_SAMPLING = ("temperature", "top_k", "top_p")
_WITHOUT_SAMPLING = "2026-10-21"
_TOOL = names("type name description input_schema strict cache_control input_examples defer_loading allowed_callers")
_SERVER_TOOL = re.compile(r"[a-z_]+_20\d{6}", re.ASCII)
_NEWEST = re.compile(r"claude-(opus-4-[7-9]|[a-z]+-[5-9])", re.ASCII)
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_LEAST_BUDGET = 1024


def _integer(body: dict[str, Any], name: str, low: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int:
        raise bad(f"{name}: Input should be a valid integer")
    if value < low:
        raise bad(f"{name}: Input should be greater than or equal to {low}")
    return value


def _share(body: dict[str, Any], name: str) -> None:
    value = body.get(name)
    if value is None:
        return
    if type(value) not in (int, float):
        raise bad(f"{name}: Input should be a valid number")
    if value < 0 or value > 1:
        raise bad(f"{name}: range: 0..1")


def _object(value: object, where: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise bad(f"{where}: Input should be a valid dictionary")
    return value


def _message(message: object, at: int, last: bool) -> str:
    where = f"messages.{at}"
    fields = _object(message, where)
    for name in ("role", "content"):
        if name not in fields:
            raise bad(f"{where}.{name}: Field required")
    for name in fields:
        if name not in ("role", "content"):
            raise bad(f"{where}.{name}: Extra inputs are not permitted")
    role, content = fields["role"], fields["content"]
    if role == "system":
        raise bad(
            'messages: Unexpected role "system". The Messages API accepts a top-level `system` parameter, not "system" '
            "as an input message role."
        )
    if role not in ("user", "assistant"):
        raise bad(f"{where}.role: Input should be 'user' or 'assistant'")
    if not content and not (last and role == "assistant"):
        raise bad(f"{where}: all messages must have non-empty content except for the optional final assistant message")
    text = content_text(content, f"{where}.content", role)
    if type(content) is str and content and not content.strip():
        raise bad(f"{where}: text content blocks must contain non-whitespace text")
    if last and role == "assistant" and text != text.rstrip():
        raise bad("messages: final assistant content cannot end with trailing whitespace")
    return text


def _tools(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The schema of each tool's arguments, by its name."""
    tools = body.get("tools")
    if tools is None:
        return {}
    if type(tools) is not list:
        raise bad("tools: Input should be a valid list")
    found: dict[str, dict[str, Any]] = {}
    for at, tool in enumerate(tools):
        where = f"tools.{at}"
        kind = _object(tool, where).get("type")
        if kind not in (None, "custom"):
            if type(kind) is not str or not (_SERVER_TOOL.fullmatch(kind) or kind == "mcp_toolset"):
                raise bad(f"{where}: Input tag '{kind}' found using 'type' does not match any of the expected tags")
            found[str(tool.get("name"))] = {}
            continue
        for name in tool.keys() - _TOOL:
            raise bad(f"{where}.custom.{name}: Extra inputs are not permitted")
        name = named(tool.get("name"), f"{where}.custom.name")
        if "input_schema" not in tool:
            raise bad(f"{where}.custom.input_schema: Field required")
        schema = _object(tool["input_schema"], f"{where}.custom.input_schema")
        if schema.get("type") != "object":
            raise bad(f"{where}.custom.input_schema.type: Input should be 'object'")
        if tool.get("strict") is True and open_object(schema) is not None:
            raise bad(f"{where}.custom: For 'object' type, 'additionalProperties' must be explicitly set to false")
        if name in found:
            raise bad("tools: Tool names must be unique.")
        found[name] = schema
    return found


def _chosen(body: dict[str, Any], tools: dict[str, dict[str, Any]]) -> Shape | None:
    """The call that the choice of tools forces, if it does."""
    choice = body.get("tool_choice")
    if choice is None:
        return None
    kind = _object(choice, "tool_choice").get("type")
    if kind not in ("auto", "any", "tool", "none"):
        raise bad(f"tool_choice: Input tag '{kind}' found using 'type' does not match any of the expected tags")
    known = names("type") | (names("") if kind == "none" else names("disable_parallel_tool_use"))
    for name in choice.keys() - known - (names("name") if kind == "tool" else names("")):
        raise bad(f"tool_choice.{kind}.{name}: Extra inputs are not permitted")
    if not tools:
        raise bad("tool_choice: tool_choice may only be specified while providing tools.")
    if kind in ("auto", "none"):
        return None
    name = next(iter(tools)) if kind == "any" else choice.get("name")
    if name not in tools:
        raise bad(f"tool_choice: Tool '{name}' not found in provided tools")
    return Shape(tools[name], name)


def _form(body: dict[str, Any]) -> Shape | None:
    config = body.get("output_config")
    if config is None:
        return None
    for name in _object(config, "output_config"):
        if name not in ("effort", "format", "task_budget"):
            raise bad(f"output_config.{name}: Extra inputs are not permitted")
    if config.get("effort") is not None and config["effort"] not in _EFFORTS:
        raise bad(f"output_config.effort: Input should be {', '.join(repr(one) for one in _EFFORTS)}")
    form = config.get("format")
    if form is None:
        return None
    if _object(form, "output_config.format").get("type") != "json_schema":
        raise bad("output_config.format.type: Input should be 'json_schema'")
    schema = _object(form.get("schema"), "output_config.format.schema")
    if open_object(schema) is not None:
        where = "output_config.format.schema"
        raise bad(f"{where}: For 'object' type, 'additionalProperties' must be explicitly set to false")
    return Shape(schema)


def _thinking(body: dict[str, Any], max_tokens: int, forced: bool) -> Wants:
    """Whether thoughts are asked for, and to be shown."""
    thinking = body.get("thinking")
    if thinking is None:
        return Wants()
    kind = _object(thinking, "thinking").get("type")
    if kind not in ("enabled", "disabled", "adaptive", "between_tools"):
        raise bad(f"thinking: Input tag '{kind}' found using 'type' does not match any of the expected tags")
    if kind == "disabled":
        return Wants(thinks=False)
    display = thinking.get("display")
    if display not in (None, "summarized", "omitted"):
        raise bad(f"thinking.{kind}.display: Input should be 'summarized' or 'omitted'")
    if kind == "enabled":
        budget = thinking.get("budget_tokens")
        if type(budget) is not int:
            raise bad("thinking.enabled.budget_tokens: Field required")
        if budget < _LEAST_BUDGET:
            raise bad(f"thinking.enabled.budget_tokens: Input should be greater than or equal to {_LEAST_BUDGET}")
        if budget >= max_tokens:
            raise bad("`max_tokens` must be greater than `thinking.budget_tokens`.")
    if body.get("temperature") not in (None, 1):
        raise bad("`temperature` may only be set to 1 when thinking is enabled or in adaptive mode.")
    if body.get("top_k") is not None:
        raise bad("`top_k` must be unset when thinking is enabled or in adaptive mode.")
    if body.get("top_p") is not None and body["top_p"] < 0.95:
        raise bad("`top_p` must be greater than or equal to 0.95 or unset when thinking is enabled.")
    if forced:
        raise bad("Thinking may not be enabled when tool_choice forces tool use.")
    # the newest models keep their thoughts to themselves unless they are asked
    return Wants(thinks=True, shown=display == "summarized" or (display is None and not _NEWEST.match(body["model"])))


def read_chat(raw: bytes, version: str, strict_models: bool) -> Chat:
    """The call in a body; raises Refusal for what the API would refuse under this version. `strict_models`: so does a model's rule."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise bad(f"The request body is not valid JSON: {error.msg}") from None
    if type(body) is not dict:
        raise bad("Input should be a valid dictionary")
    for name in ("model", "max_tokens", "messages"):
        if name not in body:
            raise bad(f"{name}: Field required")
    for name in body:
        if name not in _FIELDS or (version == _WITHOUT_SAMPLING and name in _SAMPLING):
            raise bad(f"{name}: Extra inputs are not permitted")
    model, messages, system = body["model"], body["messages"], body.get("system")
    if type(model) is not str:
        raise bad("model: Input should be a valid string")
    if not model:
        raise bad("model: String should have at least 1 character")
    max_tokens = _integer(body, "max_tokens", 1)
    if max_tokens is None:
        raise bad("max_tokens: Input should be a valid integer")
    if type(messages) is not list:
        raise bad("messages: Input should be a valid list")
    if not messages:
        raise bad("messages: at least one message is required")
    if strict_models and _NEWEST.match(model):
        _as_the_newest(body)
    marked = check_marks(body)
    _metadata(body.get("metadata"))
    texts = [] if system is None else [content_text(system, "system", "system")]
    texts += [_message(message, at, at == len(messages) - 1) for at, message in enumerate(messages)]
    check_calls(messages)
    if version == _WITHOUT_SAMPLING:
        check_newest_version(messages)
    stream = body.get("stream")
    if stream is not None and type(stream) is not bool:
        raise bad("stream: Input should be a valid boolean")
    _share(body, "temperature")
    _share(body, "top_p")
    _integer(body, "top_k", 0)
    _stop(body.get("stop_sequences"))
    if body.get("service_tier") not in (None, "auto", "standard_only"):
        raise bad("service_tier: Input should be 'auto' or 'standard_only'")
    forced, form = _chosen(body, _tools(body)), _form(body)
    wants = _thinking(body, max_tokens, forced is not None)
    kinds = [str(tool.get("type")) for tool in body.get("tools") or []]
    wants = replace(wants, searches=any(kind.startswith("web_search_20") for kind in kinds))
    marks = marks_in(body) if marked else ()
    return chat(model, texts, max_tokens, stream=bool(stream), shape=forced or form, wants=wants, marks=marks)


def _as_the_newest(body: dict[str, Any]) -> None:
    """Refuse what the newest models take under no version: sampling, and thinking by a budget."""
    for name in _SAMPLING:
        if body.get(name) is not None:
            raise bad(f"`{name}` is not supported by this model.")
    thinking = body.get("thinking")
    if type(thinking) is dict and thinking.get("type") == "enabled":
        raise bad('"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive".')


def _metadata(metadata: object) -> None:
    if metadata is None:
        return
    for name in _object(metadata, "metadata").keys() - names("user_id"):
        raise bad(f"metadata.{name}: Extra inputs are not permitted")
    user = _object(metadata, "metadata").get("user_id")
    if user is not None and type(user) is not str:
        raise bad("metadata.user_id: Input should be a valid string")


def _stop(stop: object) -> None:
    if stop is None:
        return
    if type(stop) is not list or any(type(one) is not str for one in stop):
        raise bad("stop_sequences: Input should be a valid list of strings")
    if any(not one.strip() for one in stop):
        raise bad("stop_sequences: each stop sequence must contain non-whitespace")
