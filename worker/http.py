"""The HTTP client of a worker process: sends one call, gives back the whole reply or says why none came. Knows its transport (aiohttp), alone in the project.

It does not retry, follow redirects, keep cookies or judge replies.
"""

from __future__ import annotations

import asyncio
import functools
import os
import ssl
import time
import zlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import certifi
from yarl import URL

from models.config import ProviderConfig
from models.request import Failure, FailureKind
from worker import first_token, tracing
from worker.first_token import FIRST_TOKEN_TIMEOUT, FirstToken
from worker.providers.base import Call, Reply, SendError
from worker.providers.events import is_idle
from worker.read_budget import ReadBudget, Reading

__all__ = ["BoundSender", "Clocks", "HttpSender", "SendError"]

MAX_RESPONSE_BYTES = 128 * 2**20
READ_BUDGET_BYTES = 64 * 2**20
KEEP_ALIVE_SECONDS = 30.0
"""Shorter than any provider's own, so that a call doesn't meet a connection that the server is just closing."""
PING_SECONDS = 300.0
"""How long keep-alives alone may hold a stream open."""
_BUFFER_BYTES = 32 * 1024
_HEADER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds a call may take: to connect, without a byte of a stream, with nothing but pings, in all."""

    connect: float = 5.0
    silence: float = 60.0
    pings: float = PING_SECONDS
    total: float = 600.0


class HttpSender:
    """One per process, as an async context: connections are shared by all providers and kept alive.

    There is no bound on connections: how many calls run is the runner's business. Proxies are taken from the environment.
    """

    def __init__(
        self, *, max_response_bytes: int = MAX_RESPONSE_BYTES, read_budget_bytes: int = READ_BUDGET_BYTES
    ) -> None:
        self.max_response_bytes = max_response_bytes
        self._budget = ReadBudget(read_budget_bytes)
        self._session: aiohttp.ClientSession | None = None
        self._timeouts: dict[tuple[Clocks, bool], aiohttp.ClientTimeout] = {}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, ttl_dns_cache=60, ssl=_trust()
            ),
            cookie_jar=aiohttp.DummyCookieJar(),  # a cookie of one key must not travel with another
            auto_decompress=False,  # it has no bound; _inflate has
            read_bufsize=_BUFFER_BYTES,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
            trust_env=False,  # it would send a .netrc's password; the proxies are read here
            headers=_COMMON_HEADERS,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes every connection; calls in flight end with a SendError."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def bytes_being_read(self) -> int:
        """Bytes of replies that are read in part."""
        return self._budget.held

    def bind(self, config: ProviderConfig) -> BoundSender:
        """A sender with the timeouts of one provider."""
        return BoundSender(
            self,
            Clocks(
                connect=config.connect_timeout_seconds,
                silence=config.stream_silence_seconds,
                total=config.timeout_seconds,
            ),
        )

    async def send(self, call: Call, clocks: Clocks | None = None) -> Reply:
        """Sends one call and reads the whole reply, of any status. Raises SendError when no whole reply came."""
        if self._session is None:
            raise RuntimeError("HttpSender is used outside of its async context")
        trace = tracing.current()
        if trace is None:
            return await self._send(self._session, call, clocks)
        session, headers = self._session, {**_COMMON_HEADERS, **_encodings(call), **call.headers}
        return await trace.through(call, headers, lambda: self._send(session, call, clocks))

    async def _send(self, session: aiohttp.ClientSession, call: Call, clocks: Clocks | None) -> Reply:
        if any(not value.isprintable() for value in call.headers.values()):
            raise _lost("bad_header", "a header holds a control character; is a key broken?", sent=False)
        clocks = clocks or _DEFAULT_CLOCKS
        with self._budget.reading(pack=call.stream) as reading:
            course = _Course(reading, self.max_response_bytes)
            try:
                return await self._exchange_in_time(session, call, clocks, course)
            except SendError as error:
                error.partial = course.partial(call, error)
                raise
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                failed = _explain(error, clocks, call)
                failed.partial = course.partial(call, failed)
                # No chained cause: an aiohttp error holds the request's headers, and so the key.
                raise failed from None

    async def _exchange_in_time(
        self, session: aiohttp.ClientSession, call: Call, clocks: Clocks, course: _Course
    ) -> Reply:
        """As `_exchange`, given up where a bound on the time to the first token is over."""
        bound = first_token.current()
        if bound is None or not call.stream:
            return await self._exchange(session, call, clocks, course)
        try:
            async with asyncio.timeout(None) as scope:
                watching = asyncio.ensure_future(bound.watch(scope))
                try:
                    return await self._exchange(session, call, clocks, course, bound)
                finally:
                    watching.cancel()
        except TimeoutError:
            if not scope.expired():
                raise
            message = f"no first token from {_host(call.url)} within {bound.seconds:g} s, and another candidate is free"
            raise _lost(FIRST_TOKEN_TIMEOUT, message) from None

    async def _exchange(
        self,
        session: aiohttp.ClientSession,
        call: Call,
        clocks: Clocks,
        course: _Course,
        bound: FirstToken | None = None,
    ) -> Reply:
        headers = {**_encodings(call), **call.headers}
        async with session.request(
            call.method,
            _url(call.url),
            data=call.body,
            headers=headers,
            allow_redirects=False,
            timeout=self._timeout(clocks, call.stream),
            proxy=_proxy_for(call.url),
        ) as response:
            course.response = response
            told = response.content_length
            if told is not None and told > self.max_response_bytes:
                raise self._too_large()
            if bound and not response.headers.get("content-type", "text/event-stream").startswith("text/event-stream"):
                bound.arrived = True  # no stream: it comes as a whole, and has begun
            packed = _encoding(response)
            reading, content, last_news = course.reading, response.content, time.monotonic()
            while chunk := await content.readany():
                reading.add(chunk)
                if reading.size > self.max_response_bytes:
                    raise self._too_large()
                if bound and packed:
                    bound.arrived = True  # whatever it is, it can't be read before its end
                elif bound:
                    bound.take(chunk)
                if call.stream:
                    now = time.monotonic()
                    if not is_idle(chunk):
                        last_news = now
                    elif now - last_news > clocks.pings:
                        raise _lost("stream_silent", f"the stream sent nothing but pings for {clocks.pings:g} s")
                await reading.room()
            body = reading.body()
            if body and packed:
                plain, problem = _inflate(body, packed, self.max_response_bytes)
                if problem:
                    raise self._too_large() if problem.code == _TOO_LARGE else SendError(problem, sent=True)
                body = plain
            return course.reply(response, body)

    def _timeout(self, clocks: Clocks, stream: bool) -> aiohttp.ClientTimeout:
        timeout = self._timeouts.get((clocks, stream))
        if timeout is None:
            timeout = aiohttp.ClientTimeout(
                total=clocks.total, connect=clocks.connect, sock_read=clocks.silence if stream else None
            )
            self._timeouts[clocks, stream] = timeout
        return timeout

    def _too_large(self) -> SendError:
        return _lost(_TOO_LARGE, f"the reply is larger than max_response_bytes ({self.max_response_bytes})")


class BoundSender:
    """An HttpSender with one provider's timeouts."""

    def __init__(self, http: HttpSender, clocks: Clocks) -> None:
        self.http = http
        self.clocks = clocks

    async def send(self, call: Call) -> Reply:
        """As `HttpSender.send`."""
        return await self.http.send(call, self.clocks)


