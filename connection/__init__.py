"""The way to Redis. Nothing outside this package imports redis-py."""

from . import driver  # noqa: F401  # refuses a redis-py that the others could not import

# isort: split
from . import telemetry
from .breaker import Breaker
from .client import DEADLINE, LATE
from .latency import BUCKETS, Latency
from .server import RedisServer, Script

__all__ = [
    "BUCKETS",
    "DEADLINE",
    "LATE",
    "Breaker",
    "Latency",
    "RedisServer",
    "Script",
    "telemetry",
]
