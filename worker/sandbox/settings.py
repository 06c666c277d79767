"""What a sandbox is told: accounts and their limits, latency, faults.

It checks shapes and names; it enforces nothing itself.
"""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from models.errors import ConfigError

ProviderName = Literal["openai", "gemini", "claude"]

FaultKind = Literal[
    "status",  # any HTTP error, by `status`, in the provider's own body
    "rate_limit",  # 429 of the rate kind; a wait hint only if `retry_after` is given
    "quota",  # 429 that says the account is out of quota or over its spend limit; `code` picks a variant
    "usage_limit",  # Claude's 400 "You have reached your specified API usage limits"; elsewhere the same as quota
    "overloaded",  # 503 (OpenAI, Gemini) or 529 (Claude)
    "context_length",  # 400: the prompt is too long for the model
    "content_filter",  # OpenAI finish content_filter (or 400 with `status: 400`), Gemini blocked prompt, Claude refusal
    "key_invalid",  # 401, or Gemini's 400 API_KEY_INVALID
    "model_missing",  # 404 for the model
    "model_forbidden",  # 403 for this key and model
    "reset",  # TCP RST: `when: before` the body is read, or `after` the work is done
    "hang",  # the request is read and never answered
    "slow",  # a good answer, `delay` seconds later
    "truncated",  # Content-Length promises more than is sent, then the connection closes
    "rubbish",  # 200 with an HTML page
    "error_in_200",  # 200 with an error body; in a stream, an error event half way
    "empty",  # 200 with no body
    "cut_stream",  # half of the events, then the connection closes
    "stalled_stream",  # half of the events, then silence (for ever, or for `delay` seconds)
    "no_done",  # the events without the end marker: [DONE], message_stop or finishReason
    "no_finish",  # the events without those that say why the answer ended; the end marker itself comes
    "malformed_chunk",  # all events, one in the middle broken off half way
    "slow_first_token",  # the head of the reply at once, the first event `delay` seconds later
    "gigantic",  # a good answer whose text is `size` bytes
    "wrong_usage",  # a good answer whose usage block is `usage`: missing, null, text, digits, negative, huge or partial
]
STREAM_ONLY = frozenset({"cut_stream", "stalled_stream", "no_done", "no_finish", "malformed_chunk", "slow_first_token"})
# What a question for the list of models can meet.
MODELS_TOO = frozenset(
    {"status", "rate_limit", "quota", "usage_limit", "overloaded", "key_invalid", "hang", "slow", "reset"}
)
# What the provider had already worked for when it went wrong, and so would bill.
BILLED_FAULTS = frozenset({"content_filter", "hang", "slow", "truncated", "gigantic", "wrong_usage"} | STREAM_ONLY)

Rate = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(ge=0)]


class _Strict(BaseModel):
    # hide_input_in_errors: a mistyped account must not print its key.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ModelLimits(_Strict):
    """Limits of one model: requests and tokens a minute and a day, calls at once; each replaces the account's own for that model."""

    rpm: Rate | None = None
    tpm: Rate | None = None
    rpd: Rate | None = None
    tpd: Rate | None = None
    concurrent: Rate | None = None


class Limits(ModelLimits):
    """Limits of a pool, how they are counted, and what a reply states about them.

    `window` bucket: refilled continuously, with `burst_seconds` worth of quota at once; fixed: minutes of the sandbox's clock;
    sliding: the last 60 s. `counts`: the tokens that a call is charged, times `count_factor`. `enforced`: the share of each
    stated limit that is really there. `headers` wrong: twice the limit, all of it left. `retry_after`: the wait that a 429
    states: the right one, none, or always so many seconds.
    """

    burst_seconds: Annotated[float, Field(gt=0)] = 1.0
    window: Literal["bucket", "fixed", "sliding"] = "bucket"
    counts: Literal["provider", "prompt", "max_tokens", "both", "usage"] = "provider"
    count_factor: Annotated[float, Field(gt=0)] = 1.0
    enforced: Annotated[float, Field(gt=0, le=1)] = 1.0
    headers: Literal["right", "none", "wrong"] = "right"
    retry_after: Literal["right", "none"] | Seconds = "right"
    refusals_count: bool | None = None
    models: dict[str, ModelLimits] = {}


class Account(Limits):
    """One accepted key. Accounts that name the same pool share its limits (those of the first that states any)."""

    provider: ProviderName
    key: str = Field(repr=False, min_length=1)
    pool: str | None = None
    organization: str | None = None
    project: str | None = None

    @model_validator(mode="after")
    def _belongs(self) -> Self:
        if self.provider != "openai" and (self.organization or self.project):
            raise ValueError("`organization` and `project` are OpenAI's: leave them out")
        return self

    @property
    def stated(self) -> bool:
        """Whether it says any limit."""
        return self.limits() != Limits()

    def limits(self) -> Limits:
        return Limits(**{name: getattr(self, name) for name in Limits.model_fields})


class Load(_Strict):
    """How the latency grows with the calls in flight: beyond `above` of them a call takes `latency` seconds, if that is given,
    and `growth` seconds more for each call beyond."""

    above: Annotated[int, Field(ge=0)]
    latency: Seconds | None = None
    growth: Seconds = 0.0