class _Course:
    """How far a call got."""

    __slots__ = ("max_response_bytes", "reading", "response", "started")

    def __init__(self, reading: Reading, max_response_bytes: int) -> None:
        self.reading = reading
        self.max_response_bytes = max_response_bytes
        self.started = time.monotonic()
        self.response: aiohttp.ClientResponse | None = None

    def reply(self, response: aiohttp.ClientResponse, body: bytes) -> Reply:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(response.status, headers, body, round((time.monotonic() - self.started) * 1000))

    def partial(self, call: Call, error: SendError) -> Reply | None:
        """Returns what there is of a broken stream, if it is worth reading."""
        if not call.stream or self.response is None or not self.reading.size or error.failure.code == _TOO_LARGE:
            return None
        body = self.reading.body()
        if encoding := _encoding(self.response):
            body, _ = _inflate(body, encoding, self.max_response_bytes)
        return self.reply(self.response, body) if body else None


_DEFAULT_CLOCKS = Clocks()
_TOO_LARGE = "reply_too_large"
_PIECE_BYTES = 8 * 1024
"""Unpacked at a time: what follows the end of a member is copied."""
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


def _encoding(response: aiohttp.ClientResponse) -> str:
    """Returns the name of a reply's compression; empty for none."""
    encoding = response.headers.get("content-encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


def _inflate(body: bytes, encoding: str, most: int) -> tuple[bytes, Failure | None]:
    """Unpacks up to `most` bytes of a body. Returns what can be read, and the failure where that isn't all."""
    if encoding not in _WINDOWS:
        message = f"the reply's content-encoding {encoding[:40]!r} was not asked for"
        return b"", Failure(FailureKind.NETWORK, "unreadable_reply", message)
    window = _WINDOWS[encoding]
    if encoding == "deflate" and body[0] & 0x0F != 8:
        window = -15  # many servers leave the zlib header out
    plain: list[bytes] = []
    inflater, whole, at = zlib.decompressobj(window), False, 0
    while at < len(body):
        piece = body[at : at + _PIECE_BYTES]
        try:
            plain.append(inflater.decompress(piece, max(1, most)))
        except zlib.error:
            if whole:  # padding behind the last member
                break
            failure = Failure(FailureKind.NETWORK, "unreadable_reply", f"the reply is no valid {encoding}")
            return b"".join(plain), failure
        most -= len(plain[-1])
        if inflater.unconsumed_tail or most < 0:
            return b"".join(plain), Failure(FailureKind.NETWORK, _TOO_LARGE, "the unpacked reply is too large")
        at += len(piece) - len(inflater.unused_data)
        whole = inflater.eof
        if whole and encoding == "deflate":
            break
        if whole:  # servers that compress a stream piece by piece send a member for each
            inflater = zlib.decompressobj(window)
            at = len(body) - len(body[at:].lstrip(b"\0")) if body[at : at + 1] == b"\0" else at
    if not whole:
        return b"".join(plain), Failure(FailureKind.NETWORK, "truncated", "the compressed reply breaks off")
    return b"".join(plain), None


def _encodings(call: Call) -> dict[str, str]:
    return {"accept-encoding": "identity" if call.stream else "gzip, deflate"}


def _lost(code: str, message: str, *, sent: bool = True) -> SendError:
    return SendError(Failure(FailureKind.NETWORK, code, message), sent=sent)


def _explain(error: BaseException, clocks: Clocks, call: Call) -> SendError:
    """Returns what a transport's error means, with the host it was about. Only what fails before there is a connection is certain not
    to have been sent.

    Messages are our own words: those of the transport may hold URLs with a proxy's password.
    """
    host = _host(call.url)
    match error:
        case aiohttp.ConnectionTimeoutError():
            return _lost("connect_timeout", f"no connection to {host} within {clocks.connect:g} s", sent=False)
        case aiohttp.ClientConnectorDNSError():
            return _lost("dns_error", f"the host name {error.host!r} can't be resolved", sent=False)
        case aiohttp.ClientConnectorCertificateError():
            return _lost("tls_error", f"the certificate of {error.host!r} was not accepted", sent=False)
        case aiohttp.ClientSSLError():
            return _lost("tls_error", f"no TLS connection to {error.host!r}", sent=False)
        case aiohttp.ClientProxyConnectionError():
            return _lost("proxy_error", f"no connection to {host} through the proxy", sent=False)
        case aiohttp.ClientHttpProxyError():
            return _lost("proxy_error", f"no connection to {host} through the proxy: HTTP {error.status}", sent=False)
        case aiohttp.ClientConnectorError():
            reason = os.strerror(error.errno) if error.errno else type(error.os_error).__name__
            return _lost("connect_error", f"no connection to {error.host}:{error.port}: {reason}", sent=False)
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return _lost("bad_url", "the call's URL is no http(s) URL; is base_url right?", sent=False)
        case aiohttp.SocketTimeoutError() if call.stream:
            return _lost("stream_silent", f"the stream from {host} sent nothing for {clocks.silence:g} s")
        case TimeoutError():
            return _lost("timeout", f"no whole reply from {host} within {clocks.total:g} s")
        case aiohttp.ClientPayloadError():
            return _lost("truncated", f"the connection to {host} ended before the reply was whole")
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientConnectionError() | OSError():
            return _lost("connection_lost", f"the connection to {host} was lost before the reply was whole")
        case _:
            return _lost("unreadable_reply", f"the reply from {host} is no valid HTTP ({type(error).__name__})")


def _host(url: str) -> str:
    """The host and port of a URL, without anybody's password."""
    try:
        parts = urlsplit(url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
    except ValueError:
        return "the host"


@functools.lru_cache(maxsize=1024)
def _url(url: str) -> URL:
    return URL(url, encoded=True)  # as the provider quoted it


def _proxy_for(url: str) -> str | None:
    scheme, _, rest = url.partition("://")
    return _proxy_of(scheme, rest.partition("/")[0])


@functools.lru_cache(maxsize=256)
def _proxy_of(scheme: str, host: str) -> str | None:
    """The proxy that the environment names for a host (HTTPS_PROXY, ALL_PROXY, NO_PROXY, …). Read once a host."""
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or proxy_bypass(host):
        return None
    return proxy if urlsplit(proxy).scheme else f"http://{proxy}"


@functools.cache
def _trust() -> ssl.SSLContext:
    """The system's certificates and certifi's: some Pythons come without the one, company networks need the other."""
    context = ssl.create_default_context()
    if not os.environ.get("SSL_CERT_FILE"):
        context.load_verify_locations(certifi.where())
    return context


def _version() -> str:
    try:
        return version("truckllm")
    except PackageNotFoundError:
        return "0"


_COMMON_HEADERS = {"user-agent": f"truckllm/{_version()}", "accept": "*/*"}
"""Of each call that doesn't set them itself."""
