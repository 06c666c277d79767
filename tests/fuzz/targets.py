"""What is fuzzed: one function a reader, from any bytes to nothing; it raises when a promise about bad input is broken.

It draws no bytes itself: `tests/fuzz/test_fuzz.py` does for a moment in every run of the tests, `make fuzz` for as long as one likes.
"""

from __future__ import annotations

import datetime
import functools
import gzip
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import zstandard

from models import model_lists
from models.config import Config, ProviderConfig
from models.config_file import load_config_text
from models.errors import BadLine, ConfigError, InputError, UsageError
from models.formats.lines import Line, read_lines
from models.formats.results import Form, Outcome, Writer, metadata_in, result_line
from models.formats.simple import simple_input
from models.lanes import Lanes
from models.request import EMBEDDINGS, Request, Response
from submit.source import Source
from tests.fuzz.http_api import asked, parsed
from tests.fuzz.tickets import taken
from worker.providers.base import Provider, Reply
from worker.providers.claude import Claude
from worker.providers.contract import NoSender
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI
from worker.providers.rubbish import survives
from worker.tasks import read_ticket

SECRET = "canary.0123456789"
"""A key that looks like none. No message may tell it."""

_KEYS = [{"id": "k1", "secret": SECRET}]
_LANES = Lanes(
    Config.model_validate(
        {
            "providers": [{"id": name, "keys": _KEYS} for name in ("openai", "gemini", "claude")],
            "routes": {"smart": {"candidates": ["openai/gpt-4o", "claude/claude-haiku-4-5"]}},
        }
    )
)
_PROVIDERS: dict[str, Provider] = {
    kind.dialect: kind(
        ProviderConfig.model_validate({"id": kind.dialect, "base_url": "https://api.example.com/v1", "keys": _KEYS}),
        NoSender(),
    )
    for kind in (OpenAI, Gemini, Claude)
}
READERS = {
    "openai": ("openai", "chat"),
    "openai-responses": ("openai", "responses"),
    "openai-completions": ("openai", "completions"),
    "openai-embeddings": ("openai", EMBEDDINGS),
    "gemini": ("gemini", "chat"),
    "gemini-embeddings": ("gemini", EMBEDDINGS),
    "claude": ("claude", "chat"),
}
"""Every reader of replies: dialect and operation."""

STATUSES = (200, 200, 200, 200, 201, 204, 302, 400, 401, 402, 403, 404, 413, 422, 429, 500, 503, 529)
_TABLE = {"prompt", "text"}


def lines(data: bytes) -> None:
    """Input lines in every dialect: each line that isn't blank becomes one job or one named bad line."""
    written = [one for one in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if _says_something(one)]
    found = list(read_lines(io.BytesIO(data), _LANES, model="openai/gpt-4o"))
    kept = list(read_lines(io.BytesIO(data), _LANES, model="openai/gpt-4o", keep_bad=True))
    assert len(found) == len(kept) == len(written), "a line was lost"
    assert len({line.custom_id for line in kept if isinstance(line, Line)}) == len(kept), "two jobs have one id"
    for first, second in zip(found, kept, strict=True):
        assert first.number == second.number
        if isinstance(first, BadLine):
            _is_told_well(first.reason)
            assert isinstance(second, Line)
            assert second.refused == first.reason
        else:
            assert isinstance(second, Line)
            assert second.body == first.body
        _is_a_job(second)


def table(data: bytes) -> None:
    """A CSV file, whole: each row becomes a line, or a bad line, or the file is refused with a reason."""
    _contained("table.csv", data)


def container(data: bytes) -> None:
    """Whatever a file may be by its first bytes: gzip, Zstandard, Parquet, plain lines."""
    _contained("input.jsonl", data)


def parquet(data: bytes) -> None:
    """A Parquet file: the first byte chooses a good one, the others change its bytes, two for the place and one for the value."""
    if not data:
        return
    files = parquet_files()
    changed = bytearray(files[data[0] % len(files)])
    for at in range(1, len(data) - 2, 3):
        # from the end: there is what says how the rest is to be read
        changed[-1 - int.from_bytes(data[at : at + 2]) % len(changed)] ^= data[at + 2]
    _contained("input.parquet", bytes(changed))


