"""Whether Odoo still is what the patches were written for."""

import ast
import contextlib
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

from odoo import release

from ..exceptions import ReplacedError, UnsupportedOdooError

ADDON = "redis_session_ormcache"
_NAMED = ast.ClassDef, ast.FunctionDef


def require(holds: object, what: str) -> None:
    """Refuse to patch unless ``holds``.

    :param what: the expectation, as a sentence
    :raises UnsupportedOdooError: naming the version of Odoo
    """
    if not holds:
        raise UnsupportedOdooError(
            f"written for Odoo 19.0, and this Odoo {release.version} differs: expected that {what}"
        )


def require_signature(name: str, function: Callable[..., Any] | None, *parameters: str) -> None:
    """Refuse to patch a function that takes other parameters than these.

    One of another addon is wrapped if it can be called with these.

    :param name: for the message
    :raises UnsupportedOdooError: where Odoo has changed it
    :raises ReplacedError: where another addon has
    """
    if other := replaced_by(function):
        try:
            inspect.signature(function).bind(*parameters)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            taken = ", ".join(parameters)
            raise ReplacedError(
                f"{name} was replaced by {other}, which cannot be called with ({taken}): {error}"
            ) from error
        return
    actual = list(inspect.signature(function).parameters) if callable(function) else None
    _require_parameters(name, actual, parameters)


def require_signatures_in(path: str, parameters: dict[str, tuple[str, ...]]) -> None:
    """The same for functions, or ``Class.method``, of a module that is not to be imported yet."""
    module = ast.parse(Path(path).read_bytes())
    for name, expected in parameters.items():
        body, actual = module.body, None
        for part in name.split("."):
            found = {node.name: node for node in body if isinstance(node, _NAMED)}.get(part)
            body = found.body if found else []
            if isinstance(found, ast.FunctionDef):
                actual = [argument.arg for argument in found.args.args]
        _require_parameters(name, actual, expected)


def _require_parameters(name: str, actual: list[str] | None, expected: tuple[str, ...]) -> None:
    require(actual == list(expected), f"{name} takes ({', '.join(expected)}), not {actual}")


def require_source(name: str, function: Callable[..., Any] | None, digest: str) -> None:
    """Refuse to replace a function that does something else than it did.

    :param name: for the message
    :param digest: :func:`source_digest` of the one that ours stands for
    :raises UnsupportedOdooError: where Odoo has changed it
    :raises ReplacedError: where another addon has
    """
    if other := replaced_by(function):
        addon = other.removeprefix("odoo.addons.").partition(".")[0]
        raise ReplacedError(
            f"{name} was replaced by {other}, which would be passed over: in "
            f"server_wide_modules, {ADDON} comes before {addon}"
        )
    actual = None
    with contextlib.suppress(OSError, TypeError):  # without a source
        actual = source_digest(function)  # type: ignore[arg-type]
    require(actual == digest, f"{name} is as it was ({digest}, not {actual})")


def require_own(name: str, thing: Any) -> None:
    """Refuse a class that stands in the place of Odoo's: what uses Odoo's would not be patched.

    :param name: for the message
    :raises ReplacedError: where it is another addon's
    """
    if other := replaced_by(thing):
        raise ReplacedError(f"{name} was replaced by {other}")


def replaced_by(thing: Any) -> str | None:
    """Which function or class of another addon stands in Odoo's place; None: Odoo's own."""
    name = name_of(thing)
    own = name.startswith("odoo.") and not name.startswith("odoo.addons.")
    return None if thing is None or own or name.startswith("odoo.addons.base.") else name


def name_of(thing: Any) -> str:
    """Module and name of a function by where its code is, whatever ``functools.wraps`` says of it;
    of a class; or of an object's class."""
    function = getattr(thing, "__func__", thing)
    if type(function) is FunctionType:
        code = function.__code__
        return (
            f"{function.__globals__.get('__name__')}.{getattr(code, 'co_qualname', code.co_name)}"
        )
    kind = thing if isinstance(thing, type) else type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"


def source_digest(function: Callable[..., Any]) -> str:
    """What tells the code of a function from another, whatever its comments and its indentation."""
    lines = textwrap.dedent(inspect.getsource(inspect.unwrap(function))).splitlines()
    code = [line.rstrip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return hashlib.sha1("\n".join(code).encode(), usedforsecurity=False).hexdigest()[:12]
