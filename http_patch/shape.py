"""Whether Odoo still is what the patches were written for."""

import inspect
from collections.abc import Callable
from typing import Any

from odoo import release

from ..exceptions import UnsupportedOdooError


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
    name = getattr(function, "__qualname__", function)
    require(actual == list(parameters), f"{name} takes ({', '.join(parameters)}), not {actual}")
