"""Whether Odoo still is what the patches were written for."""

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from odoo import release

from ..exceptions import UnsupportedOdooError

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


def require_signature(function: Callable[..., Any] | None, *parameters: str) -> None:
    """Refuse to patch a function that takes other parameters than these."""
    actual = list(inspect.signature(function).parameters) if callable(function) else None
    _require_parameters(str(getattr(function, "__qualname__", function)), actual, parameters)


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
    """
    actual = source_digest(function) if callable(function) else None
    require(actual == digest, f"{name} is as it was ({digest}, not {actual})")


def source_digest(function: Callable[..., Any]) -> str:
    """What tells the code of a function from another, whatever its comments and its indentation."""
    lines = textwrap.dedent(inspect.getsource(inspect.unwrap(function))).splitlines()
    code = [line.rstrip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return hashlib.sha1("\n".join(code).encode(), usedforsecurity=False).hexdigest()[:12]
