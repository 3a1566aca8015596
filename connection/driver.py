"""Whether redis-py and hiredis are what this package was written for. Imported before the rest.

An older redis-py waits longer than it may, or lacks what is imported here; a newer one may have
changed what :mod:`.client` overrides, replaces or looks into. A version that does not exist yet is
taken if it has the shape.
"""

import importlib
import inspect
import operator
import re
from collections.abc import Callable
from typing import Any

from ..exceptions import UnsupportedDriverError

# Package: the oldest version, and the first that is too new.
VERSIONS = {"redis": ((8, 0), (9, 0)), "hiredis": ((3, 2), (4, 0))}

# Names that are overridden, replaced or called, each after its module of redis-py; its parameters,
# beside which there may be others that need not be given.
_PARAMETERS = {
    "connection AbstractConnection.connect": "self",
    "connection AbstractConnection.on_connect_check_health": "self check_health",
    "connection AbstractConnection.read_response": (
        "self disable_decoding timeout disconnect_on_error push_request"
    ),
    "connection AbstractConnection.send_command": "self args kwargs",
    "connection AbstractConnection.send_packed_command": "self command check_health",
    "connection AbstractConnection.set_parser": "self parser_class",
    "connection AbstractConnection.pack_commands": "self commands",
    "connection BlockingConnectionPool.disconnect": "self inuse_connections",
    "connection BlockingConnectionPool.make_connection": "self",
    "connection BlockingConnectionPool.release": "self connection",
    "connection Connection._connect": "self",
    "connection Connection.host.fset": "self value",
    "connection ConnectionPool.make_connection": "self",
    "connection DefaultParser.on_connect": "self connection kwargs",
    "connection DefaultParser.read_from_socket": "self timeout raise_on_timeout",
    "connection SSLConnection._wrap_socket_with_ssl": "self sock",
    "sentinel Sentinel.discover_master": "self service_name",
    "sentinel SentinelConnectionPool.get_master_address": "self",
    "sentinel SentinelConnectionPool.owns_connection": "self connection",
    "cluster RedisCluster.disconnect_connection_pools": "self",
    "cluster RedisCluster.get_node": "self host port node_name",
    "cluster RedisCluster.get_primaries": "self",
    "cluster RedisCluster.get_redis_connection": "self node",
    "observability.providers ObservabilityInstance.init": "self config",
    "observability.providers ObservabilityInstance.is_enabled": "self",
    "observability.recorder record_operation_duration": (
        "command_name duration_seconds server_address server_port db_namespace error"
    ),
    "retry Retry.call_with_retry": "self do fail is_retryable with_failure_count",
}
# Where it does what is relied on: the names that its code uses.
_NAMES = {
    "connection AbstractConnection.connect_check_health": "_sock on_connect_check_health",
    "connection AbstractConnection.on_connect_check_health": "username password db _parser",
    "connection AbstractConnection.send_command": "send_packed_command",
    "connection BlockingConnectionPool.make_connection": "_connections connection_kwargs",
    "connection BlockingConnectionPool.release": "pool put_nowait",
    "connection Connection._connect": (
        "getaddrinfo host port socket_connect_timeout socket_timeout"
    ),
    "connection DefaultParser.read_from_socket": "_sock recv_into",
    "connection DefaultParser.read_response": "read_from_socket",
    "connection Connection.host.fset": "_host",
    "connection SSLConnection._connect": "_wrap_socket_with_ssl",
    "connection SSLConnection._wrap_socket_with_ssl": (
        "create_default_context check_hostname cert_reqs certfile keyfile ca_certs wrap_socket"
    ),
    "connection UnixDomainSocketConnection._connect": "socket_connect_timeout socket_timeout path",
    "sentinel Sentinel.discover_master": "sentinels sentinel_masters",
    "sentinel SentinelConnectionPoolProxy.get_master_address": "discover_master disconnect",
    "cluster NodeCommands.write": "pack_commands send_packed_command",
    "cluster NodesManager.initialize": "_initialization_lock slots_cache startup_nodes",
    "cluster RedisCluster._get_command_keys": "commands_parser get_keys",
    "cluster RedisCluster._internal_execute_command": "ERRORS_ALLOW_RETRY retry",
    "cluster RedisCluster.pipeline": "commands_parser",
    "_parsers.commands CommandsParser.initialize": "command",
}
_ANY = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


def check() -> None:
    """Refuse another redis-py or hiredis.

    :raises UnsupportedDriverError: which was found, and which is expected
    :raises ImportError: there is none
    """
    for package, (oldest, too_new) in VERSIONS.items():
        version = str(getattr(importlib.import_module(package), "__version__", "unknown"))
        if not oldest <= tuple(map(int, re.findall(r"\d+", version)[:2])) < too_new:
            raise UnsupportedDriverError(
                f"{package} {version} was found; expected {_wanted(package)}"
            )
    for path, parameters in _PARAMETERS.items():
        actual = inspect.signature(_function(path)).parameters
        given = {
            name
            for name, parameter in actual.items()
            if parameter.default is parameter.empty and parameter.kind not in _ANY
        }
        fits = given <= set(parameters.split()) <= set(actual)
        _require(fits, f"{path} takes ({parameters}), not ({' '.join(actual)})")
    for path, names in _NAMES.items():
        missing = set(names.split()).difference(inspect.unwrap(_function(path)).__code__.co_names)
        _require(not missing, f"{path} uses {' and '.join(sorted(missing))}")


def _function(path: str) -> Callable[..., Any]:
    module, _space, name = path.partition(" ")
    try:
        found = operator.attrgetter(name)(importlib.import_module(f"redis.{module}"))
    except (ImportError, AttributeError):
        found = None
    _require(inspect.isfunction(found), f"there is {path}")
    return found  # type: ignore[no-any-return]


def _require(holds: bool, what: str) -> None:
    if not holds:
        version = importlib.import_module("redis").__version__
        raise UnsupportedDriverError(
            f"redis {version} was found, of another shape than {_wanted('redis')} had: expected "
            f"that {what}"
        )


def _wanted(package: str) -> str:
    oldest, too_new = VERSIONS[package]
    return f"{package}>={'.'.join(map(str, oldest))},<{too_new[0]}"


check()
