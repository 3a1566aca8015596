"""A cached value as Redis holds it: pickled by a closed list of types, sealed with AES-256-GCM.

A pickle made here names one callable, ``_build``, and one made elsewhere that names anything else
does not load. Types beyond the builtin containers and scalars take part when an adapter was
registered for them; a value that holds any other is not shared at all, because several types pickle
without complaint and come back broken. What comes back has the same types as what went in.

Nothing of this is what keeps a forger out: the seal is. Its key comes from the database's own
secret, which Redis never sees.
"""

import datetime
import decimal
import io
import os
import pickle
import struct
import uuid
import zlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from markupsafe import Markup

from ..exceptions import CorruptRecordError, NotShareableError

FORMAT = 1  # of all that is below: part of what tells one version of the code from another
FIELD_LENGTH = 16  # bytes of a field's name
MAX_VALUE = 4 * 2**20  # bytes of one value, compressed
_COMPRESSED_FROM = 512  # bytes: below, it saves nothing
_NONCE_LENGTH = 12
_SEALED = b"="  # what a sealed value starts with: never with what marks a claim
_HEADER = struct.Struct("<BfI")  # flags, and the cost
_COMPRESSED = 1


class Cost(NamedTuple):
    """The effort of computing a value.

    :param seconds: of a process's time
    :param queries: of SQL
    """

    seconds: float = 0.0
    queries: int = 0


class Adapter(NamedTuple):
    """How the instances of one type travel.

    :param reduce: an instance's parts: values of which each can travel by itself
    :param build: an equal instance of the same type, from these parts
    """

    name: str
    reduce: Callable[[Any], tuple[Any, ...]]
    build: Callable[..., Any]


_by_type: dict[type, Adapter] = {}
_key_parts: dict[type, Callable[[Any], Any]] = {}
_by_name: dict[str, Adapter] = {}


def register(
    cls: type,
    reduce: Callable[[Any], tuple[Any, ...]],
    build: Callable[..., Any] | None = None,
) -> None:
    """Let the instances of exactly ``cls`` be carried; not those of its subclasses.

    :param reduce: an instance's parts: values of which each can travel by itself
    :param build: an equal instance of the same type, from these parts; None: ``cls`` itself
    """
    adapter = Adapter(f"{cls.__module__}.{cls.__qualname__}", reduce, build or cls)
    _by_type[cls] = _by_name[adapter.name] = adapter


def register_key(base: type, parts: Callable[[Any], Any]) -> None:
    """Let instances of ``base`` and its subclasses be part of a key.

    :param parts: of an instance: equal for equal instances, and for them only
    """
    _key_parts[base] = parts


class _Build:
    """What a pickle may call. Nothing can be set on it, which a pickle could try too."""

    __slots__ = ()

    def __call__(self, name: str, *parts: Any) -> Any:
        return _by_name[name].build(*parts)


_build = _Build()


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        """Called for all but None and exact bool, int, float, str, bytes, and containers."""
        if obj is _build:
            return "_build"
        adapter = _by_type.get(type(obj))
        if adapter is None:
            raise NotShareableError(f"{type(obj).__module__}.{type(obj).__qualname__}")
        return _build, (adapter.name, *adapter.reduce(obj))


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) != (__name__, "_build"):
            raise pickle.UnpicklingError(f"{module}.{name} is not to be loaded")
        return _build

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("no persistent identifiers")


def encode(value: Any) -> bytes:
    """The bytes of a value.

    :raises NotShareableError: when something in it has no adapter
    """
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, protocol=5).dump(value)
    except NotShareableError:
        raise
    except Exception as error:  # too deep, or an adapter's own
        raise NotShareableError(f"{type(error).__name__}: {error}") from error
    return buffer.getvalue()


def decode(data: bytes) -> Any:
    """The value that :func:`encode` made these bytes of.

    :raises CorruptRecordError: when they are not such bytes
    """
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except Exception as error:  # pickle raises nearly anything
        raise CorruptRecordError(f"it does not decode: {error}") from error


