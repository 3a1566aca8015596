"""The command ``odoo redis``, which Odoo finds here; it is in the package ``commands``."""

from odoo.cli import Command


class Redis(Command):
    """Look after sessions and cached values in Redis."""

    def run(self, args):
        """Run a subcommand; ends the process with its exit code."""
        from odoo.addons.redis_session_ormcache.commands import main

        raise SystemExit(main(args, self.prog))
