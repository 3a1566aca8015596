"""How long Redis takes to answer, by command: counted in memory, at two additions a call."""

from bisect import bisect_left

# Seconds, upper ends of the buckets; the last bucket has none.
BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)


class Latency:
    """Of one command, since the process started.

    :ivar counts: calls, by bucket
    :ivar seconds: that all of them took

    >>> latency = Latency()
    >>> for seconds in (0.0001, 0.0002, 7.0):
    ...     latency.observe(seconds)
    >>> latency.counts[:2], latency.counts[-1], latency.seconds
    ([1, 1], 1, 7.0003)
    """

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count a call."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds
