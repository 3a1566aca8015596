{
    "name": "Round trip of cached values",
    "summary": "Replaces every value that the ormcache computes by what its encoding decodes to",
    "version": "19.0.1.0.0",
    "license": "LGPL-3",
    "author": "redis_session_ormcache founders",
    "depends": ["base"],
    "post_load": "post_load",
}
