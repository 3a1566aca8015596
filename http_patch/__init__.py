"""What is changed in Odoo, one module per patched target; the composition root.

Odoo calls :func:`post_load` once per process, before it serves. ``load_server_wide_modules`` logs
any ``Exception`` and goes on, which here would mean file sessions on a node of many: so whatever
goes wrong raises ``SystemExit`` with one line.
"""

import logging
import sys

_logger = logging.getLogger(__name__)

STOPS = "redis_session_ormcache stops the server: {}"


def require_loader() -> None:
    """Stop Odoo where a server-wide module that comes before this one imports it.

    ``odoo.modules.module.load_openerp_module`` passes over what is imported already, so it would
    never call :func:`post_load`, and this node would keep its sessions in files.

    :raises SystemExit: naming that module
    """
    frame = sys._getframe()
    while frame.f_back and frame.f_code.co_name != "load_openerp_module":
        frame = frame.f_back
    other, ours = frame.f_locals.get("module_name"), __package__.split(".")[-2]
    if frame.f_code.co_name != "load_openerp_module" or other == ours:
        return
    from odoo.tools import config

    if ours in config["server_wide_modules"]:
        told = f"{other} imports it first: in server_wide_modules, {ours} comes before {other}"
        raise SystemExit(STOPS.format(told))


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