class Vault:
    """Seals the values of one database.

    :param secret: ``database.secret``, which stays in PostgreSQL
    """

    def __init__(self, secret: str) -> None:
        keys = blake2b(secret.encode(), digest_size=64, person=b"odoo ormcache").digest()
        self._cipher = AESGCM(keys[:32])
        self._digest_key = keys[32:]

    def digest(self, data: bytes) -> bytes:
        """A name for ``data`` that tells nothing of it to who has not the secret."""
        return blake2b(data, digest_size=FIELD_LENGTH, key=self._digest_key).digest()

    def seal(self, place: bytes, data: bytes, cost: Cost) -> bytes:
        """What to store in ``place``.

        :param cost: of computing the value
        :raises NotShareableError: when it is too big
        """
        flags = 0
        if len(data) >= _COMPRESSED_FROM:
            flags, data = _COMPRESSED, zlib.compress(data, 1)
        if len(data) > MAX_VALUE:
            raise NotShareableError(f"{len(data)} bytes")
        nonce = os.urandom(_NONCE_LENGTH)
        sealed = self._cipher.encrypt(nonce, _HEADER.pack(flags, *cost) + data, place)
        return _SEALED + nonce + sealed

    def open(self, place: bytes, sealed: bytes) -> tuple[bytes, Cost]:
        """What :meth:`seal` was given for this place.

        :raises CorruptRecordError: when it was not sealed for this place, by this database
        """
        if sealed[:1] != _SEALED:
            raise CorruptRecordError("it is not sealed")
        nonce, sealed = sealed[1 : 1 + _NONCE_LENGTH], sealed[1 + _NONCE_LENGTH :]
        try:
            plain = self._cipher.decrypt(nonce, sealed, place)
        except (InvalidTag, ValueError) as error:
            raise CorruptRecordError("it does not open") from error
        # Authenticated from here on.
        flags, *cost = _HEADER.unpack_from(plain)
        data = plain[_HEADER.size :]
        return (zlib.decompress(data) if flags & _COMPRESSED else data), Cost(*cost)


# -- keys ------------------------------------------------------------------------------------------


def key_bytes(key: Any) -> bytes:
    """A cache key's arguments, so that keys of different values or types are different bytes.

    >>> len({key_bytes(key) for key in [(1,), (True,), ("1",), (1.0,), (b"1",), ((1,),), (None,)]})
    7
    >>> key_bytes(frozenset("ab")) == key_bytes(frozenset("ba"))
    True

    :raises NotShareableError: for a type that is not known to compare by its value
    """
    try:
        return _key_bytes(key)
    except NotShareableError:
        raise
    except Exception as error:  # too deep, or its type's own
        raise NotShareableError(f"a key: {type(error).__name__}: {error}") from error


def _key_bytes(key: Any) -> bytes:
    """Type, how much follows, and that: so where each part ends is known."""
    cls = type(key)
    if cls is str:  # most are
        data = key.encode("utf-8", "surrogatepass")
        return b"str %d\n%b" % (len(data), data)
    scalar = _SCALARS.get(cls)
    if scalar is not None:
        data = scalar(key)
        return b"%b %d\n%b" % (cls.__name__.encode(), len(data), data)
    if cls is tuple:
        parts = [_key_bytes(part) for part in key]
    elif cls is frozenset:
        parts = sorted([_key_bytes(part) for part in key])
    else:
        for base, parts_of in _key_parts.items():
            if isinstance(key, base):
                cls = base
                parts = [_key_bytes(parts_of(key))]
                break
        else:
            raise NotShareableError(f"a key of type {cls.__module__}.{cls.__qualname__}")
    return b"%b %d\n%b" % (cls.__name__.encode(), len(parts), b"".join(parts))


_SCALARS: dict[type, Callable[[Any], bytes]] = {
    bytes: bytes,
    int: lambda key: b"%x" % key,  # of any length
    bool: lambda key: b"%d" % key,
    float: lambda key: repr(key).encode(),
    type(None): lambda _key: b"",
}

# -- types of Python and of markupsafe -------------------------------------------------------------

_FACTORIES = {None: "", list: "list", dict: "dict", set: "set", int: "int", str: "str"}
_FACTORY_OF = {name: factory for factory, name in _FACTORIES.items()}


def _reduce_defaultdict(value: "defaultdict[Any, Any]") -> tuple[Any, ...]:
    if value.default_factory not in _FACTORIES:
        raise NotShareableError(f"a defaultdict of {value.default_factory}")
    return _FACTORIES[value.default_factory], dict(value)


def _reduce_time(value: Any) -> tuple[Any, ...]:
    if value.tzinfo is not None and value.tzinfo is not datetime.timezone.utc:
        raise NotShareableError("a time zone")
    return (value.replace(tzinfo=None).isoformat(), value.tzinfo is not None, value.fold)


def _build_time(cls: Any) -> Callable[[str, bool, int], Any]:
    def build(text: str, utc: bool, fold: int) -> Any:
        return cls.fromisoformat(text).replace(
            tzinfo=datetime.timezone.utc if utc else None, fold=fold
        )

    return build


register(Markup, lambda value: (str.__str__(value),))
register(bytearray, lambda value: (bytes(value),))
register(complex, lambda value: (value.real, value.imag))
register(decimal.Decimal, lambda value: (str(value),))
register(uuid.UUID, lambda value: (value.hex,))
register(range, lambda value: (value.start, value.stop, value.step))
register(OrderedDict, lambda value: (list(value.items()),))
register(
    defaultdict,
    _reduce_defaultdict,
    lambda name, items: defaultdict(_FACTORY_OF[name], items),
)
register(datetime.date, lambda value: (value.isoformat(),), datetime.date.fromisoformat)
register(datetime.datetime, _reduce_time, _build_time(datetime.datetime))
register(datetime.time, _reduce_time, _build_time(datetime.time))
register(datetime.timedelta, lambda value: (value.days, value.seconds, value.microseconds))
