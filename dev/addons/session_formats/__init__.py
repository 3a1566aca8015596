"""Loaded server-wide, after redis_session_ormcache: its sessions as in a release to come.

``SESSION_FORMATS=reads`` is the release that reads versions 1 and 2 and writes 1;
``SESSION_FORMATS=writes`` the next one, which reads both and writes 2. Without that variable it is
the release at hand.

Only the codec is changed; the scripts and the store follow from it, as in such a release.
"""

import importlib
import os

WRITTEN = {"reads": 1, "writes": 2}


def post_load() -> None:
    """Put version 2 into ``codec.session``, and have those use it who imported it already."""
    if release := os.environ.get("SESSION_FORMATS"):
        from odoo.addons.redis_session_ormcache.codec import session
        from odoo.addons.redis_session_ormcache.sessions import scripts, store

        from . import version_2

        version_2.put_into(session, written=WRITTEN[release])
        importlib.reload(scripts)
        for name in ("SessionRecord", "seal", "unseal"):
            setattr(store, name, getattr(session, name))
