"""One provider call from arrival to its last byte: key, body, limits, fault, reply, delivery, log row.

It is the order of things only; wording is the dialect's, counting the log's and the pools'.
"""

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from worker.sandbox.deeds import performed
from worker.sandbox.dialect import Answer, Chat, Dialect, Listing, Refusal, unfinished
from worker.sandbox.house import House
from worker.sandbox.quotas import Holder, Standing
from worker.sandbox.replies import Reply, Usage, compose, without_text
from worker.sandbox.samples import shaped
from worker.sandbox.settings import STREAM_ONLY, Fault
from worker.sandbox.wire import LAST_CHUNK, SSE, Connection, Ending, Request, answer_head, chunk

_HTML = b"text/html; charset=utf-8"
_RUBBISH = b"<!DOCTYPE html><html><body><h1>Welcome to the proxy</h1></body></html>"
_NO_LIMITS = Standing()
_OWN_DELAY = ("stalled_stream", "slow_first_token")
# Models that never answer, whatever the faults: a caller can rehearse a wrong name without setting up anything.
_BY_NAME = {"missing-": Fault(kind="model_missing"), "forbidden-": Fault(kind="model_forbidden")}


@dataclass(frozen=True, slots=True)
class Delivery:
    """What goes out and how: `data`, after `pause` seconds (if not None) `more`, then the ending; `whole` for the log."""

    status: int | None
    data: bytes
    ending: Ending = Ending.KEEP
    whole: bool = True
    pause: float | None = None
    more: bytes = b""