@functools.cache
def parquet_files() -> tuple[bytes, ...]:
    """Good ones: of many types, of nested ones, compressed, and with a row that has no prompt."""
    import pyarrow
    from pyarrow import parquet as format_

    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    columns: dict[str, list[Any]] = {
        "id": ["a", "b"],
        "prompt": ["x", "caf\u00e9"],
        "n": [1, None],
        "f": [1.5, float("nan")],
    }
    odd = {"when": [moment, None], "raw": [b"\xff", b"a"], "many": [[1], []], "deep": [{"a": [None]}, None]}
    tables = (pyarrow.table(columns), pyarrow.table({**columns, **odd}), pyarrow.table({"id": ["a"], "prompt": [None]}))
    found = []
    for table in tables:
        for codec in ("none", "zstd"):
            made = io.BytesIO()
            format_.write_table(table, made, compression=codec, row_group_size=1)
            found.append(made.getvalue())
    return tuple(found)


def packed(data: bytes) -> None:
    """Lines inside a whole archive: what comes out of it is what went in."""
    plain = _read("input.jsonl", data)
    if isinstance(plain, str):
        return
    for archive in (gzip.compress(data, 1), zstandard.ZstdCompressor(level=1).compress(data)):
        assert _read("input.jsonl", archive) == plain


def config(data: bytes) -> None:
    """A configuration in YAML or JSON: read, or refused with every reason and without any secret."""
    text = data.decode("utf-8", "replace")
    environ = {"OPENAI_API_KEY": SECRET, "EMPTY": ""}
    for secrets in (True, False):
        try:
            found = load_config_text(text, secrets=secrets, environ=environ)
        except ConfigError as error:
            told = str(error)
            assert told
            assert SECRET not in told, "an error tells a secret"
            _is_storable(told)
        else:
            assert SECRET not in repr(found)
            _is_storable(found.config_hash())


def reply(reader: str, data: bytes) -> None:
    """A provider's reply: the first three bytes choose status, headers and form, the others are its body."""
    dialect, operation = READERS[reader]
    provider = _PROVIDERS[dialect]
    status, heads, form = (data + b"\0\0\0")[:3]
    streamed = form & 1 == 1 and operation != EMBEDDINGS
    headers = {"content-type": "text/event-stream" if streamed else "application/json", **_headers(heads)}
    body = data[3:].replace(b"$KEY", SECRET.encode())
    source: dict[str, Any] = {"input": ["a"] * (form % 5)} if operation == EMBEDDINGS else {"stream": streamed}
    request = Request("the-model", source, SECRET, operation=operation, dialect="simple")
    answer = Reply(STATUSES[status % len(STATUSES)], headers, body)
    survives(provider, request, answer)
    _is_a_result(provider.read(request, answer), dialect, source)
    models = provider.read_list_models(answer)
    for model in models:
        _is_storable(model.id)
        model_lists.retirement(model)
    provider.next_list_models(SECRET, answer)


def read_reply(reader: str, answer: Reply, *, streamed: bool) -> Response:
    """What a reader makes of a reply to one question (for embeddings: of one text)."""
    dialect, operation = READERS[reader]
    source: dict[str, Any] = {"input": "a"} if operation == EMBEDDINGS else {"stream": streamed}
    return _PROVIDERS[dialect].read(Request("the-model", source, SECRET, operation=operation), answer)


def kept_models(data: bytes) -> None:
    """The file of models that providers sold last: whatever is in it, it is a list or none."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / model_lists.FILE).write_bytes(data)
        for one in model_lists.kept(home).values():
            for model in one.models:
                model_lists.retirement(model)
        model_lists.keep(home, model_lists.kept(home).values())


def http_api(data: bytes) -> None:
    """A request to the HTTP API: answered, and refused with a reason where it is wrong; never a failure of ours."""
    status, body = asked(data)
    assert status < 500, f"the API failed: {status}"
    if status >= 400:
        error = json.loads(body)["error"]
        assert error["code"]
        assert error["message"]


def http_wire(data: bytes) -> None:
    """Bytes on a connection of the API: the same requests however they are cut, and none that could be read in two ways."""
    whole = parsed(data, 1)
    assert parsed(data, 7) == whole
    assert parsed(data, len(data) + 1) == whole


def ticket(data: bytes) -> None:
    """A message in a queue: a ticket, written anew without a stranger's words, or nothing at all."""
    for message in taken(data):
        found = read_ticket(message)
        assert found is not None
        assert found["hops"] >= 0
        told = json.loads(data.decode("utf-8", "replace"))
        assert read_ticket(told) == found, "what is taken isn't what was sent"
        theirs = {str(value) for value in told["headers"].values() if value} - {"truckllm.drain", "py"}
        ours = orjson.dumps({**message, "body": ""}).decode()
        assert not any(f'"{value}"' in ours for value in theirs if len(value) > 5), "a stranger's words come through"


