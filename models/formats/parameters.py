"""The parameters that a simple line may hold beside its question, by name: what is in none of these lists is not sent unasked.

The names are those of the providers' own references for chat and embeddings, and of common servers with OpenAI's interface.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import msgspec

from models.formats.fields import QUESTIONS, Refused, show

EXTRA = "extra_body"
"""Field of a simple line whose members are put into the provider's body as they are, whatever their names."""

_OPENAI = """
    audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_output_tokens max_tokens
    modalities moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key prompt_cache_options
    prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier stop store stream
    stream_options temperature tool_choice tools top_logprobs top_p user verbosity web_search_options
"""
"""OpenAI API reference: create chat completion."""
_EMBEDDINGS = """
    dimensions encoding_format input_type output_dimension output_dimensionality output_dtype task task_type title truncate truncation
    user
"""
"""OpenAI, Gemini, Voyage, Jina and Mistral API references: embeddings. Some of them are usual names of a data set's columns, so
they count only in lines that ask for embeddings."""
_CLAUDE = "cache_control inference_geo mcp_servers output_config stop_sequences thinking top_k"
"""Anthropic API reference: create a message."""
_GEMINI = "cached_content generation_config safety_settings thinking_budget thinking_config tool_config"
"""Gemini API reference: generateContent, in the spelling of the neutral shape."""
_GATEWAYS = """
    allowed_openai_params fallbacks guardrails include_reasoning num_retries plugins provider_options providerOptions transforms
"""
"""OpenRouter and LiteLLM docs: request parameters."""
_VENDORS = """
    asr_options bot_setting chat_template_kwargs citation_options clear_thinking compound_custom context_length_exceeded_behavior
    deferred disable_search do_sample enable_code_interpreter enable_search enable_thinking
    exclude_domains ignore_eos include_domains incremental_output language_preference last_updated_after_filter
    last_updated_before_filter mask_sensitive_info max_search_results media_resolution mirostat_lr mirostat_target
    perf_metrics_in_response prompt_mode prompt_truncate_len random_seed raw_output reasoning_format
    reasoning_history reasoning_split repetition_penalty repetition_context_size return_citations return_images
    return_related_questions return_token_ids safe_prompt safety_model search_after_date_filter
    search_before_date_filter search_context_size search_domain_filter search_language_filter search_mode search_options
    search_parameters search_recency_filter search_settings sensitive_word_check speculation stream_mode
    thinking_level tokens_to_generate tool_stream top_a translation_options typical_p user_location vl_high_resolution_images
    web_search
"""
"""Mistral, Groq, xAI, DeepSeek, Moonshot, Zhipu, DashScope, MiniMax, Perplexity, Fireworks and Together API references."""
_SERVERS = """
    add_generation_prompt add_special_tokens allowed_token_ids bad_words best_of cache_prompt cache_salt
    continue_final_message custom_logit_processor custom_params detokenize dry_allowed_length dry_base dry_multiplier
    dry_penalty_last_n dry_sequence_breakers dynatemp_exponent dynatemp_range ebnf frequency_penalty_range
    guided_choice guided_decoding_backend guided_grammar guided_json guided_regex guided_whitespace_pattern id_slot
    include_stop_str_in_output json_schema keep_alive kv_transfer_params length_penalty lora lora_path min_keep min_p min_tokens
    mirostat mirostat_eta mirostat_tau mm_processor_kwargs n_keep n_predict n_probs no_stop_trim num_ctx num_predict
    penalize_nl penalty_alpha presence_penalty_range prompt_logprobs repeat_last_n repeat_penalty
    return_hidden_states return_tokens_as_token_ids samplers separate_reasoning skip_special_tokens spaces_between_special_tokens
    stop_regex stop_token_ids stream_reasoning structural_tag structured_outputs t_max_predict_ms tfs_z think timings_per_token
    top_n_sigma truncate_prompt_tokens use_beam_search vllm_xargs xtc_probability xtc_threshold
"""
"""vLLM, SGLang, llama.cpp, Ollama, TGI and LM Studio docs: extra parameters."""