class Call:
    """A provider call that has arrived; `start` serves it, now or over time."""

    __slots__ = ("_admitted", "_connection", "_delivery", "_dialect", "_holder", "_house", "_log", "_model", "_more", "_output",
                 "_request", "_row", "_timer")  # fmt: skip

    def __init__(self, house: House, connection: Connection, request: Request, dialect: Dialect) -> None:
        self._house = house
        self._connection = connection
        self._request = request
        self._dialect = dialect
        # kept, because a reset of the sandbox starts a new log while this call goes on
        self._log = house.log
        self._row = house.log.arrive(request.at, request.mono, dialect.name, request.path)
        self._holder: Holder | None = None
        self._delivery: Delivery | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._more = False
        self._model = ""
        self._output = 0
        self._admitted = False
        connection.serve(self)

    def start(self) -> None:
        """Serve the call."""
        request, dialect, row = self._request, self._dialect, self._row
        secret = dialect.secret(request)
        holder = None if secret is None else self._house.register.find(dialect.name, secret, request.mono)
        self._holder = holder
        row.key_id = self._house.key_id(secret, holder)
        try:
            if secret is None or holder is None:
                raise Refusal(dialect.stranger(secret))
            if (misaddressed := dialect.misaddressed(request, holder)) is not None:
                raise Refusal(misaddressed)
            if request.too_large:
                raise Refusal(dialect.too_large())
            asked = dialect.read(request, self._house.settings)
        except Refusal as refusal:
            row.model = refusal.model
            self._log.identify(row)
            self._refuse(refusal.answer)
            return
        row.model = asked.model
        if isinstance(asked, Listing):
            self._log.identify(row)
            self._list(asked, secret)
        else:
            row.prompt_sha = asked.sha
            self._log.identify(row)
            self._work(asked, secret, holder)

    def _list(self, asked: Listing, secret: str) -> None:
        dialect = self._dialect
        named = self._gone(asked.model or "")
        if named is not None:
            self._send(self._plain(dialect.failure(named, asked.model or "")))
            return
        good = self._plain(dialect.listing(self._house.model_names(dialect.name), asked))
        fault = self._house.faults.for_models(dialect.name, secret, self._request.mono)
        if fault is None:
            self._send(good)
            return
        self._row.fault = fault.kind
        match fault.kind:
            case "slow":
                delivery = good
            case "hang":
                delivery = Delivery(None, b"", Ending.SILENCE, whole=False)
            case "reset":
                delivery = Delivery(None, b"", Ending.RESET, whole=False)
            case _:
                delivery = self._plain(dialect.failure(fault, asked.model or ""))
        self._later(fault.delay or 0.0, delivery)

    def _work(self, chat: Chat, secret: str, holder: Holder) -> None:
        request, dialect, row = self._request, self._dialect, self._row
        self._model = chat.model
        named = self._gone(chat.model)
        if named is not None:
            self._refuse(dialect.failure(named, chat.model))
            return
        reply = compose(
            chat.prompt,
            chat.sha,
            chat.model,
            chat.messages,
            chat.max_tokens,
            self._house.settings,
            copies=chat.copies,
            cache_writes=dialect.cache_writes,
            thinks=chat.wants.thinks,
        )
        reply = self._with_cache(chat, performed(shaped(reply, chat.shape), chat.wants), holder)
        if chat.vectors is not None:
            reply = without_text(reply)
        at_arrival, _ = self._charge(chat, reply.usage, holder)
        denial = holder.pool.admit(chat.model, at_arrival, request.mono, request.at)
        if denial is not None:
            row.limited = True
            row.limit = denial.what
            self._refuse(dialect.denied(denial, chat.model))
            return
        self._admitted = True
        self._house.in_flight += 1
        row.booked_tokens = at_arrival
        fault = self._house.faults.for_chat(dialect.name, secret, chat, request.mono)
        if fault is None:
            self._bill(chat, reply.usage)
            self._later(self._house.latency(), self._good(chat, reply))
            return
        row.fault = fault.kind
        if fault.kind == "content_filter" and fault.status is None:
            reply = dialect.filtered(reply)
        if fault.bills:
            self._bill(chat, reply.usage)
        delivery, slow = self._faulty(chat, reply, fault)
        delay = fault.delay if fault.delay is not None and fault.kind not in _OWN_DELAY else 0.0
        self._later(delay + (self._house.latency() if slow else 0.0), delivery)

    def _with_cache(self, chat: Chat, reply: Reply, holder: Holder) -> Reply:
        """The reply whose usage says what of the prompt is not text, and what was read from or written to the cache if it is marked."""
        if not chat.marks and not chat.media:
            return reply
        usage = replace(reply.usage, media=chat.media)
        if chat.marks:
            share = self._house.cache.share((holder.pool, chat.model), chat.marks, self._request.mono)
            usage = replace(usage, cached=share.read, cache_write=share.written, cache_write_1h=share.written_1h)
        return replace(reply, usage=usage)

    def _gone(self, model: str) -> Fault | None:
        """Why a model never answers: by its name, or because its day of shutdown has come."""
        retires = self._house.settings.retirements.get(model)
        if retires is not None and retires <= datetime.now(UTC).isoformat():
            return _BY_NAME["missing-"]
        return _named(model)

    def _refuse(self, answer: Answer) -> None:
        """Turn the call down at once; where refusals count, that costs quota."""
        if self._holder is not None:
            self._holder.pool.charge_refusal(self._model, self._request.mono, self._dialect.refusals_count)
        self._send(self._plain(answer))

    def _charge(self, chat: Chat, usage: Usage, holder: Holder) -> tuple[int, int]:
        own = self._dialect.charge(chat, usage)
        return holder.pool.charge(own, usage.input, usage.output, chat.max_tokens)

    def _bill(self, chat: Chat, usage: Usage) -> None:
        if self._holder is not None:
            self._output = self._charge(chat, usage, self._holder)[1]
        if chat.marks and self._holder is not None:
            self._house.cache.keep((self._holder.pool, chat.model), chat.marks, self._request.mono)
        self._log.bill(self._row, usage)

    # -- what goes out

    def _headers(self) -> bytes:
        standing = self._holder.pool.standing(self._model, self._request.mono) if self._holder else _NO_LIMITS
        return self._dialect.headers(standing)

    def _plain(self, answer: Answer) -> Delivery:
        headers = answer.headers + self._headers()
        head = answer_head(answer.status, answer.content_type, headers, len(answer.body))
        return Delivery(answer.status, head + answer.body)

    def _good(self, chat: Chat, reply: Reply, spoilt: str | None = None) -> Delivery:
        if not chat.stream:
            return self._plain(Answer(200, self._dialect.whole(chat, reply, spoilt)))
        return self._stream(chat, self._dialect.events(chat, reply, spoilt))

    def _stream(
        self,
        chat: Chat,
        events: list[bytes],
        ending: Ending = Ending.KEEP,
        *,
        finished: bool = True,
        whole: bool = True,
        pause: float | None = None,
        later: list[bytes] | None = None,
    ) -> Delivery:
        head = answer_head(200, SSE if chat.framed else b"application/json", self._headers(), None)
        last = LAST_CHUNK if finished else b""
        if later is None:
            return Delivery(200, head + b"".join(map(chunk, events)) + last, ending, whole)
        more = b"".join(map(chunk, later)) + last
        return Delivery(200, head + b"".join(map(chunk, events)), ending, whole, pause, more)

    def _faulty(self, chat: Chat, reply: Reply, fault: Fault) -> tuple[Delivery, bool]:
        """The delivery a fault makes of a reply, and whether it takes as long as a good one."""
        dialect = self._dialect
        match fault.kind:
            case "slow" | "content_filter" if fault.status is None:
                return self._good(chat, reply), True
            case "gigantic":
                assert fault.size is not None
                return self._good(chat, replace(reply, text=reply.text + "x" * (fault.size - len(reply.text)))), True
            case "wrong_usage":
                return self._good(chat, reply, fault.usage), True
            case "reset":
                return Delivery(None, b"", Ending.RESET, whole=False), True
            case "hang":
                return Delivery(None, b"", Ending.SILENCE, whole=False), False
            case "rubbish":
                return self._plain(Answer(200, _RUBBISH, content_type=_HTML)), True
            case "empty":
                return self._plain(Answer(200, b"", content_type=SSE if chat.stream else b"application/json")), True
            case "truncated" if not chat.stream:
                body = dialect.whole(chat, reply)
                head = answer_head(200, b"application/json", self._headers(), len(body))
                return Delivery(200, head + body[: len(body) // 2], Ending.CLOSE, whole=False), True
            case "error_in_200" if not chat.stream:
                return self._plain(Answer(200, dialect.error_in_200(chat, fault))), True
            case kind if kind in STREAM_ONLY or kind in ("error_in_200", "truncated"):
                return self._broken_stream(chat, dialect.events(chat, reply), fault), True
            case _:
                return self._plain(dialect.failure(fault, chat.model)), False

    def _broken_stream(self, chat: Chat, events: list[bytes], fault: Fault) -> Delivery:
        half = max(1, len(events) // 2)
        match fault.kind:
            case "no_done":
                return self._stream(chat, events[:-1], whole=False)
            case "no_finish":
                return self._stream(chat, unfinished(events), whole=False)
            case "malformed_chunk":
                return self._stream(chat, [*events[:half], _broken(events[half]), *events[half + 1 :]], whole=False)
            case "slow_first_token":
                return self._stream(chat, [], pause=fault.delay, later=events)
            case "error_in_200":
                return self._stream(chat, [*events[:half], self._dialect.error_event(chat, fault)])
            case "stalled_stream" if fault.delay is not None:
                return self._stream(chat, events[:half], pause=fault.delay, later=events[half:])
            case "stalled_stream":
                return self._stream(chat, events[:half], Ending.SILENCE, finished=False, whole=False)
            case _:
                return self._stream(chat, events[:half], Ending.CLOSE, finished=False, whole=False)

    # -- delivery

    def _later(self, delay: float, delivery: Delivery) -> None:
        if delay > 0:
            self._timer = asyncio.get_running_loop().call_later(delay, self._send, delivery)
        else:
            self._send(delivery)

    def _send(self, delivery: Delivery) -> None:
        self._timer = None
        self._delivery = delivery
        self._row.status = delivery.status
        self._more = delivery.pause is not None
        self._settle()
        if delivery.data:
            self._connection.write(delivery.data)
        elif delivery.ending is not Ending.SILENCE:
            self._finish(delivery)

    def written(self) -> None:
        """The bytes so far are with the kernel: go on with the rest, or finish."""
        delivery = self._delivery
        if delivery is None or self._timer is not None:
            return
        if self._more:
            self._more = False
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(delivery.pause or 0.0, self._send_more, delivery.more)
        elif delivery.ending is not Ending.SILENCE:
            self._finish(delivery)

    def _send_more(self, data: bytes) -> None:
        self._timer = None
        self._connection.write(data)

    def _finish(self, delivery: Delivery) -> None:
        self._delivery = None
        self._leave()
        self._log.finish(self._row, self._house.wall(), delivery.whole)
        self._connection.end(delivery.ending)

    def lost(self) -> None:
        """The caller is gone before the end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._delivery = None
        self._settle()
        self._leave()
        self._log.finish(self._row, self._house.wall(), whole=False)

    def _settle(self) -> None:
        """Book the output on the limit where it counts, once."""
        output, self._output = self._output, 0
        if output and self._holder is not None:
            self._holder.pool.charge_output(self._model, output, self._house.monotonic())

    def _leave(self) -> None:
        """Frees its place among the calls in flight, once."""
        if self._admitted and self._holder is not None:
            self._admitted = False
            self._house.in_flight -= 1
            self._holder.pool.leave(self._model)


def _broken(event: bytes) -> bytes:
    """An event whose JSON breaks off; still an event of its own."""
    start = max(0, event.find(b"data:"))
    return event[: start + (len(event) - start) // 2] + b"\n\n"


def _named(model: str) -> Fault | None:
    return next((fault for prefix, fault in _BY_NAME.items() if model.startswith(prefix)), None)


def reset_at_head(house: House, connection: Connection, request: Request, dialect: Dialect) -> bool:
    """Drop a call whose head is read if a fault says so; True if it is gone."""
    secret = dialect.secret(request)
    fault = house.faults.for_head(dialect.name, secret, request.mono)
    if fault is None:
        return False
    row = house.log.arrive(request.at, request.mono, dialect.name, request.path)
    holder = None if secret is None else house.register.find(dialect.name, secret, request.mono)
    row.key_id = house.key_id(secret, holder)
    row.fault = fault.kind
    house.log.identify(row)
    if fault.bills:
        house.log.bill(row, Usage())
    house.log.finish(row, house.wall(), whole=False)
    connection.abort(reset=True)
    return True
