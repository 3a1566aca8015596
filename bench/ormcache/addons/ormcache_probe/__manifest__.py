{
    "name": "ormcache probe",
    "summary": "Lets bench/ormcache/run see into the processes it measures",
    "version": "19.0.1.0.0",
    "license": "LGPL-3",
    "author": "redis_session_ormcache founders",
    "depends": ["web"],
    "post_load": "post_load",
}
