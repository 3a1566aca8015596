"""The thread that adds to Redis what this process has counted, and says that it is alive."""

import atexit
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..connection import Breaker
from ..exceptions import RedisRefusedError, RedisUnavailableError, WrongTypeError
from .books import ALIVE, GONE, Books, Figure, Process, Seen

_logger = logging.getLogger(__name__)

INTERVAL = 10.0  # seconds between two flushes
LAST = 1.0  # seconds that the end of a process waits for its last flush at most
REFUSED_PAUSE = 600.0  # seconds without a flush after Redis has refused one

Figures = Callable[[], Mapping[Figure, float]]
"""Gives sums since the process started."""


class Bookkeeper:
    """Keeps the books of one process, from :meth:`start` to its end.

    A forked process begins at zero, and keeps books when it is told to.

    :param books: where
    :param describe: gives what is to be known of this process
    :param figures: what is counted here
    :param sessions: gives, once, the sessions by database that were active since it was asked last
    :param more: writes what else is to be in the books, once the rest is there
    """

    def __init__(
        self,
        books: Books,
        describe: Callable[[], Process],
        figures: Sequence[Figures],
        sessions: Callable[[], Mapping[str, Iterable[Seen]]],
        more: Callable[[], None] = lambda: None,
    ) -> None:
        self._books, self._describe = books, describe
        self._figures, self._sessions, self._more = figures, sessions, more
        self._refusals = Breaker(REFUSED_PAUSE)
        self._thread: threading.Thread | None = None
        self._added: dict[Figure, float]
        self._begin()
        os.register_at_fork(after_in_child=self._after_fork)
        atexit.register(self.stop)

    def start(self) -> None:
        """Begin, unless it has begun; returns at once. Each request calls this."""
        if self._thread is not None:
            return
        with self._starting:
            if self._thread is None:
                self._ended.clear()
                thread = threading.Thread(target=self._run, name="redis-bookkeeper", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # out of threads, or at the end
                    _logger.debug("No books are kept: %s", error)
                else:
                    self._thread = thread

    def stop(self) -> None:
        """Flush once more and say that the process has ended, if it has begun."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._ended.set()
            thread.join(LAST)

    def flush(self) -> None:
        """Add what is new. A later flush adds figures that Redis did not take."""
        current = self._sums()
        amounts = {
            figure: amount
            for figure, total in current.items()
            if (amount := total - self._added.get(figure, 0))
        }
        process = self._describe()
        self._books.add(process.host, amounts)
        self._added = current
        for database, sessions in self._sessions().items():
            self._books.see(database, sessions)
        self._books.register(process)

    def _begin(self) -> None:
        self._starting = threading.Lock()
        self._ended = threading.Event()
        self._added = self._sums()

    def _after_fork(self) -> None:
        self._thread = None  # it does not live on here
        self._sessions()  # its parent's
        self._begin()

    def _sums(self) -> dict[Figure, float]:
        sums: dict[Figure, float] = {}
        for figures in self._figures:
            sums.update(figures())
        return sums

    def _run(self) -> None:
        ended = self._ended  # of this thread, whatever a fork does
        self._guarded(self._drop_gone)
        while True:
            self._guarded(self.flush)
            self._guarded(self._more)
            if ended.wait(INTERVAL):
                break
        self._guarded(self.flush)
        self._guarded(lambda: self._books.forget(self._describe()))

    def _drop_gone(self) -> None:
        """Forget processes that ended without saying so: those of this host, and old ones."""
        own, now = self._describe(), self._books.now()
        self._books.forget(
            *(
                process
                for process in self._books.processes()
                if now - process.seen > (ALIVE if process.host == own.host else GONE)
            )
        )

    def _guarded(self, act: Callable[[], None]) -> None:
        """Do something that nobody misses."""
        if not self._refusals.allows():
            return
        try:
            act()
        except RedisRefusedError as error:
            if self._refusals.fail():
                _logger.warning("No books are kept of this process: %s", error)
        except (RedisUnavailableError, WrongTypeError) as error:
            _logger.debug("Not in the books: %s", error)
        except Exception:
            _logger.exception("Not in the books")
        else:
            self._refusals.succeed()
