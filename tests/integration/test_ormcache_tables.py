"""The tables that shared values come from are those whose state is in the names of their hashes."""

import textwrap

from odoo.addons.redis_session_ormcache.ormcache import tables
from odoo.addons.redis_session_ormcache.tests.support.cached import LOOK

OBSERVE = """
    import re, threading
    from odoo.addons.redis_session_ormcache.http_patch import ormcache as patch
    compute, computing, found = patch._Call.compute_only, [], {}

    def observed(call):
        computing.append((call.container, call._cache.method.__name__, call.model._table))
        try:
            return compute(call)
        finally:
            computing.pop()

    def hook(cursor, query, *_rest):
        text = cursor._obj.query.decode().lower()
        for table in re.findall(r'\\b(?:from|join)\\s+"?([a-z_0-9]+)"?', text):
            for name in computing:
                found.setdefault(name, set()).add(table)

    patch._Call.compute_only = observed
    thread = threading.current_thread()
    thread.query_hooks = [*getattr(thread, "query_hooks", ()), hook]
"""
MORE = """
    for method in (
        lambda: env["ir.actions.actions"]._get_bindings("res.partner"),
        lambda: env["ir.asset"]._get_asset_paths("web.assets_frontend", {}),
        lambda: env["ir.http"]._get_web_translations_hash(["web", "website"], "en_US"),
        lambda: env["ir.model"]._get_id("res.partner"),
        lambda: env["ir.module.module"]._installed(),
        lambda: env["ir.qweb"]._generate_code_cached(env.ref("website.layout").id),
        lambda: env["ir.qweb"]._generate_asset_links_cache("web.assets_frontend", assets_params={}),
        lambda: env["ir.ui.menu"].load_menus(True),
        lambda: env["res.company"].browse(1)._accessible_branches(),
        lambda: env["res.country"]._phone_code_for("BE"),
        lambda: env["res.currency"].get_all_currencies(),
        lambda: env["res.groups"]._get_view_group_hierarchy(),
        lambda: env["res.lang"]._get_frontend(),
        lambda: env["res.users"].browse(2)._get_company_ids(),
        lambda: env["website"].browse(1)._get_cached_values(),
        lambda: env["website"].browse(1).is_menu_cache_disabled(),
    ):
        method()
    result = [[*name, sorted(read)] for name, read in sorted(found.items())]
"""
# Read, and not what a value is made of: who is asked about comes as a part of the key, and of
# users and their partners only columns count that are in the state of res_users.
BESIDE = {"res_partner", "res_groups_users_rel"}
NO_TABLE = {"ir_ui_view_inherits"}  # a name in a query


def test_every_table_is_in_the_state(redis, make_worker, website_database):
    """Whatever a shared method reads, itself or by way of others."""
    worker = make_worker(redis, website_database)
    code = "".join(map(textwrap.dedent, (OBSERVE, LOOK, MORE)))
    read = worker.run(code, uid=2, context={"allowed_company_ids": [1]})
    assert len(read) > 20
    missing = []
    for container, method, own, found in read:
        listed = set(map(tables.table_of, tables.SOURCES.get(container, ())))
        if "ir_actions" in listed:
            listed |= {table for table in found if table.startswith("ir_act_")}  # inherit from it
        if rest := set(found) - listed - BESIDE - NO_TABLE - {own}:
            missing.append((container, method, rest))
    local = {"_get_param", "_get_model_defaults", "_compute_session_token"}
    assert [each for each in missing if each[1] not in local] == []
