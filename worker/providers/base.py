"""The interface of a provider: it builds a call from a request and reads a reply into a response.

It does not send, limit, retry, pick keys or count money: the engine does. A new vendor is one subclass with `build` and `read`.
"""

from __future__ import annotations

import abc
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import orjson

from models.config import ProviderConfig
from models.guesses import asked_fees, asked_tier, writes_cache
from models.learning import learns_any
from models.request import Failure, FailureKind, ModelInfo, Request, Response, StatedLimit, Usage
from models.signals import ErrorFacts, first_match
from worker.limits.shapes import Charge
from worker.providers.signals.by_status import BY_STATUS

log = logging.getLogger("truckllm.providers")

_MOST_PAGES = 100
"""Of a list of models: a bound for servers that don't come to an end."""


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP call, ready to send. `stream` asks for the silence clock instead of the total one only."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False, default_factory=dict)
    body: bytes | None = field(repr=False, default=None)
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: `headers` with lower-case names, the whole `body`, `latency_ms` from send to the last byte."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    latency_ms: int = 0

    def json(self) -> Any:
        """The body as JSON. Raises ValueError when it isn't."""
        return orjson.loads(self.body)


class SendError(Exception):
    """No whole reply came.

    `sent` is False only if nothing of the request can have left this machine; else it may have been billed. `partial` is
    what was read of a stream: it may tell tokens that were used, or even hold the whole answer.
    """

    def __init__(self, failure: Failure, *, sent: bool, partial: Reply | None = None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.sent = sent
        self.partial = partial


class Sender(Protocol):
    """Sends one call and returns the whole reply; raises SendError when no whole reply came."""

    async def send(self, call: Call) -> Reply: ...


class Provider(abc.ABC):  # noqa: B024 - `missing` says what a subclass lacks
    """One endpoint with a dialect. `dialect` is the name of the bodies it takes untouched (`openai`, `gemini`, `claude`), if any.

    A subclass brings `build` and `read`, or, if it isn't one HTTP call, `generate` of its own; and for the list of models
    `build_list_models` and `read_list_models`, or `list_models` of its own.
    """

    dialect: ClassVar[str] = ""

    def __init__(self, config: ProviderConfig, sender: Sender) -> None:
        self.config = config
        self.sender = sender

    @property
    def name(self) -> str:
        """The provider's id in the configuration."""
        return self.config.id

    def build(self, request: Request) -> Call:
        """The HTTP call for a request. Raises `models.errors.Untranslatable` for a field that has no place in the dialect."""
        raise NotImplementedError(f"{type(self).__name__} has no build")

    def read(self, request: Request, reply: Reply) -> Response:
        """What a reply means, for any status and any bytes; never raises for what a server sent."""
        raise NotImplementedError(f"{type(self).__name__} has no read")

    def build_list_models(self, api_key: str) -> Call:
        """The free call that lists models; it also tells whether a key is accepted."""
        raise NotImplementedError(f"{type(self).__name__} has no build_list_models")

    def read_list_models(self, reply: Reply) -> list[ModelInfo]:
        """The models in a 200 reply to `build_list_models`."""
        raise NotImplementedError(f"{type(self).__name__} has no read_list_models")

    def next_list_models(self, api_key: str, reply: Reply) -> Call | None:
        """The call for the page after `reply`, a page of the list of models; None after the last one. Default: one page is all."""
        return None

    def charge(self, request: Request, input_tokens: int, output_tokens: int) -> Charge:
        """What the provider's limits book when the call starts; token counts are estimates.

        Default: everything that goes in and comes out. `max_tokens` of the request is a matter of the dialect.
        """
        return Charge(tokens=input_tokens + output_tokens, input_tokens=input_tokens, output_tokens=output_tokens)

    def settled(self, booked: Charge, usage: Usage) -> Charge:
        """What the limits have booked once the usage is known. Default: the real tokens."""
        return Charge(tokens=usage.total_tokens, input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)

    def stated_limits(self, reply: Reply, failure: Failure | None) -> Sequence[StatedLimit]:
        """Returns the limits that a reply states; `failure` is what `read` made of it. Only called where `limits: learn` is configured.

        Default: none are read. `ChatProvider`, and so `JsonProvider`, reads the usual rate-limit headers and the words of refusals.
        """
        return ()

    def max_output_tokens(self, request: Request) -> int | None:
        """The request's own bound on output tokens, None if it has none."""
        for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
            value = request.input.get(name)
            if isinstance(value, int) and value > 0:
                return value
        return None

    def may_use(self, request: Request, input_tokens: int, output_tokens: int) -> Usage:
        """The dearest usage that a request allows, for a budget to reserve: token counts are estimates, output is the most that
        may come. Default: at the service tier, with the tools and the writes to a cache that the request's words ask for. Only asked
        for batches with a cap, and on another thread than the rest: it reads, and keeps nothing."""
        kept = writes_cache(request.input)
        return Usage(
            input_tokens,
            output_tokens,
            cache_write_tokens=input_tokens if kept else 0,
            cache_write_1h_tokens=input_tokens if kept == "1h" else 0,
            tier=asked_tier(request.input),
            fees=asked_fees(request.input),
        )

    @classmethod
    def missing(cls) -> list[str]:
        """The methods that a subclass still has to bring."""
        own = {name for name in vars(Provider) if getattr(cls, name) is not getattr(Provider, name)}
        lacking = set(cls.__abstractmethods__)
        for whole, parts in (
            ("generate", {"build", "read"}),
            ("list_models", {"build_list_models", "read_list_models"}),
        ):
            lacking |= parts - own if whole not in own else set()
        return sorted(lacking)

    async def generate(self, request: Request) -> Response:
        """Builds, sends and reads one request. Override it only for a provider that isn't one HTTP call.

        Raises SendError when nothing came that can be read, Untranslatable as `build` does.
        """
        call = self.build(request)
        try:
            reply = await self.sender.send(call)
            return self._with_limits(self.read(request, reply), reply)
        except SendError as error:
            if error.partial is None:
                raise
            # What came of a broken stream may be the whole answer, or a refusal, or tell what is billed in any case.
            response = self._with_limits(self.read(request, error.partial), error.partial)
            unclear = response.failure is not None and response.failure.kind is FailureKind.NETWORK
            return replace(response, failure=error.failure) if unclear else response

    def _with_limits(self, response: Response, reply: Reply) -> Response:
        """The response with the limits that the reply states, where they are to be learned."""
        if not learns_any(self.config):
            return response
        try:
            limits = tuple(one for one in self.stated_limits(reply, response.failure) if isinstance(one, StatedLimit))
        except MemoryError:
            raise
        except Exception:  # a plugin's bug; the answer is paid for
            log.exception("provider %s failed to read the limits that a reply states", self.name)
            return response
        if not limits:
            return response
        failure, refusing = response.failure, [one for one in limits if one.exceeded]
        if failure is not None and refusing:
            failure = replace(failure, exceeded=max(refusing, key=lambda one: one.window or 0.0))
        return replace(response, limits=limits, failure=failure)

    async def list_models(self, api_key: str) -> list[ModelInfo]:
        """The models this key may use, of all pages. Raises `ProviderRefused` with the provider's reason on any status but 200."""
        call: Call | None = self.build_list_models(api_key)
        found: dict[str, ModelInfo] = {}
        for _ in range(_MOST_PAGES):
            if call is None:
                break
            reply = await self.sender.send(call)
            if reply.status != 200:
                response = self.read(Request(model="", input={}, api_key=api_key), reply)
                raise ProviderRefused(response.failure or http_failure(reply))
            page = self.read_list_models(reply)
            if page and all(model.id in found for model in page):
                break  # a server that gives the same page for ever
            found.update((model.id, model) for model in page)
            call = self.next_list_models(api_key, reply)
        return list(found.values())


def bound_of(provider: Provider, request: Request) -> int | None:
    """The bound that `max_output_tokens` finds. None also where a plugin's looks for a field that the request hasn't, or finds no
    positive whole number: most requests have no bound."""
    try:
        bound = provider.max_output_tokens(request)
    except (LookupError, TypeError, ValueError, AttributeError):
        return None
    return bound if type(bound) is int and bound > 0 else None


KEY_KINDS = frozenset({FailureKind.AUTH, FailureKind.QUOTA, FailureKind.KEY_MODEL, FailureKind.RATE_LIMIT})
"""What a refused list of models may say of the key; any other refusal is about the list itself."""


class ProviderRefused(Exception):
    """A provider refused a call that isn't a job's; `failure` tells why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def http_failure(reply: Reply, kind: FailureKind | None = None, message: str | None = None) -> Failure:
    """Returns the failure that a bare status stands for: what is left where the body tells nothing."""
    signal = first_match(BY_STATUS, ErrorFacts(reply.status, (), (), ""), "")
    scope = None if signal is None or kind not in (None, signal.meaning) else signal.scope
    if kind is None:
        kind = FailureKind.SERVER if signal is None else signal.meaning
    return Failure(kind, f"http_{reply.status}", message or f"HTTP {reply.status}", reply.status, scope=scope)
