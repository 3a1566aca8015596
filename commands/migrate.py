"""Copy the sessions of the former store to Redis: all that are still alive.

The setting `old_sessions` names that store; nothing in it is changed. Nodes move a session when it
is asked for, so this is for the rest of them, after which the setting can go. Run it when no node
changes sessions in that store any more. It can be interrupted and run again: what is in Redis, or
was, is passed over.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from typing import TYPE_CHECKING

from ..exceptions import ConfigurationError
from ..http_patch.install import shared_secret
from ..keys import IDENTIFIER_LENGTH
from ..migration import BEING_WRITTEN, BROKEN, UNREADABLE, Refused
from ..sessions import scripts
from .context import Context, complain

if TYPE_CHECKING:
    from ..sessions import RedisSessionStore

EXAMPLES = ["--dry-run", ""]
_PART = 500  # sessions in a round trip
_NAMED = 5  # of each kind
COPIED, HERE, ENDED, EXPIRED = "copied", "already in Redis", "ended in Redis", "expired"
# Sealed with a secret of this process, it could not be opened by any node.
WITHOUT_DATABASE = "of no database, for which the setting secret is needed"
_OUTCOMES = {
    scripts.MOVED: COPIED,
    scripts.HERE: HERE,
    scripts.ENDED: ENDED,
    None: EXPIRED,
}
_LISTED = {
    EXPIRED: "expired",
    BROKEN: "broken",
    BEING_WRITTEN: "being_written",
    UNREADABLE: "unreadable",
    WITHOUT_DATABASE: "without_database",
}
_ALL = {COPIED: "copied", HERE: "already_in_redis", ENDED: "ended_in_redis", **_LISTED}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be copied only")


def run(context: Context, options: argparse.Namespace) -> int:
    store = context.sessions
    if store is None:
        raise ConfigurationError("session = false: sessions are not in Redis")
    if store.old is None:
        raise ConfigurationError("old_sessions is not set: it says where to copy from")
    began = time.monotonic()
    store.old.check()
    can_do_without = shared_secret(context.settings) is not None
    migration = _Migration(store, dry=options.dry_run, can_do_without=can_do_without)
    interrupted = False
    try:
        names = store.old.names()
        for start in range(0, len(names), _PART):
            context.progress(start / len(names), f"{start} of {len(names)}")
            migration.take(names[start : start + _PART])
    except KeyboardInterrupt:
        interrupted = True
    finally:
        context.progress(1, "")
    if interrupted:
        complain("Interrupted: run it again to copy the rest.")
    seconds = round(time.monotonic() - began, 1)
    found = {
        **{name: migration.counted[outcome] for outcome, name in _ALL.items()},
        "identifiers": {_LISTED[outcome]: listed for outcome, listed in migration.named.items()},
        "dry_run": options.dry_run,
        "seconds": seconds,
    }
    context.show(found, migration.told(seconds))
    return int(interrupted)


class _Migration:
    """The outcome for the sessions so far.

    :param dry: whether nothing is to be copied
    :param can_do_without: whether a session without a database can be
    :ivar counted: how many, by outcome
    :ivar named: the first of those that were not copied, by their identifiers
    """

    def __init__(self, store: RedisSessionStore, *, dry: bool, can_do_without: bool) -> None:
        self._store, self._dry, self._can_do_without = store, dry, can_do_without
        self.counted: Counter[str] = Counter()
        self.named: dict[str, list[str]] = {}

    def take(self, names: list[str]) -> None:
        assert self._store.old
        found = []
        for session in self._store.old.fetch(names):
            if isinstance(session, Refused):
                self._count(session.reason, session.name)
            elif session is not None:  # else it ended meanwhile
                if session.data.get("db") or self._can_do_without:
                    found.append(session)
                else:
                    self._count(WITHOUT_DATABASE, session.sid)
        outcomes = self._store.adopt(found, ask=self._dry)
        for session, outcome in zip(found, outcomes, strict=True):
            self._count(_OUTCOMES[outcome], session.sid)

    def _count(self, outcome: str, name: str) -> None:
        self.counted[outcome] += 1
        if outcome in _LISTED:
            listed = self.named.setdefault(outcome, [])
            if len(listed) < _NAMED:
                listed.append(name[:IDENTIFIER_LENGTH])

    def told(self, seconds: float) -> list[str]:
        """For people."""
        done = "to be copied" if self._dry else COPIED
        lines = [f"{self.counted[COPIED]} {done}, {seconds} s"]
        lines += [f"{self.counted[outcome]} {outcome}" for outcome in (HERE, ENDED)]
        for outcome in _LISTED:
            if self.counted[outcome]:
                named = self.named[outcome]
                more = ", ..." if self.counted[outcome] > len(named) else ""
                lines.append(f"{self.counted[outcome]} {outcome}: {', '.join(named)}{more}")
        return lines
