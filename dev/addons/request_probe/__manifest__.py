{
    "name": "Probe of requests",
    "summary": "Requests that take long, rotate their session, or fail in one way or another",
    "version": "19.0.1.0.0",
    "license": "LGPL-3",
    "author": "redis_session_ormcache founders",
    "depends": ["web"],
    "post_load": "post_load",
}
