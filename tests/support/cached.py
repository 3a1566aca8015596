"""What the tests of the ormcache look up, and where they look for it."""

MANY = 9  # of its values, at least, can be shared
LOOK = """
    view = env["res.users"].get_view(view_type="form")["arch"]
    groups = env["ir.model.access"]._get_access_groups("res.partner", "read").key
    result = {
        "access": groups,
        "allowed": sorted(env["ir.model.access"]._get_allowed_models()),
        "domain": repr(env["ir.rule"]._compute_domain("res.partner")),
        "fields": sorted(env["ir.model.fields"].get_field_string("res.partner")),
        "language": env["res.lang"]._get_active_by("code")["en_US"]["name"],
        "menus": len(env["ir.ui.menu"].load_menus(False)),
        "user": env.ref("base.user_admin").id,
        "view": sorted(view.split()),
    }
"""
FIGURES = """
    from odoo.addons.redis_session_ormcache.http_patch.ormcache_log import figures
    result = {
        method.rpartition(".")[2]: {"hits": hits, **vars(counter)}
        for method, (hits, counter) in figures().get(cr.dbname, {}).items()
    }
"""


def figures(worker):
    """The sums over all methods."""
    methods = worker.run(FIGURES)
    names = "found", "computed", "published", "rejected", "saved", "spent"
    return {name: sum(figure[name] for figure in methods.values()) for name in names}


def hashes(raw, database):
    """{key: {field: value}} of all hashes of a database, without their counts and claims."""
    found = {}
    for key in raw.scan_iter(f"*:ormcache:{database}:*:*"):
        values = raw.hgetall(key)
        found[key] = {
            f: v for f, v in values.items() if not (f.startswith(b"#") or v.startswith(b"!"))
        }
    return found
