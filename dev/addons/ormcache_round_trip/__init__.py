"""Loaded server-wide, after redis_session_ormcache, whose own sharing rests while tests run.

Each value that a cached method computes is encoded, sealed, opened and decoded, as if it came from
another process, and what comes out is cached and returned instead. A report is written at exit to
the file that ``ORMCACHE_ROUND_TRIP`` names, as JSON: {method: {what: figures}}.

A value that is not what it was any more, when it is looked up again or its cache is cleared, was
edited by somebody who got it: the report says who looked it up last.
"""

import atexit
import functools
import itertools
import json
import logging
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from .edits import Edits

_logger = logging.getLogger(__name__)

_MANY = 20  # differences kept per method


class Report:
    """What was seen of one cached method.

    :param local: why the policy leaves its values alone; None: it does not
    """

    def __init__(self, local: str | None) -> None:
        self.local = local
        self.values = 0  # that came back
        self.bytes = 0
        self.computed = 0  # though local
        self.not_shareable: Counter[str] = Counter()
        self.keys_not_shareable: Counter[str] = Counter()
        self.unequal: list[str] = []
        self.edited: Counter[str] = Counter()  # key, and who had looked it up

    def figures(self) -> dict[str, Any]:
        """What is not empty."""
        return {name: value for name, value in vars(self).items() if value}


def post_load() -> None:
    """Wrap ``ormcache.lookup``, and write the report at exit."""
    from odoo.modules.registry import Registry
    from odoo.tools.cache import ormcache

    round_trip = RoundTrip()
    ormcache.lookup = round_trip.wrap(ormcache.lookup)
    for name in ("clear_cache", "clear_all_caches"):
        setattr(Registry, name, round_trip.watch(getattr(Registry, name)))
    if path := os.environ.get("ORMCACHE_ROUND_TRIP"):
        atexit.register(round_trip.write, Path(path))


class RoundTrip:
    """The values' way to Redis and back, without Redis."""

    def __init__(self) -> None:
        from odoo.addons.redis_session_ormcache.codec.value import Cost, Vault
        from odoo.addons.redis_session_ormcache.http_patch import cached_values

        self._vault, self._cost = Vault("secret"), Cost()
        self._codecs = cached_values.codecs()
        self._reports: dict[str, Report] = {}
        self._lock = threading.Lock()
        self._edits = Edits(self._encode, self._note_edit)

    def wrap(self, original: Any) -> Any:
        """``ormcache.lookup``, which gives no value that was not decoded."""

        @functools.wraps(original)
        def lookup(cache: Any, /, *args: Any, **kwargs: Any) -> Any:
            lru = args[0].pool._Registry__caches[cache.cache_name]
            key = cache.key(*args, **kwargs)
            try:
                known = key in lru
            except TypeError:  # not hashable: nothing is cached
                known = True
            value = original(cache, *args, **kwargs)
            if not known:
                value = self.replaced(cache.method, key, value, args[0])
                if key in lru:
                    lru[key] = value
                self._edits.computed(args[0].pool, cache, key, value)
            else:
                self._edits.looked_up(args[0].pool, cache, key, value)
            return value

        return lookup

    def watch(self, original: Any) -> Any:
        """``Registry.clear_cache`` and ``clear_all_caches``."""

        @functools.wraps(original)
        def clear(registry: Any, *names: Any) -> None:
            self._edits.cleared(registry)
            original(registry, *names)

        return clear

    def _encode(self, method: Any, value: Any) -> bytes:
        from odoo.addons.redis_session_ormcache.codec.value import encode

        codec = self._codecs.get(f"{method.__module__}.{method.__qualname__}")
        if codec is None:
            return encode(value)
        codec.encode(value)  # raises for what is not shared
        return repr(value).encode()  # the code of a template is never the same bytes

    def _note_edit(self, method: Any, where: str) -> None:
        name = f"{method.__module__}.{method.__qualname__}"
        _logger.info("A value of %s was edited, %s", name, where)
        self._report(name, method).edited[where] += 1

    def replaced(self, method: Any, key: tuple[Any, ...], value: Any, model: Any) -> Any:
        """The value as another process would have it, or itself if it cannot be shared."""
        from odoo.addons.redis_session_ormcache.codec.value import key_bytes
        from odoo.addons.redis_session_ormcache.exceptions import NotShareableError
        from odoo.addons.redis_session_ormcache.ormcache.shared import PLAIN

        from .same import difference

        name = f"{method.__module__}.{method.__qualname__}"
        report = self._report(name, method)
        if report.local:
            report.computed += 1
            return value
        try:
            place = key_bytes((name, key[0], key[2:]))
        except NotShareableError as error:
            report.keys_not_shareable[str(error)] += 1
            place = b""
        codec = self._codecs.get(name, PLAIN)
        try:
            data = codec.encode(value)
            sealed = self._vault.seal(place, data, self._cost)
        except NotShareableError as error:
            report.not_shareable[str(error)] += 1
            return value
        decoded = codec.decode(model, self._vault.open(place, sealed)[0])
        report.values += 1
        report.bytes += len(sealed)
        found = difference(value, decoded)
        if found and len(report.unequal) < _MANY:
            report.unequal.append(f"{key[0]}, {key[2:]!r:.100}: {found}")
        return decoded

    def _report(self, name: str, method: Any) -> Report:
        from odoo.addons.redis_session_ormcache.ormcache.policy import reason_to_stay_local

        with self._lock:
            if name not in self._reports:
                self._reports[name] = Report(reason_to_stay_local(method))
            return self._reports[name]

    def write(self, path: Path) -> None:
        """All reports, and an empty one for each method that was never called."""
        found: dict[str, Any] = {name: report.figures() for name, report in self._reports.items()}
        for name, method in _cached_methods().items():
            found.setdefault(name, self._report(name, method).figures())
        path.write_text(json.dumps(found, indent=1, sort_keys=True))


def _cached_methods() -> dict[str, Any]:
    """The cached methods of all models that were imported, by module and qualified name."""
    from odoo.orm.models import BaseModel, MetaModel

    found = {}
    for cls in (BaseModel, *itertools.chain(*MetaModel._module_to_models__.values())):
        for attribute in vars(cls).values():
            if cache := getattr(attribute, "__cache__", None):
                method = cache.method
                found[f"{method.__module__}.{method.__qualname__}"] = method
    return found
