"""The files of ``odoo.http.FilesystemSessionStore``: ``<folder>/<two characters>/<sid>``.

A file is JSON, and the time at which it was written is that of the last activity. Odoo writes a
session to ``<folder>/tmp….__wz_sess`` first, and then gives that file its name.
"""

import contextlib
import os
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from ..exceptions import ConfigurationError, OldStoreUnavailableError
from ..keys import IDENTIFIER_LENGTH, is_valid_sid
from ..old_url import OldURL
from .session import BEING_WRITTEN, BROKEN, UNREADABLE, OldSession, Refused, content

_WRITTEN = ".__wz_sess"  # of odoo.tools._vendor.sessions
_NOT_THERE = FileNotFoundError, NotADirectoryError


class FileSessions:
    """Odoo's own store, in one folder."""

    def __init__(self, url: OldURL) -> None:
        self._folder = Path(url.address)

    def check(self) -> None:
        try:
            with os.scandir(self._folder):
                pass
        except OSError as error:
            raise ConfigurationError(
                f"old_sessions: {self._folder} cannot be read: {error.strerror}"
            ) from error

    def names(self) -> list[str]:
        found = []
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if entry.name.endswith(_WRITTEN):
                        found.append(entry.name)
                    elif len(entry.name) == 2:
                        found += filter(is_valid_sid, self._in_folder(entry.name))
        except OSError as error:
            raise self._unavailable(error) from error
        return found

    def fetch(self, names: Sequence[str]) -> list[OldSession | Refused | None]:
        return [self._read(name) for name in names]

    def _read(self, name: str) -> OldSession | Refused | None:
        if name.endswith(_WRITTEN):
            is_there = (self._folder / name).exists()
            return Refused(name, BEING_WRITTEN) if is_there else None
        try:
            # Not by pathlib: there are many.
            with open(f"{self._folder}/{name[:2]}/{name}", "rb") as file:
                raw, written = file.read(), os.fstat(file.fileno()).st_mtime
        except _NOT_THERE:
            self._require_folder()
            return None
        except IsADirectoryError:
            return None
        except PermissionError:
            return Refused(name, UNREADABLE)
        except OSError as error:
            raise self._unavailable(error) from error
        data = content(raw)
        if data is None:
            return Refused(name, BROKEN)
        return OldSession(name, data, idle=max(0.0, time.time() - written))

    def delete(self, identifiers: Collection[str]) -> None:
        wanted = set(identifiers)
        for folder in {identifier[:2] for identifier in wanted}:
            for name in self._in_folder(folder):
                if name[:IDENTIFIER_LENGTH] in wanted:
                    with contextlib.suppress(FileNotFoundError):
                        try:
                            (self._folder / folder / name).unlink()
                        except PermissionError as error:
                            raise self._unavailable(error) from error

    def close(self) -> None:
        """Nothing is open."""

    def _in_folder(self, name: str) -> list[str]:
        try:
            return os.listdir(self._folder / name)
        except _NOT_THERE:
            self._require_folder()
            return []
        except OSError as error:
            raise self._unavailable(error) from error

    def _require_folder(self) -> None:
        """Where it is not there nothing is known: it may be on a disk that is away."""
        if not self._folder.is_dir():
            raise OldStoreUnavailableError(f"{self._folder} is not there")

    def _unavailable(self, error: OSError) -> OldStoreUnavailableError:
        return OldStoreUnavailableError(f"{self._folder}: {error.strerror}")
