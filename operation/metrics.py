"""The content of the books, in the metrics of Prometheus.

A collector over the sums in Redis: they outlive the processes that counted. `prometheus_client` is
needed where metrics are on, and nowhere else.

A label holds a node, a database, a role, a method or a command, never a user or a session.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from ..connection import BUCKETS
from ..exceptions import ConfigurationError, RedisUnavailableError, WrongTypeError
from .books import REDIS_CALLS, REDIS_SECONDS, Books, Figure, Process

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TOP = 20  # methods, those that took or saved most
_PREFIX = "odoo_redis"

# By figure: the name of its metric, and what it is.
_COUNTERS = {
    "requests": ("requests", "Requests that were served."),
    "sessions_read": ("sessions_read", "Sessions read from Redis."),
    "sessions_saved": ("sessions_saved", "Sessions stored in Redis."),
    "sessions_unavailable": (
        "sessions_unavailable",
        "Times that it was not known whether a session exists (HTTP 503).",
    ),
    "cache_hits": ("cache_hits", "Cached values that the process had."),
    "cache_misses": ("cache_misses", "Cached values that the process had not."),
    "cache_found": ("cache_found", "Cached values taken from Redis."),
    "cache_computed": ("cache_computed", "Shared values that were computed."),
    "cache_published": ("cache_published", "Values sent to Redis."),
    "cache_rejected": ("cache_rejected", "Values that were refused, to share or to open."),
    "cache_seconds_saved": (
        "cache_saved_seconds",
        "Seconds that computing the values found had taken.",
    ),
    "cache_queries_saved": (
        "cache_saved_queries",
        "SQL queries that computing the values found had taken.",
    ),
    "cache_seconds_spent": ("cache_spent_seconds", "Seconds that computing shared values took."),
    "cache_verified": ("cache_verified", "Values of Redis that were computed again, to compare."),
    "cache_wrong": ("cache_wrong", "Values of Redis that differed from what was computed again."),
    "cache_bytes_read": ("cache_read_bytes", "Bytes of values read from Redis."),
    "cache_bytes_sent": ("cache_sent_bytes", "Bytes of values sent to Redis."),
}
_OF_METHODS = (
    "cache_found",
    "cache_computed",
    "cache_seconds_saved",
    "cache_queries_saved",
    "cache_seconds_spent",
)
_Sums = Mapping[str, Mapping[Figure, float]]  # by node


def require() -> None:
    """Refuse to begin without the library.

    :raises ConfigurationError: naming it
    """
    try:
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"metrics_token is set, and prometheus_client is missing: {error}; "
            "pip install 'prometheus_client>=0.20,<1'"
        ) from error


def exposition(books: Books) -> bytes:
    """The page that Prometheus reads. A Redis that does not answer is one of its metrics."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(books))
    return generate_latest(registry)


class _Collector:
    def __init__(self, books: Books) -> None:
        self._books = books

    def describe(self) -> list[Metric]:
        """Nothing: what there is depends on Redis."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics, as of now."""
        from prometheus_client.core import GaugeMetricFamily

        up = GaugeMetricFamily(f"{_PREFIX}_up", "Whether Redis answers.")
        try:
            processes = self._books.processes()
            sums = {
                node: self._books.counters(node)
                for node in sorted({process.host for process in processes})
            }
            alive = [process for process in processes if self._books.is_alive(process)]
            found = [
                self._alive(processes),
                _variants(alive),
                *_counters(sums),
                *_of_methods(sums),
                _latency(sums),
            ]
        except (RedisUnavailableError, WrongTypeError):
            found = []
        up.add_metric([], float(bool(found)))
        yield up
        yield from found

    def _alive(self, processes: list[Process]) -> Metric:
        from prometheus_client.core import GaugeMetricFamily

        alive = GaugeMetricFamily(
            f"{_PREFIX}_processes",
            "Processes that were seen a moment ago; 0 where all ended without saying so.",
            labels=["node", "role"],
        )
        counts: dict[tuple[str, str], int] = {}
        for process in processes:
            key = process.host, process.role
            counts[key] = counts.get(key, 0) + self._books.is_alive(process)
        for labels, count in sorted(counts.items()):
            alive.add_metric(labels, count)
        return alive


