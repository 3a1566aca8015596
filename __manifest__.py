# Copyright 2026 The redis_session_ormcache founders
# License LGPL-3.0 or later (https://www.gnu.org/licenses/lgpl).
{
    "name": "Redis sessions and ormcache",
    "summary": "HTTP sessions and the ormcache in Redis: any node, and any fresh worker, answers",
    "version": "19.0.1.0.0",
    "category": "Technical",
    "license": "LGPL-3",
    "author": "redis_session_ormcache founders",
    "depends": ["base", "web"],
    "external_dependencies": {
        "python": ["redis>=8.0,<9", "hiredis>=3.2,<4", "cryptography>=41"],
    },
    "data": [
        "views/redis_overview_views.xml",
        "views/res_users_views.xml",
    ],
    "assets": {
        "web.assets_backend": ["redis_session_ormcache/static/src/**/*"],
    },
    "post_load": "post_load",
}
