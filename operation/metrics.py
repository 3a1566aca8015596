"""The content of the books, in the metrics of Prometheus.

A collector over the sums in Redis: they outlive the processes that counted. `prometheus_client` is
needed where metrics are on, and nowhere else.

A label holds a node, a database, a role or a method, never a user or a session.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from ..exceptions import ConfigurationError, RedisUnavailableError, WrongTypeError
from .books import Books, Figure, Process

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
    "cache_seconds_spent": ("cache_spent_seconds", "Seconds that computing shared values took."),
    "cache_bytes_read": ("cache_read_bytes", "Bytes of values read from Redis."),
    "cache_bytes_sent": ("cache_sent_bytes", "Bytes of values sent to Redis."),
}
_OF_METHODS = ("cache_found", "cache_computed", "cache_seconds_saved", "cache_seconds_spent")


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
            found = [self._alive(processes), *self._counters(processes)]
        except (RedisUnavailableError, WrongTypeError):
            found = []
        up.add_metric([], float(bool(found)))
        yield up
        yield from found

    def _alive(self, processes: list[Process]) -> Metric:
        from prometheus_client.core import GaugeMetricFamily

        alive = GaugeMetricFamily(
            f"{_PREFIX}_processes",
            "Processes that were seen a moment ago.",
            labels=["node", "role"],
        )
        counts: dict[tuple[str, str], int] = {}
        for process in processes:
            key = process.host, process.role
            counts[key] = counts.get(key, 0) + self._books.is_alive(process)
        for labels, count in sorted(counts.items()):
            alive.add_metric(labels, count)
        return alive

    def _counters(self, processes: list[Process]) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily

        nodes = sorted({process.host for process in processes})
        sums = {node: self._books.counters(node) for node in nodes}
        for name, (metric, told) in _COUNTERS.items():
            family = CounterMetricFamily(f"{_PREFIX}_{metric}", told, labels=["node", "database"])
            for node, figures in sums.items():
                for database, amount in sorted(_by_database(figures, name).items()):
                    family.add_metric([node, database], amount)
            yield family
        top = _top(sums.values())
        for name in _OF_METHODS:
            metric, told = _COUNTERS[name]
            family = CounterMetricFamily(
                f"{_PREFIX}_method_{metric}", f"{told} Of the {TOP} methods that matter most.",
                labels=["node", "database", "method"],
            )  # fmt: skip
            for node, figures in sums.items():
                for figure, amount in sorted(figures.items()):
                    if figure.name == name and figure.method in top:
                        family.add_metric([node, figure.database, figure.method], amount)
            yield family


def _by_database(figures: Mapping[Figure, float], name: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for figure, amount in figures.items():
        if figure.name == name:
            found[figure.database] = found.get(figure.database, 0) + amount
    return found


def _top(sums: Iterable[Mapping[Figure, float]]) -> set[str]:
    """The methods that took or saved most."""
    seconds: dict[str, float] = {}
    for figures in sums:
        for figure, amount in figures.items():
            if figure.method and figure.name in ("cache_seconds_saved", "cache_seconds_spent"):
                seconds[figure.method] = seconds.get(figure.method, 0) + amount
    return set(sorted(seconds, key=lambda method: -seconds[method])[:TOP])