class Fault(_Strict):
    """One thing that goes wrong, and when.

    A call matches if provider, key, model (`*` is a wildcard), text and time window fit; of the matching calls every
    `every`-th and a seeded share `rate` fire, at most `times` times: per distinct prompt if `contains` is given, else
    in all. `after` and `until` are seconds since the list of faults was set. The first fault that fires is the one.
    Faults hit calls for text; `calls: models` or `both` makes them hit the free list of models. A key_invalid without
    `calls` hits both, as a revoked key would. `retry_after` is sent exactly as given.
    """

    kind: FaultKind
    provider: ProviderName | None = None
    key: str | None = Field(default=None, repr=False)
    model: str | None = None
    contains: str | None = None
    times: Annotated[int, Field(ge=1)] | None = None
    rate: Annotated[float, Field(ge=0, le=1)] | None = None
    after: Seconds | None = None
    until: Seconds | None = None
    every: Annotated[int, Field(ge=1)] | None = None
    status: Annotated[int, Field(ge=400, le=599)] | None = None
    retry_after: Seconds | None = None
    delay: Seconds | None = None
    code: str | None = None
    message: str | None = None
    when: Literal["before", "after"] = "after"
    usage: Literal["missing", "null", "text", "digits", "negative", "huge", "partial"] = "missing"
    size: Annotated[int, Field(ge=1, le=2**31)] | None = None
    billed: bool | None = None
    calls: Literal["chat", "models", "both"] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.kind == "status" and self.status is None:
            raise ValueError("a fault of kind 'status' needs a `status`, such as 500")
        if self.kind == "slow" and self.delay is None:
            raise ValueError("a fault of kind 'slow' needs a `delay` in seconds")
        if self.kind == "slow_first_token" and self.delay is None:
            raise ValueError("a fault of kind 'slow_first_token' needs a `delay` in seconds")
        if self.kind == "gigantic" and self.size is None:
            raise ValueError("a fault of kind 'gigantic' needs a `size` in bytes, such as 100000000")
        if self.before_body and (self.contains is not None or self.model is not None):
            raise ValueError("`when: before` resets before the body is read, so `contains` and `model` can never match")
        if self.calls in ("models", "both") and self.kind not in MODELS_TOO:
            raise ValueError(f"a fault of kind '{self.kind}' can't hit the list of models; leave `calls` out")
        return self

    @property
    def hits_models(self) -> bool:
        return self.calls in ("models", "both") or (self.calls is None and self.kind == "key_invalid")

    @property
    def before_body(self) -> bool:
        return self.kind == "reset" and self.when == "before"

    @property
    def bills(self) -> bool:
        """Whether a call this fault hits is billed (the default can be overruled by `billed`)."""
        if self.billed is not None:
            return self.billed
        return self.kind in BILLED_FAULTS or (self.kind == "reset" and self.when == "after")


_MODELS: dict[ProviderName, list[str]] = {
    "openai": ["gpt-4o", "gpt-4o-mini", "gpt-5.4-mini", "gpt-3.5-turbo-instruct", "text-embedding-3-small"],
    "gemini": ["gemini-3.5-flash", "gemini-3.5-flash-lite", "gemini-embedding-001"],
    "claude": ["claude-sonnet-5-5", "claude-haiku-4-5"],
}


class SandboxSettings(_Strict):
    """Everything a sandbox can be told. With no accounts any key is accepted, each with `limits` of its own."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    expose: bool = False
    latency: Seconds = 0.0
    jitter: Seconds = 0.0
    load: Load | None = None
    seed: int = 0
    accounts: list[Account] = []
    limits: Limits = Limits()
    faults: list[Fault] = []
    models: dict[ProviderName, list[str]] = _MODELS
    served_models: dict[str, str] = {}
    retirements: dict[str, str] = {}
    output_tokens: Annotated[int, Field(ge=1)] | None = None
    usage_extras: bool = False
    strict_models: bool = True
    max_body_bytes: Annotated[int, Field(ge=1)] | None = None
    log: Path | None = None
    log_rows: Annotated[int, Field(ge=1)] = 1_000_000

    @field_validator("accounts")
    @classmethod
    def _distinct(cls, accounts: list[Account]) -> list[Account]:
        seen: dict[tuple[str, str], int] = {}
        for index, account in enumerate(accounts):
            first = seen.setdefault((account.provider, account.key), index)
            if first != index:
                raise ValueError(f"accounts[{index}] has the same provider and key as accounts[{first}]")
        return accounts

    @model_validator(mode="after")
    def _local(self) -> Self:
        if not self.expose and not _is_loopback(self.host):
            raise ValueError(f"host {self.host} can be reached from other machines; use 127.0.0.1, or set expose: true")
        return self


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_settings(path: Path) -> SandboxSettings:
    """Read a YAML (or JSON) settings file; raises ConfigError that names the file and each wrong field, no values."""
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read as text: {error.__class__.__name__}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path} is not valid YAML{where}") from None
    if not isinstance(loaded, dict | None):
        raise ConfigError(f"{path} must hold a mapping of sandbox settings, such as `latency: 0.05`")
    try:
        return SandboxSettings.model_validate(loaded or {})
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """One line for a failed check: where and what, without the values (they may be keys)."""
    return "; ".join(
        ".".join(str(step) for step in item["loc"]) + (": " if item["loc"] else "") + item["msg"]
        for item in error.errors(include_input=False, include_url=False, include_context=False)
    )
