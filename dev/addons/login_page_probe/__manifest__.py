{
    "name": "Probe of the login page",
    "summary": "A login page that calls this server, hangs, or ends its thread",
    "version": "19.0.1.0.0",
    "license": "LGPL-3",
    "author": "redis_session_ormcache founders",
    "depends": ["web"],
}
