"""To wait for an answer no longer than one can. Knows nothing of Odoo.

libpq has no time limit under gevent, nor for a server that is stopped after it took the connection.
So another thread waits for it, which its own time limits end.
"""

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TookTooLongError(Exception):
    """There was no answer in time."""


def within(seconds: float, ask: Callable[[], T], *, thread: str) -> T:
    """The result of ``ask``, or its exception, if that comes in time.

    :param thread: the name of that in which it is called
    :raises TookTooLongError: when it does not; it goes on, and its result is dropped
    """
    answers: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def call() -> None:
        try:
            answers.put((ask(), None))
        except Exception as error:
            answers.put((None, error))

    try:
        threading.Thread(target=call, name=thread, daemon=True).start()
        answer, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TookTooLongError(f"no answer within {seconds:g} s") from None
    except RuntimeError as refusal:  # out of threads or memory
        raise TookTooLongError(str(refusal)) from refusal
    if error is not None:
        raise error
    return answer  # type: ignore[return-value]
