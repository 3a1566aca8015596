"""The way to Redis. Nothing outside this package imports redis-py."""

from . import driver  # noqa: F401  # refuses a redis-py that the others could not import

# isort: split
from .breaker import Breaker
from .client import DEADLINE, LATE
from .server import RedisServer, Script

__all__ = ["DEADLINE", "LATE", "Breaker", "RedisServer", "Script"]
