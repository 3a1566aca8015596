"""Redis' own clock, as far as this process knows it.

The clocks of nodes may differ; of what all of them store, one clock decides. A connection that asks
for the time (``TIME``) tells it here, and no round trip is needed from then on: the machine's
monotonic clock runs on, in forks too.
"""

import functools
import logging
import time

_logger = logging.getLogger(__name__)

TOLERATED = 5.0  # seconds that the two clocks may differ
_TOLD_EVERY = 3600.0  # seconds between two warnings
_NOISE = 0.1  # seconds, below which two clocks agree

# None of these is frozen by a test that freezes ``time``.
_clock, _MONOTONIC, _REALTIME = time.clock_gettime, time.CLOCK_MONOTONIC, time.CLOCK_REALTIME

_told: dict[str, float] = {}  # when each Redis was warned of, by the monotonic clock


monotonic = functools.partial(_clock, _MONOTONIC)  # seconds; each call asks many times


class ServerClock:
    """The clock of one Redis; of several servers, that of the last one asked.

    :param name: of the Redis, for the log, which says a thing once for both halves
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._ahead: float | None = None  # seconds, of the monotonic clock

    def learn(self, server_time: float, asked: float, answered: float) -> None:
        """Take note of what a server says.

        :param server_time: seconds since the epoch
        :param asked: by the monotonic clock, as ``answered``
        """
        self._ahead = server_time - (asked + answered) / 2
        skew = self._skew(self._ahead)
        if abs(skew) - (answered - asked) / 2 <= TOLERATED:
            return
        if self._name not in _told or answered - _told[self._name] >= _TOLD_EVERY:
            _told[self._name] = answered
            _logger.warning(
                "The clock of Redis at %s is %.1f s %s this machine's; expected the same time, "
                "kept by NTP on both: sessions end by the clock of Redis, all else by this one",
                self._name,
                abs(skew),
                "ahead of" if skew > 0 else "behind",
            )

    def now(self) -> float:
        """Seconds since the epoch by Redis' clock; by Python's while no connection has asked.

        A clock that a test has frozen or moved is followed, as if it had been moved in Redis too.
        Where the clocks agree, it is ``time.time()`` to the last digit.
        """
        now = time.time()
        if self._ahead is None:
            return now
        skew = self._skew(self._ahead)
        return now if -_NOISE < skew < _NOISE else now + skew

    def moved(self) -> float:
        """Seconds that a test has moved the clock that :meth:`now` follows."""
        moved = time.time() - _clock(_REALTIME)
        return 0.0 if -_NOISE < moved < _NOISE else moved

    def _skew(self, ahead: float) -> float:
        """Seconds that Redis' clock is ahead of the machine's."""
        return ahead + _clock(_MONOTONIC) - _clock(_REALTIME)
