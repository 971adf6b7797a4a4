"""Fetching in the background what will be read soon, by a few threads in whichever process asks."""

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

Item = TypeVar("Item")
THREADS = 4  # in each process
WAITING = 256  # items at most


class ReadAhead(Generic[Item]):
    """Calls `fetch` for each item, later. Nobody waits, and no error comes from here: reading will meet it again."""

    def __init__(self, fetch: Callable[[Item], None]) -> None:
        self.fetch = fetch
        # One for each process: threads and the locks of a queue do not survive a fork.
        self._queues: dict[int, queue.Queue[Item]] = {}

    def add(self, items: Iterable[Item]) -> None:
        """Put items in the queue, as far as it has room; the others are fetched when they are read."""
        waiting = self._queues.get(os.getpid()) or self._start()
        for item in items:
            try:
                waiting.put_nowait(item)
            except queue.Full:
                return

    def _start(self) -> queue.Queue[Item]:
        waiting: queue.Queue[Item] = queue.Queue(WAITING)
        self._queues[os.getpid()] = waiting
        for _ in range(THREADS):
            threading.Thread(target=self._work, args=(waiting,), daemon=True, name="gcl read ahead").start()
        return waiting

    def _work(self, waiting: queue.Queue[Item]) -> None:
        while True:
            item = waiting.get()
            with contextlib.suppress(Exception):
                self.fetch(item)
