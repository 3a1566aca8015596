"""When to stop asking a server that does not answer. Pure decision logic: no I/O.

>>> now = 0.0
>>> breaker = Breaker(pause=1.0, clock=lambda: now)
>>> breaker.allows(), breaker.fail(), breaker.fail()        # the first failure opens it
(True, True, False)
>>> breaker.allows()
False
>>> now = 1.0
>>> breaker.allows(), breaker.allows()                      # one caller probes, the others wait
(True, False)
>>> breaker.succeed(), breaker.succeed()                    # and its success closes it
(True, False)
>>> breaker.allows()
True
"""

import time
from collections.abc import Callable


class Breaker:
    """Closed: all calls go through. Open: one call per ``pause`` probes, the others fail at once.

    Threads share it without a lock: a race costs one more probe, never a wrong answer.

    :param pause: seconds between two probes
    """

    def __init__(self, pause: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._pause = pause
        self._clock = clock
        self._next_probe: float | None = None  # None: closed

    def allows(self) -> bool:
        """Whether this call may ask the server."""
        next_probe = self._next_probe  # another thread may close it meanwhile
        if next_probe is None:
            return True
        now = self._clock()
        if now < next_probe:
            return False
        self._next_probe = now + self._pause
        return True

    def succeed(self) -> bool:
        """The server answered; returns whether that closed the breaker."""
        if self._next_probe is None:
            return False
        self._next_probe = None
        return True

    def fail(self) -> bool:
        """The server did not answer; returns whether that opened the breaker."""
        opened = self._next_probe is None
        self._next_probe = self._clock() + self._pause
        return opened
