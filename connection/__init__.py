"""The way to Redis. Nothing outside this package imports redis-py."""

from .breaker import Breaker
from .client import DEADLINE, LATE
from .server import RedisServer, Script

__all__ = ["DEADLINE", "LATE", "Breaker", "RedisServer", "Script"]