def _variants(alive: list[Process]) -> Metric:
    """How many different things the processes that are alive say of what should be alike."""
    from prometheus_client.core import GaugeMetricFamily

    said: dict[tuple[str, str], set[str]] = defaultdict(set)
    for process in alive:
        said["settings", ""].add(json.dumps(process.settings, sort_keys=True))
        said["addon", ""].add(process.addon)
        for database, fingerprint in process.fingerprints.items():
            said["code", database].add(fingerprint)
    family = GaugeMetricFamily(
        f"{_PREFIX}_variants",
        "How many different settings, versions of the addon, or codes the processes have.",
        labels=["of", "database"],
    )
    for labels, variants in sorted(said.items()):
        family.add_metric(labels, len(variants))
    return family


def _counters(sums: _Sums) -> Iterator[Metric]:
    """By node and database. An event that did not happen yet is 0: Prometheus sees no
    increase in the first value of a series."""
    from prometheus_client.core import CounterMetricFamily

    families = {
        name: CounterMetricFamily(f"{_PREFIX}_{metric}", told, labels=["node", "database"])
        for name, (metric, told) in _COUNTERS.items()
    }
    totals: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for node, figures in sums.items():
        for (name, database, _method), amount in figures.items():
            totals[node, database][name] += amount
    for labels, amounts in sorted(totals.items()):
        for name, family in families.items():
            family.add_metric(labels, amounts.get(name, 0.0))
    yield from families.values()


def _of_methods(sums: _Sums) -> Iterator[Metric]:
    """By node, database and method, of those methods that matter most."""
    from prometheus_client.core import CounterMetricFamily

    families = {
        name: CounterMetricFamily(
            f"{_PREFIX}_method_{_COUNTERS[name][0]}",
            f"{_COUNTERS[name][1]} Of the {TOP} methods that matter most.",
            labels=["node", "database", "method"],
        )
        for name in _OF_METHODS
    }
    top = _top(sums.values())
    for node, figures in sums.items():
        for figure, amount in sorted(figures.items()):
            if figure.name in families and figure.method in top:
                families[figure.name].add_metric([node, figure.database, figure.method], amount)
    yield from families.values()


def _top(sums: Iterable[Mapping[Figure, float]]) -> set[str]:
    """The methods that took or saved most."""
    seconds: dict[str, float] = defaultdict(float)
    for figures in sums:
        for figure, amount in figures.items():
            if figure.method and figure.name in ("cache_seconds_saved", "cache_seconds_spent"):
                seconds[figure.method] += amount
    return set(sorted(seconds, key=lambda method: -seconds[method])[:TOP])


def _latency(sums: _Sums) -> Metric:
    """By node, half and command."""
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(
        f"{_PREFIX}_command_duration_seconds",
        "How long Redis took to answer: a command, or a script of the addon (small letters).",
        labels=["node", "half", "command"],
    )
    ends = (*BUCKETS, math.inf)
    texts = [*map(str, BUCKETS), "+Inf"]
    for node, figures in sums.items():
        counts: dict[tuple[str, str], dict[float, float]] = defaultdict(dict)
        for figure, amount in figures.items():
            if figure.name == REDIS_CALLS:
                half, command, end = figure.method.split(" ")
                counts[half, command][float(end)] = amount
        for (half, command), by_end in sorted(counts.items()):
            seconds = figures.get(Figure(REDIS_SECONDS, "", f"{half} {command}"), 0.0)
            totals = itertools.accumulate(by_end.get(end, 0.0) for end in ends)
            buckets = list(zip(texts, totals, strict=True))
            family.add_metric([node, half, command], buckets, seconds)
    return family
