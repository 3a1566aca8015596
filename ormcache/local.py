"""Tier 1: Odoo's own caches of one registry, which threads share, and the state they belong to.

Only what is committed comes here. The *state* is the newest generation that this process has seen:
whoever sees a newer one has the caches cleared that are older. A transaction whose generation is
not the state's leaves a cache alone; what it computes stays in its own layers.

Between a commit of this process and its signal the database is ahead of its signals. Redis then has
older values for these containers than stock Odoo would compute, so it is left alone as well.
"""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, NamedTuple

from .generation import Generation
from .layers import Computed, Values
from .originals import Originals

Caches = Mapping[str, MutableMapping[Any, Any]]  # by container


class Mark(NamedTuple):
    """The commits and signals of a process that a transaction may know of, from when it began.

    :param commits: of the process, by the container that they invalidated
    :param signals: how often the process had signalled; -1: it may see none of that
    """

    commits: Counter[str]
    signals: int


class LocalTier:
    """The caches of one registry.

    :param caches: Odoo's own
    :ivar clears: how often each container was cleared, as far as is known
    """

    def __init__(self, caches: Caches) -> None:
        self._caches = caches
        self.originals = Originals()
        self.clears: Counter[str] = Counter()
        self._state: Generation | None = None
        self._seen: dict[str, Generation] = {}  # by origin: the state, as each server has it
        self._origins: set[str] = set()  # of the state's history
        self._commits: Counter[str] = Counter()  # of this process, that invalidated a container
        self._number = 0  # of the last of them
        # Containers that were changed by such a commit, and its number.
        self._ahead: dict[str, int] = {}
        self._signals = 0  # of this process
        self._told: dict[str, int] = {}  # of those that are ahead: the signal that tells of it
        self._lock = threading.Lock()

    @property
    def containers(self) -> Iterable[str]:
        """The names of the caches."""
        return self._caches.keys()

    @property
    def state(self) -> Generation | None:
        """The newest generation that this process has seen; None: none yet."""
        return self._state

    def learn(self, seen: Generation, mark: Mark, *, loaded: bool = False) -> bool:
        """Take note of what a snapshot saw; clear what is older.

        :param mark: from when its transaction began
        :param loaded: whether the registry is known to be as new; otherwise a change of it is not
            news for this one, but for the one that takes its place
        :return: whether that is news
        """
        if seen is self._state and not self._told:
            return False
        with self._lock:
            if not loaded and self.awaits_reload(seen):
                return False
            is_news = self._advance(seen)
            for container, signal in list(self._told.items()):
                if signal <= mark.signals:
                    del self._ahead[container], self._told[container]
            return is_news

    def _advance(self, seen: Generation) -> bool:
        known = self._seen.get(seen.origin) or self._state
        if seen is known:
            return False
        if known is not None:
            is_known = seen.origin in self._origins
            if (is_known or seen.is_replica) and seen.precedes(known):
                return False
            differing = [each for each in self._caches if seen.differs_from(known, each)]
            is_of_another = seen.origin != known.origin
            if not (differing or is_of_another):
                return False
            # Tables of two servers cannot be compared: any value may be older than these.
            for container in self._caches if is_of_another else differing:
                self._clear(container)
            if differing:
                self._seen = {}
                if not (is_known or seen.is_replica):
                    self._origins = set()  # another history
        self._origins.add(seen.origin)
        self._seen[seen.origin] = seen
        if not seen.is_replica or len(self._seen) == 1:
            self._state = seen
        return True

    def awaits_reload(self, seen: Generation) -> bool:
        """Whether the registry is of another state than a snapshot saw."""
        return self._state is not None and seen.reloads(self._state)

    def agrees(self, generation: Generation, container: str) -> bool:
        """Whether what a generation's transactions compute for a container belongs here."""
        known = self._seen.get(generation.origin)
        return known is generation or (
            known is not None and not generation.differs_from(known, container)
        )

    def is_past(self, seen: Generation) -> bool:
        """Whether this process has seen more than a snapshot did of the same history.

        A replica is known to have the same once it was seen when it did not lag.
        """
        known = self._seen.get(seen.origin) or self._state
        return (
            known is not None
            and known is not seen
            and seen.origin in self._origins
            and seen.precedes(known)
        )

    # -- commits of this process

    def mark(self, *, is_current: bool) -> Mark:
        """For a transaction that begins.

        :param is_current: whether its snapshot will see all that is committed by now
        """
        with self._lock:
            commits = self._commits.copy()
            if is_current:
                return Mark(commits, self._signals)
            commits.subtract(self._ahead.keys())
            return Mark(commits, -1)

    def is_ahead(self, container: str) -> bool:
        """Whether this process has committed a change that no signal tells of yet."""
        return container in self._ahead

    def committed(self, containers: Iterable[str]) -> int:
        """A transaction that invalidated these is committed: what others found before is old.

        :return: the number of the commit
        """
        with self._lock:
            self._number += 1
            for container in containers:
                self._clear(container)
                self._commits[container] += 1
                self._ahead[container] = self._number
                self._told.pop(container, None)
            return self._number

    def signalled(self, containers: Iterable[str], number: int) -> None:
        """These were signalled: transactions that begin from now on see it.

        :param number: of a commit before the signal, which tells of those up to it
        """
        with self._lock:
            self._signals += 1
            for container in self._ahead.keys() & set(containers):
                if self._ahead[container] <= number:
                    self._told[container] = self._signals

    # -- values

    def put(
        self,
        container: str,
        key: Any,
        computed: Computed,
        generation: Generation,
        mark: Mark,
    ) -> bool:
        """Put one value in its cache; whether it belonged there."""
        return not self.merge({container: {key: computed}}, generation, mark)

    def merge(self, values: Values, generation: Generation, mark: Mark) -> Values:
        """Put a transaction's values in their caches; those that did not belong there.

        In one step as to :meth:`learn` and :meth:`committed`.

        :param mark: from when the transaction began
        """
        refused: Values = {}
        with self._lock:
            for container, found in values.items():
                if mark.commits[container] != self._commits[container] or not self.agrees(
                    generation, container
                ):
                    refused[container] = found
                    continue
                cache = self._caches[container]
                for key, computed in found.items():
                    cache[key] = computed.value
                    self.originals.keep(cache, key, computed.original)
        return refused

    def forget(self, containers: Iterable[str]) -> None:
        """Odoo has cleared these."""
        self.clears.update(containers)

    def _clear(self, container: str) -> None:
        self._caches[container].clear()
        self.clears[container] += 1
