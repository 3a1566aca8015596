{
    "name": "Probe of Redis sessions",
    "summary": "Tells how long a request waited for Redis, and counts in the session",
    "version": "19.0.1.0.0",
    "license": "LGPL-3",
    "author": "redis_session_ormcache founders",
    "depends": ["redis_session_ormcache"],
    "post_load": "post_load",
}