TARGETS: dict[str, Callable[[bytes], None]] = {
    "lines": lines,
    "table": table,
    "container": container,
    "parquet": parquet,
    "packed": packed,
    "config": config,
    "kept-models": kept_models,
    "http-api": http_api,
    "http-wire": http_wire,
    "ticket": ticket,
    **{f"reply-{name}": (lambda data, name=name: reply(name, data)) for name in READERS},  # type: ignore[misc]
}
"""All of them, by the name that `make fuzz` takes."""


def _headers(chosen: int) -> dict[str, str]:
    odd = ("1e999", "-1", "nan", "Mon, 99 Foo", "Sun, 22 Nov 2026 20:00:30 GMT", "6m0s", "0", SECRET)
    names = ("retry-after", "retry-after-ms", "date", "x-request-id", "x-ratelimit-reset-requests", "request-id")
    if chosen == 0:
        return {}
    return {names[chosen % len(names)]: odd[chosen // 8 % len(odd)], "x-ratelimit-remaining-requests": "0"}


def _says_something(line: bytes) -> bool:
    return bool(line.removeprefix(b"\xef\xbb\xbf").strip())


def _is_told_well(reason: str) -> None:
    assert reason
    assert reason.isprintable(), reason
    assert len(reason) < 3000
    _is_storable(reason)


def _is_storable(text: str) -> None:
    """PostgreSQL takes no NUL, no database and no file a half of a surrogate pair."""
    assert "\0" not in text
    text.encode()


def _is_a_job(line: Line) -> None:
    """What is stored can be stored, is read again by the worker, and gives a result line in every form."""
    for text in (line.custom_id, line.lane, line.model, line.refused or ""):
        _is_storable(text)
    if line.refused is None and line.dialect == "simple":
        simple_input(line.body)
    elif line.refused is None:
        orjson.loads(line.body)
    whole: dict[str, Any] = {
        "custom_id": line.custom_id,
        "dialect": line.dialect,
        "body": line.body,
        "metadata": line.metadata or b"",
    }
    _are_lines(Outcome(status="failed", error_code="invalid_line", error_message=line.refused, **whole))
    _are_lines(Outcome(status="succeeded", response=b'{"choices": []}', text="Hi", **whole))
    _are_lines(Outcome(status="cancelled", **whole))


def _is_a_result(response: Response, dialect: str, source: dict[str, Any]) -> None:
    """A reply that was read tells no secret of its caller where it failed, and can be written out where it didn't."""
    failure = response.failure
    if failure is not None:
        for told in (failure.message, failure.code):
            assert SECRET not in told, "a failure tells the key"
            assert SECRET.lower() not in told.lower()
        return
    for name in (response.finish_reason, response.served_model, response.request_id):
        if name is not None:
            _is_storable(name)
            assert SECRET not in name, "a column tells the key"
    body = orjson.dumps({"embed": "a"} if "input" in source else {"prompt": "a"})
    whole = Outcome(
        "a",
        "simple",
        "succeeded",
        body,
        text=response.text,
        response=response.raw_response,
        finish_reason=response.finish_reason,
        served_model=response.served_model,
        request_id=response.request_id,
    )
    _are_lines(whole)
    _are_lines(Outcome("a", dialect, "succeeded", b"{}", text=response.text, response=response.raw_response))


def _are_lines(outcome: Outcome) -> None:
    for dialect in ("simple", "openai", "claude", "gemini"):
        line = result_line(outcome, dialect)
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1, "a result is more than one line"
        line.decode("utf-8")
        json.loads(line)
    sheet = Writer(Form.CSV)
    sheet.begin([metadata_in(outcome.body, outcome.metadata)])
    sheet.line(outcome).decode("utf-8")


def _contained(name: str, data: bytes) -> None:
    found = _read(name, data)
    assert found == _read(name, data), "read twice, it isn't the same"
    if isinstance(found, str):
        _is_told_well(found)
        return
    for line in found:
        if isinstance(line, BadLine):
            _is_told_well(line.reason)
        else:
            _is_a_job(line)


def _read(name: str, data: bytes) -> list[Line | BadLine] | str:
    """The lines of a file; or why it is no input."""
    try:
        source = Source(name, copy=io.BytesIO(data))
        with source.open() as (stream, hashed):
            found = list(read_lines(stream, _LANES, model="openai/gpt-4o"))
            assert hashed.sha256()
        return found
    except (InputError, UsageError) as error:
        return str(error)
