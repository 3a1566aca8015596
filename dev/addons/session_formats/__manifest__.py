{
    "name": "Formats of sessions",
    "summary": "Has redis_session_ormcache read and write sessions as a later release would",
    "version": "19.0.1.0.0",
    "license": "LGPL-3",
    "author": "redis_session_ormcache founders",
    "depends": ["redis_session_ormcache"],
    "post_load": "post_load",
}
