"""Which requests only read, as Odoo's own code says: a list for nginx.

    odoo shell -c /etc/odoo/odoo.conf -d production --no-http < deploy/split/methods.py \\
        > /etc/nginx/odoo/read-methods.map

A method of a model only reads if it is decorated with ``@api.readonly``; a route, if it says
``readonly=True``. Odoo runs such a request on the replica, and again on the primary where it writes
all the same. The list is of the modules that the database has installed: make it anew after each
installation. A read node needs no file store for what is in it.
"""

import re
import sys
from collections import defaultdict

PREFIX = "/web/dataset/call_kw/"
POOL = "odoo_read"
MOST_IN_A_LINE = 50  # models: nginx takes 4 kB a line
# Of the routes, those that the web client asks for, without those that give out attachments.
ROUTES = (
    "/web/action/load",
    "/web/action/load_breadcrumbs",
    "/web/webclient/load_menus",
    "/web/webclient/translations",
    "/web/export/get_fields",
    "/web/export/namelist",
    "/web/pivot/export_xlsx",
)


def is_readonly(model_class, name):
    """As ``DataSet._call_kw_readonly`` decides: by the first class that says something."""
    for cls in model_class.mro():
        method = getattr(cls, name, None)
        if method is not None and hasattr(method, "_readonly"):
            return method._readonly
    return False


def methods_of(registry):
    """By model: the public methods that only read."""
    found = {}
    for model, model_class in registry.items():
        names = {name for name in dir(model_class) if name[0] != "_"}
        found[model] = {name for name in names if is_readonly(model_class, name)}
    return found


def lines(registry, routing):
    """The list: a pattern of addresses and the pool, for nginx's ``map``."""
    found = methods_of(registry)
    general = set.intersection(*found.values())
    special = defaultdict(set)
    for model, names in found.items():
        for name in names - general:
            special[name].add(model)
    yield f"# {len(general)} methods of every model, {len(special)} of some; made by deploy/split."
    yield pattern("[^/]+", general)
    for name, models in sorted(special.items()):
        escaped = sorted(map(re.escape, models))
        for start in range(0, len(escaped), MOST_IN_A_LINE):
            yield pattern(f"(?:{'|'.join(escaped[start : start + MOST_IN_A_LINE])})", [name])
    for route in ROUTES:
        if route in routing:
            yield f"{route} {POOL};"


def pattern(models, names):
    return f'"~^{PREFIX}{models}/(?:{"|".join(sorted(names))})$" {POOL};'


def readonly_routes(env):
    """The addresses that only read."""
    rules = env["ir.http"].routing_map().iter_rules()
    return {rule.rule for rule in rules if rule.endpoint.routing.get("readonly") is True}


if "env" in globals():  # in a shell
    sys.stdout.write("\n".join(lines(env.registry, readonly_routes(env))) + "\n")  # noqa: F821
