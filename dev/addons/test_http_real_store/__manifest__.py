{
    "name": "test_http on the real session store",
    "summary": "Makes Odoo's test_http use the installed store where it would use one in memory",
    "version": "19.0.1.0.0",
    "license": "LGPL-3",
    "author": "redis_session_ormcache founders",
    "depends": ["test_http"],
    "post_load": "post_load",
}
