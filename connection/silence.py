"""What does not answer, and the threads that go on asking.

Whoever finds that a server is silent tells it here. All others are turned away at once, until a
thread that asks again and again has an answer.
"""

import threading
from collections.abc import Callable
from typing import Any

PROBE_INTERVAL = 0.5  # seconds between two questions


class Silences:
    """The places that do not answer: "" for a Redis, the names of nodes for a Cluster.

    Threads do not live on in a fork: there nothing is silent until somebody finds out.

    :param answers: asks a place for a key, and says whether there was an answer
    :param over: is told of a place that answers again
    """

    def __init__(self, answers: Callable[[str, Any], bool], over: Callable[[str], None]) -> None:
        self._answers, self._over = answers, over
        self._threads: dict[str, _Probe] = {}
        self._lock = threading.Lock()  # to add one

    def __bool__(self) -> bool:
        return bool(self._threads)

    def __contains__(self, place: str) -> bool:
        probe = self._threads.get(place)
        return probe is not None and probe.is_alive()

    def add(self, place: str, key: Any) -> bool:
        """Turn callers of a place away until it answers; whether it was not known yet.

        :param key: was asked for in vain; whoever has it by then may answer
        """
        with self._lock:
            if place in self:
                return False
            self._threads[place] = probe = _Probe(self, place, key)
            try:
                probe.start()
            except RuntimeError:  # out of threads or memory: everybody asks for himself
                del self._threads[place]
        return True

    def clear(self) -> None:
        """Stop asking; no thread is left, as a fork wants it."""
        probes = list(self._threads.values())
        self._threads.clear()
        for probe in probes:
            probe.stop.set()
        for probe in probes:
            if probe.is_alive():
                probe.join()

    def _ask(self, probe: "_Probe") -> None:
        answered = False
        try:
            while not (answered or probe.stop.is_set()):
                answered = self._answers(probe.place, probe.key)
                if not answered:
                    probe.stop.wait(PROBE_INTERVAL)
        finally:
            if self._threads.get(probe.place) is probe:
                del self._threads[probe.place]
                if answered:
                    self._over(probe.place)


class _Probe(threading.Thread):
    """Asks one place."""

    def __init__(self, silences: Silences, place: str, key: Any) -> None:
        super().__init__(target=silences._ask, args=(self,), name="redis-probe", daemon=True)
        self.place, self.key = place, key
        self.stop = threading.Event()
