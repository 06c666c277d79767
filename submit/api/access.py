"""Who may do what over HTTP: bearer tokens from the environment, or one made here; a token that may only read, if one is set.

It sends nothing; `submit.api.app` asks it before every request.
"""

from __future__ import annotations

import enum
import hmac
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from models.database import home
from models.errors import StorageError, UsageError

TOKEN_VARIABLE = "TRUCKLLM_API_TOKEN"
READ_TOKEN_VARIABLE = "TRUCKLLM_API_READ_TOKEN"
TOKEN_FILE = "api-token"
SHORTEST = 16
"""Characters of a token; shorter ones can be guessed."""


class May(enum.IntEnum):
    """What a request may do."""

    NOTHING = 0
    READ = 1
    ALL = 2


@dataclass(frozen=True, slots=True)
class Access:
    """The tokens. `made_in` is the file that the token was put into because none was given."""

    token: str = field(repr=False)
    read_token: str | None = field(default=None, repr=False)
    made_in: Path | None = None

    def of(self, header: str | None) -> May:
        """What an `Authorization` header allows. Takes as long for every token of one length."""
        scheme, _, given = (header or "").partition(" ")
        offered = given.strip().encode()
        if scheme.lower() != "bearer" or not offered:
            return May.NOTHING
        if hmac.compare_digest(offered, self.token.encode()):
            return May.ALL
        if self.read_token and hmac.compare_digest(offered, self.read_token.encode()):
            return May.READ
        return May.NOTHING


def found_access() -> Access:
    """The tokens of $TRUCKLLM_API_TOKEN and $TRUCKLLM_API_READ_TOKEN; without the first, the one in the state folder, made if missing.

    Raises UsageError for one that is too short or equal to the other, StorageError when the file can't be made.
    """
    token, read_token = os.environ.get(TOKEN_VARIABLE), os.environ.get(READ_TOKEN_VARIABLE)
    for name, value in ((TOKEN_VARIABLE, token), (READ_TOKEN_VARIABLE, read_token)):
        if value and (len(value) < SHORTEST or not value.isascii() or not value.isprintable() or " " in value):
            raise UsageError(f"{name}: a token is at least {SHORTEST} printable ASCII characters without spaces")
    if token and token == read_token:
        raise UsageError(f"{READ_TOKEN_VARIABLE} is the same as {TOKEN_VARIABLE}: then it could do more than read")
    if token:
        return Access(token, read_token or None)
    file = home() / TOKEN_FILE
    return Access(_kept(file), read_token or None, made_in=file)


def _kept(file: Path) -> str:
    try:
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            if stat.S_IMODE(file.stat().st_mode) & 0o077:
                raise StorageError(
                    f"{file}: others can read the token or change it: `chmod 600` it, or delete it"
                ) from None
            kept = file.read_text("ascii").strip()
            if len(kept) < SHORTEST:
                raise StorageError(f"{file} holds no token: delete it, and a new one is made") from None
            return kept
        with open(descriptor, "w", encoding="ascii") as stream:
            token = secrets.token_urlsafe(32)
            stream.write(token + "\n")
        return token
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{file}: {error}; or set {TOKEN_VARIABLE}") from None
