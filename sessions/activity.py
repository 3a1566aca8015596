"""A file whose time is a session's last activity, for addons that look there.

Odoo keeps a session in a file. OCA's auth_session_timeout ends a session when its file's time is
too long ago, and sets the time in requests that are activity, which not all are. Here the file is
made for one request, from the time that all nodes share; what the addon does with it is looked at
when the request ends. Nothing of the session is in it.
"""

import contextlib
import os
import tempfile
import weakref

_CONTENT = b"This session is in Redis. Only the time of this file says something of it.\n"


class ActivityFile:
    """The file of one session in one request; it goes with this object.

    :param seen: when there was activity last, in seconds since the epoch
    """

    def __init__(self, seen: float) -> None:
        descriptor, self.path = tempfile.mkstemp(prefix="odoo_session_")
        weakref.finalize(self, _unlink, self.path)
        with open(descriptor, "wb") as file:
            file.write(_CONTENT)
        os.utime(self.path, (seen, seen))
        self._made = os.stat(self.path).st_mtime_ns

    def is_touched(self) -> bool:
        """Whether somebody has set the file's time since."""
        with contextlib.suppress(OSError):
            return os.stat(self.path).st_mtime_ns != self._made
        return False


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
