"""Stopping: SIGINT and SIGTERM ask a long run to end at a place from which it can go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def stop_requested() -> Generator[Callable[[], bool]]:
    """A function that tells whether SIGINT or SIGTERM arrived; a second one interrupts at once.

    Outside the main thread Python delivers no signals, and the function stays False.
    """
    received: list[int] = []

    def remember(number: int, _frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    main = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM) if main}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
