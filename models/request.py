"""The provider-neutral shapes: what is asked (Request), what came back (Response), what it used (Usage), why it failed (Failure).

It does not know any provider's wire format; `worker.providers` translates to and from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

SIMPLE = "simple"
"""Dialect of a simple line: `Request.input` is in the neutral chat shape."""

CHAT = "chat"
"""The operation of most requests: messages in, an answer out. What others there are, the providers say."""
EMBEDDINGS = "embeddings"
"""The operation of requests for vectors: no text and no tokens come out."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, and what else it is billed by. Input and output are totals; the other tokens are parts of them.

    `input_tokens` holds cached reads and cache writes, `output_tokens` holds reasoning tokens, whatever the provider's own
    arithmetic is. `cache_write_1h_tokens` are those of the cache writes that are kept for an hour. `tier` is the service tier that
    served the call, where that isn't the usual one (`flex`, `priority`); `fees` are the uses of tools that are billed by the
    use, such as `("web_search_requests", 2)`. `modalities` are tokens that may cost other than those of text, in parts that don't
    overlap: of fresh input (`input_audio`, `input_image`, `input_video`), cached input (`cached_audio`), output (`output_audio`,
    `output_image`). `reported_cost` is what the provider itself says that the call cost: nano-units and currency.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_1h_tokens: int = 0
    tier: str = ""
    fees: tuple[tuple[str, int], ...] = ()
    modalities: tuple[tuple[str, int], ...] = ()
    reported_cost: tuple[int, str] | None = None

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class FailureKind(StrEnum):
    """What a failed call is about; `worker.failover` decides by it what comes next (design §7)."""

    RATE_LIMIT = "rate_limit"
    """429 for requests or tokens a minute: wait, no retry spent."""
    QUOTA = "quota"
    """The account's money or quota is used up: its keys are quarantined."""
    AUTH = "auth"
    """The key was refused: confirmed by the free model list before it is quarantined."""
    KEY_MODEL = "key_model"
    """This key may not use this model (403)."""
    MODEL = "model"
    """This provider doesn't have the model (404)."""
    SERVER = "server"
    """The provider failed and said so: 5xx, 529, 408, 409, an error inside a 200."""
    NETWORK = "network"
    """No whole reply: connect error, reset, timeout, truncated or unreadable body. Maybe billed."""
    CONTEXT_LENGTH = "context_length"
    """The prompt is longer than the model's context."""
    TOO_LARGE = "too_large"
    """The request is bigger than a whole minute of the limit, or than the provider takes."""
    CONTENT_FILTER = "content_filter"
    """The provider's filter refused prompt or answer."""
    BAD_REQUEST = "bad_request"
    """The provider refuses this request, and will whenever it is sent."""


class FailureScope(StrEnum):
    """The largest thing that a reply names as refused or exhausted."""

    REQUEST = "request"
    """This request alone: nothing is remembered for other rows."""
    MODEL = "model"
    """The model, on the pool that was asked."""
    KEY = "key"
    """The key."""
    POOL = "pool"
    """The account, organization or project: every key of the pool."""
    PROVIDER = "provider"
    """The provider as a whole."""
    ENDPOINT = "endpoint"
    """The address: what answers there isn't this API, or doesn't have this path. Is base_url right?"""


LimitUnit = Literal["requests", "tokens", "input_tokens", "output_tokens", "concurrent"]
"""Units that providers limit; `concurrent` is calls in flight."""


@dataclass(frozen=True, slots=True)
class StatedLimit:
    """One limit as a reply states it, in its headers or in the words of a refusal. A field is None where it isn't stated.

    `limit` is per `window` seconds (60, 86400, …; None for `concurrent`, and where the reply leaves it unclear), `remaining` is the
    rest of it. `reset` is seconds until the limit is whole again, or until its window ends: vendors differ. `used` is the server's own count, and
    `requested` its charge for this call, by its own arithmetic. `exceeded`: the reply refuses the call for this limit. `scope` is
    "model", "account", or "" where the reply names neither. `gauge` names the series that a header belongs to (`tokens`,
    `project-tokens`, `requests-day`), so that two replies can be compared; "" in words.
    """

    unit: LimitUnit
    limit: float | None = None
    remaining: float | None = None
    reset: float | None = None
    window: float | None = None
    used: float | None = None
    requested: int | None = None
    exceeded: bool = False
    scope: Literal["", "model", "account"] = ""
    gauge: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call failed.

    `code` is short and stable (`rate_limit_exceeded`, `http_503`, `timeout`), `message` is the provider's own reason with
    secrets removed. `retry_after` is the wait that the reply states, in seconds (None: it states none); a wait above 25 h is read
    as 24 h. `resets_in` is seconds until a quota comes back, where known. `scope` is None where the reply names nothing. `exceeded` is the
    limit that a refusal is about (with several, the one of the longest window); None where it names none, and where limits aren't learned.
    """

    kind: FailureKind
    code: str
    message: str
    http_status: int | None = None
    retry_after: float | None = None
    resets_in: float | None = None
    scope: FailureScope | None = None
    exceeded: StatedLimit | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One generation request to one provider.

    `input` is what to generate from: for the dialect `simple` the neutral chat shape, `{"messages": [{"role", "content"}, …],
    "max_tokens"?, "temperature"?, …}` with OpenAI's field names (for embeddings `{"input": text or list of texts, "dimensions"?}`);
    else the provider's own body, decoded. `body` holds the bytes of such a body as the user wrote them. `operation` is what is
    asked for: `chat`, `responses`, `completions` or `embeddings`.
    """

    model: str
    input: Mapping[str, Any]
    api_key: str = field(repr=False, default="")
    dialect: str = SIMPLE
    operation: str = "chat"
    body: bytes | None = field(repr=False, default=None)

    @property
    def stream(self) -> bool:
        return self.input.get("stream") is True


@dataclass(frozen=True, slots=True)
class Response:
    """What a provider's plugin read from one reply.

    `raw_response` is the reply's body (a stream's chunks assembled into the body that the call would have had without
    streaming). `failure` is None exactly when the answer is whole and usable. `usage` is None when the reply told none.
    `text` is the answer's text, None if it has none (tool calls). `latency_ms` is from send to the last byte. `empty` is set for a
    whole answer that holds nothing, neither text nor anything else, and that no bound has cut. `limits` are the limits that the reply states,
    read only where `limits: learn` is configured.
    """

    raw_response: bytes = field(repr=False)
    http_code: int
    failure: Failure | None = None
    usage: Usage | None = None
    text: str | None = field(repr=False, default=None)
    finish_reason: str | None = None
    served_model: str | None = None
    request_id: str | None = None
    latency_ms: int = 0
    empty: bool = False
    limits: tuple[StatedLimit, ...] = ()

    @property
    def err(self) -> Failure | None:
        """The guide's name for `failure`."""
        return self.failure

    @property
    def tokens_used(self) -> int:
        """Input and output tokens together; 0 when the reply told no usage."""
        return self.usage.total_tokens if self.usage else 0


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One entry of a provider's model list. `retires_at` is the provider's own date text, None where it tells none."""

    id: str
    retires_at: str | None = None
