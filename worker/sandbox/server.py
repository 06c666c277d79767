"""A listening sandbox: takes connections, sends each request to its provider or to the controls, closes cleanly.

It does not know how a call is served.
"""

import asyncio

from worker.sandbox import control
from worker.sandbox.call import Call, reset_at_head
from worker.sandbox.claude import Claude
from worker.sandbox.dialect import Answer, Dialect
from worker.sandbox.gemini import Gemini
from worker.sandbox.house import House
from worker.sandbox.openai import OpenAI
from worker.sandbox.settings import ProviderName, SandboxSettings
from worker.sandbox.wire import Connection, Ending, Request, answer_head

BASE_PATHS: dict[ProviderName, str] = {"openai": "/openai/v1", "gemini": "/gemini/v1", "claude": "/claude/v1"}
_DIALECTS: dict[str, Dialect] = {"openai": OpenAI(), "gemini": Gemini(), "claude": Claude()}
_LOST = f"This is the TruckLLM sandbox. Providers: {', '.join(BASE_PATHS.values())}. Controls: {control.PREFIX}\n"


class Sandbox:
    """A sandbox that is listening; `house` holds its log, faults and accounts."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.house = House(settings)
        self.port = 0
        self._host = settings.host
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._deserted = asyncio.Event()
        self._deserted.set()

    @property
    def url(self) -> str:
        """The root, such as http://127.0.0.1:8400."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}"

    def base_url(self, provider: ProviderName) -> str:
        """What a provider's `base_url` in truckllm.yaml must be."""
        return self.url + BASE_PATHS[provider]

    async def open(self) -> None:
        """Start to listen; raises OSError if the port is taken."""
        settings = self.house.settings
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), settings.host, settings.port, backlog=2048)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and drop every connection; calls on their way end unanswered in the log."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._connections):
            connection.abort(reset=False)
        await self._deserted.wait()
        await self._server.wait_closed()
        self._server = None
        self.house.log.close()

    # -- wire.Desk

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._deserted.clear()

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._deserted.set()

    def head(self, connection: Connection, request: Request) -> bool:
        dialect = _DIALECTS.get(request.path.partition("/")[2].partition("/")[0])
        if dialect is None:
            return False
        length = request.headers.get(b"content-length", b"0")
        limit = self.house.settings.max_body_bytes or dialect.max_body
        request.too_large = length.isdigit() and int(length) > limit
        return reset_at_head(self.house, connection, request, dialect)

    def take(self, connection: Connection, request: Request) -> None:
        dialect = _DIALECTS.get(request.path.partition("/")[2].partition("/")[0])
        if dialect is not None:
            Call(self.house, connection, request, dialect).start()
        elif request.path.startswith(control.PREFIX):
            _reply(connection, control.answer(self.house, request))
        else:
            _reply(connection, Answer(404, _LOST.encode(), content_type=b"text/plain; charset=utf-8"))


class _Reply:
    """An answer that is no provider's call: sent, then the connection goes on."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def written(self) -> None:
        self._connection.end(Ending.KEEP)

    def lost(self) -> None:
        pass


def _reply(connection: Connection, answer: Answer) -> None:
    connection.serve(_Reply(connection))
    head = answer_head(answer.status, answer.content_type, answer.headers, len(answer.body))
    connection.write(head + answer.body)


async def serve(settings: SandboxSettings) -> Sandbox:
    """Start a sandbox on the running loop; raises OSError if it cannot listen."""
    sandbox = Sandbox(settings)
    try:
        await sandbox.open()
    except BaseException:
        sandbox.house.log.close()
        raise
    return sandbox
