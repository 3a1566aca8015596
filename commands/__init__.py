"""The subcommands of ``odoo redis``, a module each, which work as the server would.

A subcommand is a module with a docstring, of which the first line is its help, a list of examples,
`arguments` and `run`. Its exit code is 0 when all is well, 1 when it found something wrong or could
not do what was asked, and 2 where it was called in a wrong way.
"""

import argparse
from collections.abc import Sequence

import psycopg2

from ..exceptions import Error
from . import doctor, migrate, purge, sessions, status, verify, warm
from .context import Context, complain

SUBCOMMANDS = {
    "doctor": doctor,
    "status": status,
    "sessions": sessions,
    "purge": purge,
    "warm": warm,
    "verify": verify,
    "migrate": migrate,
}


def main(args: Sequence[str], prog: str) -> int:
    """Run a subcommand.

    :param args: of the command line, after ``redis``
    :return: the exit code
    """
    parser = argparse.ArgumentParser(
        prog=prog, description="Look after sessions and cached values."
    )
    subparsers = parser.add_subparsers(title="subcommands", required=True, metavar="subcommand")
    for name, module in SUBCOMMANDS.items():
        told = (module.__doc__ or "").strip()
        examples = "\n".join(
            f"  odoo redis {name} {example}".rstrip() for example in module.EXAMPLES
        )
        sub = subparsers.add_parser(
            name,
            help=told.splitlines()[0],
            description=told,
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("-c", "--config", help="odoo.conf, as for the server")
        sub.add_argument("--json", action="store_true", help="for machines")
        module.arguments(sub)
        sub.set_defaults(run=module.run)
    options = parser.parse_args(args)
    try:
        with Context.of(options) as context:
            return int(options.run(context, options))
    except (Error, psycopg2.OperationalError) as error:
        complain(f"odoo redis: {str(error).strip()}")
        return 1
    except BrokenPipeError:  # of ``| head``
        return 0
