"""Whether two values are the same: equal, and of the same types at every depth."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from types import CellType, FunctionType
from typing import Any

from odoo.http import Response
from odoo.orm.domains import Domain
from odoo.tools.misc import OrderedSet, ReadonlyDict
from odoo.tools.set_expression import Leaf, SetDefinitions

_FILLED_LATER = {"_field_instance", "_opt_level", "inverse"}  # slots of Domain and Leaf
_MUTABLE = list | dict | set | bytearray
_csrf_token = re.compile(r"\b[0-9a-f]{40}o[0-9]+\b|(?<=\")-(?=\")")  # or what stands for it
_OF_A_FUNCTION = ("__code__", "__defaults__", "__kwdefaults__", "__closure__", "__qualname__")
_OF_A_PAGE = ("status", "mimetype", "content_type", "time")

Parts = list[tuple[str, Any, Any]]  # name, part of the one, part of the other


def difference(one: Any, other: Any) -> str | None:
    """Where two values first differ, and in what; None: they are the same.

    What is found in two places of ``one``, and can be changed, must be one object in ``other`` too.
    """
    return next(_differences(one, other, "value", {}), None)


def _differences(
    one: Any, other: Any, where: str, seen: dict[int, tuple[Any, Any]]
) -> Iterator[str]:
    if one is other:
        return
    if type(one) is not type(other):
        yield f"{where} is a {type(one).__qualname__}, then a {type(other).__qualname__}"
        return
    parts = _parts(one, other)
    if parts is None:
        if one != other and repr(one) != repr(other):  # NaN differs from itself
            yield f"{where} is {one!r:.200}, then {other!r:.200}"
        return
    if id(one) in seen:
        if isinstance(one, _MUTABLE) and seen[id(one)][1] is not other:
            yield f"{where} is no longer the object it is elsewhere"
        return
    seen[id(one)] = one, other  # held, so that no other object takes its identity
    for name, part, counterpart in parts:
        yield from _differences(part, counterpart, f"{where}{name}", seen)


def is_mutable(value: Any) -> bool:
    """Whether a value, or a part of it, is a container that can be changed."""
    if isinstance(value, _MUTABLE | OrderedSet):
        return True
    if isinstance(value, ReadonlyDict):
        value = value._data__
    if isinstance(value, Mapping):
        return any(map(is_mutable, value.values()))
    return isinstance(value, tuple) and any(map(is_mutable, value))


def _parts(one: Any, other: Any) -> Parts | None:
    """None: what has no parts and is compared as a whole."""
    if isinstance(one, defaultdict) and one.default_factory is not other.default_factory:
        return [(".default_factory", one.default_factory, other.default_factory)]
    if isinstance(one, dict):
        values = [(f"[{key!r:.50}]", one[key], other[key]) for key in one if key in other]
        return [("", tuple(one), tuple(other)), *values]
    if isinstance(one, set | frozenset):
        twins = {part: part for part in other}
        return [
            (".len()", len(one), len(other)),
            *((f"{{{part!r:.50}}}", part, twins.get(part)) for part in one),
        ]
    if isinstance(one, list | tuple | OrderedSet):
        return [
            (".len()", len(one), len(other)),
            *((f"[{number}]", *both) for number, both in enumerate(zip(one, other, strict=False))),
        ]
    if isinstance(one, ReadonlyDict):
        return [("", one._data__, other._data__)]
    if isinstance(one, FunctionType):
        names = [(f".{name}", getattr(one, name), getattr(other, name)) for name in _OF_A_FUNCTION]
        return [*names, (".__globals__", sorted(one.__globals__), sorted(other.__globals__))]
    if isinstance(one, CellType):
        return [("", one.cell_contents, other.cell_contents)]
    if type(one) is Response:
        texts = [[_csrf_token.sub("", text) for text in each.response] for each in (one, other)]
        names = [(f".{name}", getattr(one, name), getattr(other, name)) for name in _OF_A_PAGE]
        headers = (".headers", list(one.headers.items()), list(other.headers.items()))
        return [(".response", *texts), headers, *names]
    if isinstance(one, Domain | Leaf | SetDefinitions):
        return [
            (f".{name}", getattr(one, name, None), getattr(other, name, None))
            for name in _slots(type(one))
        ]
    return None


def _slots(cls: type) -> Iterator[str]:
    for base in cls.__mro__:
        for name in vars(base).get("__slots__", ()):
            if name not in _FILLED_LATER:
                yield f"_{base.__name__}{name}" if name.startswith("__") else name
