"""A session as another store holds it, and what all such stores can be asked."""

import json
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol

from ..keys import is_valid_sid

BROKEN, BEING_WRITTEN, UNREADABLE = "broken", "being written", "unreadable"


class OldSession(NamedTuple):
    """A session that was read.

    :param data: its content
    :param idle: seconds since its last activity; None where the store does not say
    :param left: seconds until the store forgets it; None where it does not say
    """

    sid: str
    data: dict[str, Any]
    idle: float | None = None
    left: float | None = None


class Refused(NamedTuple):
    """Content that cannot be moved.

    :param name: as :meth:`OldStore.names` gave it; perhaps a whole sid: not for logs
    :param reason: "broken", "being written" or "unreadable"
    """

    name: str
    reason: str


class OldStore(Protocol):
    """A store that sessions are moved from.

    Each method but ``close`` may raise ``OldStoreUnavailableError``.
    """

    def check(self) -> None:
        """Ask it once.

        :raises ConfigurationError: when it will never answer as it is configured
        """

    def names(self) -> list[str]:
        """Of all that it holds, for :meth:`fetch`: sids, and what a store may be at work on."""

    def fetch(self, names: Sequence[str]) -> list[OldSession | Refused | None]:
        """Its sessions under these names, in their order; None: there is none."""

    def delete(self, identifiers: Collection[str]) -> None:
        """Delete the sessions whose sids begin with these."""

    def close(self) -> None:
        """Close this process's connections."""


def content(raw: str | bytes) -> dict[str, Any] | None:
    """The content of a session as all these stores write it, in JSON; None: it is broken.

    >>> content('{"db": "production", "uid": 2}')
    {'db': 'production', 'uid': 2}
    >>> content('{"db": "produc'), content("[]"), content('{"db": ["production"]}')
    (None, None, None)
    """
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("db"), str | None):
        return None
    if not isinstance(data.get("uid"), int | None):
        return None
    if "next_sid" in data and not is_valid_sid(data["next_sid"]):
        return None
    return data
