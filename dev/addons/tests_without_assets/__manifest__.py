{
    "name": "Tests without assets",
    "summary": "Odoo's tests begin without making all bundles of assets first",
    "version": "19.0.1.0.0",
    "license": "LGPL-3",
    "author": "redis_session_ormcache founders",
    "depends": ["base"],
    "post_load": "post_load",
}
