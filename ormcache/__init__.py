"""The shared tier of Odoo's ormcache.

:func:`keep_local` and :func:`carry` are for other addons.
"""

from ..codec.value import register as carry
from .counters import COUNTERS, Counter
from .generation import Generation
from .outbox import Outbox
from .policy import keep_local
from .remote import RemoteTier
from .shared import SharedOrmcache, ValueCodec
from .transaction import Transaction
from .verification import Sampling, read_distrusted

__all__ = [
    "COUNTERS",
    "Counter",
    "Generation",
    "Outbox",
    "RemoteTier",
    "Sampling",
    "SharedOrmcache",
    "Transaction",
    "ValueCodec",
    "carry",
    "keep_local",
    "read_distrusted",
]
