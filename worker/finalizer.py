"""Finalizes batches on a thread of its own, which lives only while there is one to finalize: recording goes on meanwhile.

What finalizing is, is in `models.finalizing`.
"""

from __future__ import annotations

import logging
import threading
from collections import deque

from models.database import Database
from models.finalizing import finalize

log = logging.getLogger("truckllm.finalizing")


class Finalizer:
    """Of one process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._waiting: deque[int] = deque()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def take(self, batch_id: int) -> None:
        """Has a batch finalized soon, unless another process is at it."""
        with self._lock:
            if self._stopping or batch_id in self._waiting:
                return
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="truckllm-finalizer", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # no thread left; a janitor looks again
                    log.warning("batch %d could not be finalized now and is tried again: %s", batch_id, error)
                    return
                self._thread = thread
            self._waiting.append(batch_id)

    def stop(self, timeout: float) -> None:
        """Ends what is begun if that takes less than `timeout` seconds; the rest is left to other workers' janitors."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout)
        with self._lock:
            self._stopping = True

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or self._stopping:
                    self._thread = None
                    return
                batch_id = self._waiting.popleft()
            try:
                finalize(self._database, batch_id, ending=lambda: self._stopping)
            except Exception as error:  # a janitor looks again
                said = str(error).splitlines()[0] if str(error) else type(error).__name__
                log.warning("batch %d could not be finalized now and is tried again: %s", batch_id, said)
