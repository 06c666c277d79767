"""The process beside the local stack's Valkey: it ends the server, and removes its folder, when their owner is gone.

It is run as a file, by an interpreter that loads nothing of ours or of site-packages, so that it starts in a few milliseconds.
It doesn't restart the server: it ends with it, and the owner starts both again.

    python -I -S valkey_watcher.py FOLDER SERVER [ARGUMENT…]

Its stdin is a pipe whose other end only the owner holds: EOF means that the owner has ended, kill -9 included.
"""

import ctypes
import os
import select
import shutil
import signal
import socket
import subprocess
import sys

SOCKET = "valkey.sock"
LOG = "valkey.log"
STOP_SECONDS = 1.0
ORPHAN_SECONDS = 5.0
PR_SET_PDEATHSIG = 1


def end_orphan(path: str) -> None:
    """Ends a server whose watcher was killed, where the system didn't: two servers would be two limiters on the same keys."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ORPHAN_SECONDS)  # as it ends it would take our own server's socket away
        try:
            connection.connect(path)
            connection.sendall(b"SHUTDOWN NOSAVE\r\n")
            connection.recv(1)
        except OSError:
            pass  # none there, which is as it should be


def main(folder: str, command: list[str]) -> int:
    """Runs the server in `folder` until it ends (1) or stdin does (0)."""
    end_orphan(os.path.join(folder, SOCKET))
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    me = os.getpid()

    def tie() -> None:
        # between fork and exec: Linux ends the server even when this process is killed
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != me:
                os._exit(1)

    with open(os.path.join(folder, LOG), "ab") as log:
        server = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=tie)
    while not stopping and server.poll() is None:
        readable, _, _ = select.select([0, woken], [], [])
        if woken in readable:
            os.read(woken, 512)
        if 0 in readable and not os.read(0, 512):
            break
    if server.poll() is not None:
        return 1
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
