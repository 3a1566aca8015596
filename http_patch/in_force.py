"""Whether what was installed is in force: another addon may replace it, before or after.

A function or a store of another addon coexists if it leads to ours: it wraps ours, or inherits from
it. What does not lead there leaves ours without effect, and is named by module and name. It is
looked for when a server is made, which is after all ``post_load``; before the first request, where
another WSGI server has none made; and whenever a database was loaded, which imports its addons.
"""

import contextlib
import functools
import operator
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from odoo.modules.registry import Registry
from odoo.service import server

from .shape import name_of, require_signature

SESSIONS, ORMCACHE = "sessions", "ormcache"  # the halves of the addon
_LOOKED_AT = 10_000  # things at most, from a wrapper to what it wraps
_CONTAINERS = (dict, list, tuple, set)
_WRAPPING = (
    *(FunctionType, MethodType, classmethod, staticmethod, property),
    *(functools.cached_property, functools.partial, *_CONTAINERS),
)


class _Claim(NamedTuple):
    half: str
    module: ModuleType
    path: str  # Class.method
    ours: Any


_claims: list[_Claim] = []


def check() -> None:
    """Refuse an Odoo whose servers are made in another way."""
    require_signature("CommonServer.__init__", server.CommonServer.__init__, "self", "app")


def apply(at_start: Callable[[], None], loaded: Callable[[Any], None]) -> None:
    """Patch what is called when addons were imported.

    :param at_start: is called before a server is made
    :param loaded: is called with the registry of a database that was loaded
    """
    original = server.CommonServer.__init__

    @functools.wraps(original)
    def __init__(self: Any, app: Any) -> None:
        at_start()
        original(self, app)

    server.CommonServer.__init__ = __init__
    new = of_class(vars(Registry)["new"])

    @functools.wraps(new)
    def checked_new(cls: Any, *arguments: Any, **options: Any) -> Any:
        registry = new(cls, *arguments, **options)
        loaded(registry)
        return registry

    Registry.new = classmethod(checked_new)


def of_class(descriptor: Any) -> Callable[..., Any]:
    """A function that takes the class first, whatever stands there: a method or a function."""

    @functools.wraps(descriptor)
    def call(cls: Any, *arguments: Any, **options: Any) -> Any:
        return descriptor.__get__(None, cls)(*arguments, **options)

    return call


def put(half: str, module: ModuleType, path: str, ours: Any) -> None:
    """Install a function, which is to be in force from now on.

    :param half: of the addon
    :param path: ``Class.method`` in the module
    """
    owner, _dot, name = path.rpartition(".")
    setattr(operator.attrgetter(owner)(module), name, ours)
    _claims.append(_Claim(half, module, path, ours))


def rely_on(half: str, module: ModuleType, path: str) -> None:
    """Claim that a function, which is not of ours, stays in force as well.

    :param path: ``Class.method`` in the module
    """
    _claims.append(_Claim(half, module, path, operator.attrgetter(path)(module)))


def replaced(half: str) -> list[str]:
    """What was installed of a half and is not in force, with what stands there; sentences."""
    found = []
    for claim in _claims:
        if claim.half == half:
            owner, _dot, name = claim.path.rpartition(".")
            cls = operator.attrgetter(owner)(claim.module)
            if not inherits(cls, name, claim.ours):
                other = name_of(getattr(cls, name, None))
                found.append(
                    f"{claim.module.__name__}.{claim.path} was replaced by {other}, which does "
                    "not call what it replaced"
                )
    return found


def forget() -> None:
    """Claim nothing."""
    _claims.clear()


def inherits(cls: Any, name: str, ours: Any) -> bool:
    """Whether a method of a class leads to ours: itself, or by what it calls of its bases."""
    for base in getattr(cls, "__mro__", ()):  # it may be no class any more
        if name in vars(base):
            method = vars(base)[name]
            if leads_to(method, ours):
                return True
            if not {"super", name} & _names(method):
                return False
    return False


def leads_to(found: Any, ours: Any) -> bool:
    """Whether something is ours, or holds on to it as wrappers do."""
    return any(each is ours for each in wrapped_by(found))


def wrapped_by(found: Any) -> Iterator[Any]:
    """Something, what it holds on to as wrappers do, what that holds on to, and so on."""
    pending, seen = [found], {id(found): found}  # which keeps what is made on the way
    for current in pending:
        yield current
        for held in _held(current):
            if id(held) not in seen and len(seen) < _LOOKED_AT:
                seen[id(held)] = held
                pending.append(held)


def _held(thing: Any) -> Iterator[Any]:
    """Where a wrapper keeps what it wraps.

    Not all that can be reached: a function that is no wrapper uses names that lead anywhere.
    """
    kind = type(thing)
    if kind is FunctionType:
        yield from vars(thing).values()
        for cell in thing.__closure__ or ():
            with contextlib.suppress(ValueError):  # empty
                yield cell.cell_contents
        yield from thing.__defaults__ or ()
        yield from (thing.__kwdefaults__ or {}).values()
        for name in _names(thing):
            value = thing.__globals__.get(name)
            made_by = value if type(value) is type else type(value)
            if made_by in _WRAPPING or made_by.__module__ == thing.__globals__.get("__name__"):
                yield value
    elif kind is MethodType:
        yield from (thing.__func__, thing.__self__)
    elif kind in (classmethod, staticmethod):
        yield thing.__func__
    elif kind is property:
        yield thing.fget
    elif kind is functools.cached_property:
        yield thing.func
    elif kind is functools.partial:
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif kind in _CONTAINERS:
        yield from list(thing.values() if kind is dict else thing)  # others may change it
    elif kind is type:
        yield from vars(thing).values()
    elif not (kind.__module__ or "").startswith(("odoo.http", "builtins")):
        yield from _attributes(thing, kind)


def _attributes(thing: Any, kind: Any) -> Iterator[Any]:
    """The attributes of an object's own, without asking its ``__getattr__``."""
    for name in ("__dict__", "__wrapped__", *_slots(kind)):
        try:
            value = object.__getattribute__(thing, name)
        except Exception:  # not set; or an object that stands for another one, which is not there
            continue
        yield value


def _slots(kind: Any) -> Iterator[str]:
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots


def _names(thing: Any) -> set[str]:
    """The names in the code of a function, and in that of the functions in it."""
    function = getattr(thing, "__func__", thing)
    pending, names = [getattr(function, "__code__", None)], set()
    while pending:
        code = pending.pop()
        if code is not None:
            names.update(code.co_names)
            pending += [constant for constant in code.co_consts if type(constant) is CodeType]
    return names
