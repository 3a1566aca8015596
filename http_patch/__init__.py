"""What is changed in Odoo, one module per patched target; the composition root.

Odoo calls :func:`post_load` once per process, before it serves. ``load_server_wide_modules`` logs
any ``Exception`` and goes on, which here would mean file sessions on a node of many: so whatever
goes wrong raises ``SystemExit`` with one line.
"""

import logging

_logger = logging.getLogger(__name__)

STOPS = "redis_session_ormcache stops the server: {}"


def post_load() -> None:
    """Entry point named by the manifest.

    :raises SystemExit: when sessions would not be where the settings say
    """
    try:
        from .install import install

        install()
    except Exception as error:
        _logger.debug("Stopped by", exc_info=True)
        kind = "" if str(error) else type(error).__name__
        raise SystemExit(STOPS.format(f"{error}{kind}")) from error
