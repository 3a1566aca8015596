"""What sharing did, per database and method. Tier-1 hits are counted by Odoo itself."""

from collections import defaultdict
from dataclasses import dataclass


@dataclass
class Counter:
    """Figures of one method in one database, since the process started.

    :param found: values taken from Redis
    :param saved: seconds that computing these had taken
    :param queries_saved: of SQL, that computing these had taken
    :param computed: values computed here, although they could be shared
    :param spent: seconds that this took
    :param published: values sent to Redis, of ``computed``
    :param rejected: values that were refused: not shareable, or what Redis held did not open
    :param verified: of ``found``, computed again and compared
    :param wrong: of ``verified``, another value than what was found
    :param bytes_in: read from Redis
    :param bytes_out: sent to Redis
    """

    found: int = 0
    saved: float = 0.0
    queries_saved: int = 0
    computed: int = 0
    spent: float = 0.0
    published: int = 0
    rejected: int = 0
    verified: int = 0
    wrong: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


COUNTERS: "defaultdict[tuple[str, str], Counter]" = defaultdict(Counter)
"""By database and method (module and qualified name)."""
