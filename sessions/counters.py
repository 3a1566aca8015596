"""Figures of the sessions of this process, per database; "" where that is not known, or none."""

from collections import defaultdict
from dataclasses import dataclass


@dataclass
class SessionCounter:
    """Figures of one database, since the process started.

    :param requests: that were served, whatever their database
    :param read: sessions read from Redis
    :param saved: sessions stored there
    :param unavailable: times that it was not known whether a session exists: HTTP 503
    """

    requests: int = 0
    read: int = 0
    saved: int = 0
    unavailable: int = 0


SESSION_COUNTERS: "defaultdict[str, SessionCounter]" = defaultdict(SessionCounter)