KNOWN = frozenset(name for text in (_OPENAI, _CLAUDE, _GEMINI, _GATEWAYS, _VENDORS, _SERVERS) for name in text.split())
_OF_EMBEDDINGS = frozenset(_EMBEDDINGS.split())
_OBJECTS = frozenset({"cache", "format", "options", "reasoning", "usage"})
"""Parameters of OpenRouter, LiteLLM and Ollama that are objects; a text or a number under such a name is a column of the user's."""
_OF_LINE = frozenset(
    {"id", "custom_id", "model", "provider", "route", "metadata", "system", "embed", EXTRA, *QUESTIONS}
)

_READ_HERE = frozenset(
    {
        *QUESTIONS,
        "contents",
        "embed",
        "model",
        "n",
        "stream",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "maxOutputTokens",
        "service_tier",
        "serviceTier",
        "tools",
    }
)
"""Fields that limits, caps and the reading of replies go by, so they can't hide in `extra_body`."""


def unknown(row: Mapping[str, Any], *, embeds: bool) -> list[str]:
    """The fields of a simple line that no list knows; null stands for "not given"."""
    rest = row.keys() - KNOWN - _OF_LINE
    if embeds:
        rest -= _OF_EMBEDDINGS
    return [name for name in row if name in rest and row[name] is not None and not _is_setting(name, row[name])]


def _is_setting(name: str, value: object) -> bool:
    return name in _OBJECTS and type(value) is dict


def refusal(names: list[str]) -> str:
    """The reason why a line with unknown fields is refused, with the ways out."""
    shown = ", ".join(show(name, 40) for name in names[:6]) + (", …" if len(names) > 6 else "")
    close = get_close_matches(names[0], KNOWN | _OF_LINE, 1, 0.8)
    meant = f" (did you mean {show(close[0])}?)" if close else ""
    fields, them = ("field", "it") if len(names) == 1 else ("fields", "them")
    return (
        f"unknown {fields} {shown}{meant}: neither a part of a line nor a known parameter. --unknown-fields metadata brings {them} back "
        f"with the result, --unknown-fields send sends {them} to the provider; in a line, put {them} into metadata or {EXTRA}"
    )


def extra(row: Mapping[str, Any]) -> None:
    """Raises Refused for an `extra_body` that is no object, or that holds what has its place beside it."""
    value = row.get(EXTRA)
    if value is None:
        return
    if type(value) is not dict:
        raise Refused(f"{EXTRA} must be an object, not {show(value)}")
    inner = [value, *(one for one in value.values() if type(one) is dict)]
    for name in (name for part in inner for name in part if name in _READ_HERE):
        if name in value or name.lower().startswith("max"):
            raise Refused(f"{EXTRA} holds {name}, which belongs beside it: limits and caps go by it")


def merged(body: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """A body with the members of `extra_body`; objects that both have are merged."""
    found = dict(body)
    for name, value in more.items():
        there = found.get(name)
        found[name] = merged(there, value) if isinstance(there, Mapping) and isinstance(value, Mapping) else value
    return found


_WHOLE = """
    best_of budget_tokens candidateCount candidate_count dimensions logprobs maxOutputTokens max_completion_tokens max_output_tokens
    max_tokens max_tool_calls min_tokens n n_predict n_probs num_ctx num_predict outputDimensionality output_dimension
    output_dimensionality prompt_logprobs random_seed repeat_last_n seed thinkingBudget thinking_budget topK top_k top_logprobs
    truncate_prompt_tokens
"""
WHOLE = frozenset(_WHOLE.split())
"""Parameters that are whole numbers at every provider."""
_NESTED = ("thinking", "thinkingConfig", "thinking_config", "generationConfig", "generation_config")
"""Objects in a body that hold such parameters."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def with_whole_numbers(row: dict[str, Any], raw: bytes) -> bytes:
    """`raw` with 5.0 written as 5 where a parameter is a whole number: pandas writes columns with gaps as floats.

    `row` is `raw` decoded, and is changed with it. Everything else keeps its bytes.
    """
    changes: dict[str, msgspec.Raw] = {}
    for name in WHOLE & row.keys():
        value = row[name]
        if type(value) is float and value.is_integer():
            row[name] = int(value)
            changes[name] = msgspec.Raw(b"%d" % row[name])
    for name in _NESTED:
        inner = row.get(name)
        if type(inner) is dict and any(type(value) in (float, dict) for value in inner.values()):
            before = bytes(_members.decode(raw)[name])
            after = with_whole_numbers(inner, before)
            if after is not before:
                changes[name] = msgspec.Raw(after)
    return msgspec.json.encode({**_members.decode(raw), **changes}) if changes else raw
