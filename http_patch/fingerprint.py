"""What code and files the cached values of this process depend on.

Compiled templates, asset paths with their times, views and field definitions come from files as
much as from the database. Two processes share when they agree on the version of Odoo, Python and
this addon, on the options that change values, and on path, size and time of
the files of the loaded modules and of Odoo itself; or on the name that the administrator gave to
all that, with the first three.
"""

import functools
import os
import sys
from hashlib import blake2b
from pathlib import Path

import odoo
from odoo import release
from odoo.modules.module import get_module_path
from odoo.tools import config

from ..codec.value import FORMAT

# Folders whose files no cached value depends on.
_LEFT_OUT = {"__pycache__", "demo", "doc", "i18n", "i18n_extra", "tests", "node_modules"}
_OPTIONS = ("dev_mode", "server_wide_modules")


def fingerprint(modules: list[str], given: str | None) -> bytes:
    """The fingerprint for a database with these modules.

    :param given: what the administrator calls this version of the code, if anything
    """
    parts: list[object] = [FORMAT, release.version, sys.version, sys.implementation.cache_tag]
    if given:
        parts += ["given", given, modules]
    else:
        parts += [[str(config[option]) for option in _OPTIONS]]
        parts += [_files(str(Path(odoo.orm.__path__[0]).parent), own=True)]
        parts += [(name, _files(get_module_path(name) or name)) for name in modules]
    return blake2b(repr(parts).encode(), digest_size=16).digest()


@functools.cache
def _files(folder: str, own: bool = False) -> str:
    """A digest of the files in a folder, as they are when first asked for.

    :param own: without the addons in it
    """
    left_out = _LEFT_OUT | {"addons"} if own else _LEFT_OUT
    digest = blake2b(folder.encode(), digest_size=16)
    pending = [folder]
    while pending:
        current = pending.pop()
        try:
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir():
                if entry.name not in left_out:
                    pending.append(entry.path)
            else:
                found = entry.stat()
                digest.update(f"{entry.path} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()
