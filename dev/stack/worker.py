"""An Odoo process that does as told: one line of JSON in, one out. It shares as a real one does.

    {"code": "result = env['res.users'].browse(2)._get_group_ids()", "uid": 2, "context": {}}

The code runs as a request does: a cursor, the check of the signals on it, a rollback, an
environment; then a commit and the signals. ``env``, ``registry`` and ``cr`` are at hand, and what
is assigned to ``result`` comes back, as JSON with tuples and sets as lists.
"""

import json
import os
import sys
import traceback
from typing import Any


def main() -> None:
    """Start Odoo with the configuration named on the command line, and serve."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import odoo.api
    from odoo.modules.module import load_openerp_module
    from odoo.modules.registry import Registry
    from odoo.service.model import retrying
    from odoo.tools import config

    config.parse_config(sys.argv[1:], setup_logging=True)
    for module in config["server_wide_modules"]:
        load_openerp_module(module)
    name = config["db_name"][0]
    kept: dict[str, Any] = {}  # what the code wants to keep from one call to the next
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        names: dict[str, Any] = {"kept": kept, "result": None}
        try:
            registry = Registry(name)
            with registry.cursor(readonly=bool(job.get("readonly"))) as cr:
                registry = registry.check_signaling(cr)
                if not job.get("readonly"):
                    cr.rollback()
                env = odoo.api.Environment(cr, job.get("uid", 1), job.get("context", {}))
                names |= {"env": env, "registry": registry, "cr": cr}
                retrying(lambda: exec(job["code"], names), env)  # noqa: B023
            if shared := vars(registry).get("_redis_shared"):
                shared.flush()  # who is asked next finds in Redis what this one has for others
            answer = {"result": names["result"]}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer, default=_as_list), file=answers, flush=True)


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, (set, frozenset, tuple)) else repr(value)


if __name__ == "__main__":
    main()
