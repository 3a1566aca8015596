"""Processes, counters and sessions of all nodes, and the history of a day.

Each process counts in memory; a thread adds what is new to Redis every few seconds. Nothing of it
is on a request's path, holds a secret or a sid, or lives in Redis for good. A Redis that is away
costs nothing, and what was counted meanwhile is added when it answers again.
"""

from .bookkeeper import Bookkeeper
from .books import Books, Process, Seen

__all__ = ["Bookkeeper", "Books", "Process", "Seen"]
