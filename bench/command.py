"""How the benchmarks' commands start and end. Imports nothing at first that may be missing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from stack.provision.environment import CHECKOUT, run_in_virtualenv

# This shell's settings of libpq and of the addon, which would reach what is measured.
FOREIGN = ("PG", "ODOO_REDIS", "ODOO_SESSION")


def start(name: str) -> NoReturn:
    """Go on as `python -m bench.name` in the virtualenv, without this shell's settings."""
    for variable in [variable for variable in os.environ if variable.startswith(FOREIGN)]:
        del os.environ[variable]
    run_in_virtualenv(f"bench.{name}", CHECKOUT)


def finish(name: str, main: Callable[[], int]) -> NoReturn:
    """Call `main` and exit with its code; an error of the servers is told in a line."""
    from stack.provision.apt import SetupError
    from stack.servers import ServerError

    try:
        sys.exit(main())
    except (SetupError, ServerError) as error:
        sys.exit(f"bench/{name}/run: {error}")
    except KeyboardInterrupt:
        sys.exit(f"bench/{name}/run: interrupted")
