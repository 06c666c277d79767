"""The control endpoints under /_sandbox/: read the log and the totals, change faults and accounts, start anew.

They are for tests and rehearsals; nothing here is logged or limited.
"""

import time
from urllib.parse import parse_qs

import orjson
from pydantic import TypeAdapter, ValidationError

from worker.sandbox.dialect import Answer
from worker.sandbox.house import House
from worker.sandbox.settings import Account, Fault, SandboxSettings, explain
from worker.sandbox.wire import Request

PREFIX = "/_sandbox/"
_FAULTS = TypeAdapter(list[Fault])
_ACCOUNTS = TypeAdapter(list[Account])
_ROUTES = "GET log (?provider=NAME&since=N), GET summary, GET health, POST faults, POST accounts, POST reset"


def answer(house: House, request: Request) -> Answer:
    """Serve a control request; wrong ones are answered with 400 or 404 and a `message` that says what is right."""
    try:
        return _answer(house, request)
    except ValidationError as error:
        return _json(400, {"message": explain(error)})
    except orjson.JSONDecodeError as error:
        return _json(400, {"message": f"the body is not JSON: {error.msg}"})


def _answer(house: House, request: Request) -> Answer:
    match request.method, request.path.removeprefix(PREFIX):
        case "GET", "log":
            asked = parse_qs(request.query.decode("latin-1"))
            since = asked.get("since", ["0"])[0]
            rows = house.log.rows(asked.get("provider", [None])[0], int(since) if since.isdecimal() else 0)
            lines = (orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
            return Answer(200, b"".join(lines), content_type=b"application/x-ndjson")
        case "GET", "summary":
            return _json(200, house.log.summary())
        case "GET", "health":
            up = round(time.monotonic() - house.started, 3)
            return _json(200, {"ok": True, "calls": len(house.log), "uptime_seconds": up})
        case "POST", "faults":
            faults = _FAULTS.validate_python(orjson.loads(request.body))
            house.set_faults(faults)
            return _json(200, {"ok": True, "faults": len(faults)})
        case "POST", "accounts":
            accounts = _ACCOUNTS.validate_python(orjson.loads(request.body))
            SandboxSettings(accounts=accounts)  # the checks over the whole list
            house.set_accounts(accounts)
            return _json(200, {"ok": True, "accounts": len(accounts)})
        case "POST", "reset":
            house.reset()
            return _json(200, {"ok": True})
        case method, path:
            return _json(404, {"message": f"no {method} {PREFIX}{path}; there are {_ROUTES}"})


def _json(status: int, body: dict[str, object]) -> Answer:
    return Answer(status, orjson.dumps(body))
