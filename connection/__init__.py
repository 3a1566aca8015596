"""The way to Redis. Nothing outside this package imports redis-py."""

from .breaker import Breaker
from .server import RedisServer, Script

__all__ = ["Breaker", "RedisServer", "Script"]
