"""How much of a proof a run does: `dev/test` a part, each time another; `dev/test long` all."""

import os
from typing import TypeVar

Amount = TypeVar("Amount", int, float)

LONG = bool(os.environ.get("TEST_LONG"))


def dose(short: Amount, long: Amount) -> Amount:
    """The amount that this run does."""
    return long if LONG else short
