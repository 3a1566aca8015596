"""redis-py's own OpenTelemetry metrics, where they are switched on.

redis-py measures connections and the commands to a Cluster itself, and sends what it measures to
the MeterProvider of the process, which is the administrator's. The commands to a single server or
to what Sentinel watches do not go through its client: it is told of them here.

It records names of commands, addresses and names of errors. It has no place for an argument of a
command: neither a key nor a value gets there.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from redis.observability import recorder
from redis.observability.config import MetricGroup, OTelConfig
from redis.observability.providers import get_observability_instance

from ..exceptions import ConfigurationError
from .clock import monotonic

_GROUPS = [
    MetricGroup.COMMAND,
    MetricGroup.CONNECTION_BASIC,
    MetricGroup.CONNECTION_ADVANCED,
    MetricGroup.RESILIENCY,
]


def switch_on() -> None:
    """Let redis-py measure in this process; before the first client is made.

    :raises ConfigurationError: the library is missing
    """
    try:
        import opentelemetry.metrics  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"opentelemetry is true, and its library is missing: {error}; "
            "pip install 'opentelemetry-api>=1.39,<2'"
        ) from error
    get_observability_instance().init(OTelConfig(metric_groups=_GROUPS))


def is_on() -> bool:
    """Whether redis-py measures."""
    return get_observability_instance().is_enabled()


@contextlib.contextmanager
def recorded(command: str, **server: Any) -> Iterator[None]:
    """Measure a command.

    :param server: what redis-py wants to know of it: ``server_address`` and the like
    """
    began = monotonic()
    try:
        yield
    except Exception as error:
        recorder.record_operation_duration(command, monotonic() - began, error=error, **server)
        raise
    recorder.record_operation_duration(command, monotonic() - began, **server)
