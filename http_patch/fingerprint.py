"""What code and files the cached values of this process depend on.

Compiled templates, views, asset paths and field definitions come from files as much as from the
database. Two processes share values when they agree on

* the versions of Odoo, of Python and its packages, and of this addon's format;
* the options that change values;
* the names and the content of the files of Odoo, of the loaded modules and of the server-wide ones,
  wherever these are, and whatever their dates;
* for what is computed in a language, the content of that language's ``.po`` files;
* for the few values that hold paths or dates of files, these too.

To read all files takes a third of a second. So a digest of their content is kept in Redis, under
the paths, sizes, inodes and times of all of them. One of these times no program can set: that of
the last change of any kind (``ctime``).
"""

import contextlib
import functools
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b, sha256
from pathlib import Path
from typing import NamedTuple

import odoo
from odoo import release
from odoo.modules.module import get_module_path
from odoo.tools import config
from odoo.tools.translate import get_po_paths

from ..codec.value import FORMAT

_OPTIONS = ("dev_mode", "server_wide_modules")
_CORE = str(Path(odoo.orm.__path__[0]).parent)
_ADDONS = f"{_CORE}/addons"  # not all of them are loaded
_LEFT_OUT = {"__pycache__", "node_modules"}
_TRANSLATIONS = (".po", ".pot")
_PACKAGE = (".dist-info", ".egg-info")
_MOST_LANGUAGES = 200  # that are remembered: a visitor may ask for any
_DIGEST = 16  # bytes
_LISTED = 12  # hexadecimal digits of a file's digest in a listing
_is_language = re.compile(r"[a-z]{2,3}(_[A-Z]{2})?(@[a-z]+)?").fullmatch

Remember = Callable[[bytes, Callable[[], bytes]], bytes]
"""Gives what the function returns: as it was computed before under the same name, or now."""


File = tuple[str, str, os.stat_result]
"""Name relative to the module, path, and what its folder tells of it."""


class Folder(NamedTuple):
    """A folder's files, as they were when first asked for.

    :param told: changes with their contents
    :param places: changes with their paths and dates
    """

    path: str
    files: int
    told: bytes
    places: bytes


class Fingerprint:
    """The code and files that processes have in common which share values of one database.

    :param modules: names of the loaded ones; server-wide ones are added
    :ivar content: equal where code and content of files are equal
    :ivar places: equal where files are in the same places, and have the same dates
    """

    def __init__(self, modules: Iterable[str], remember: Remember) -> None:
        self.modules = tuple(sorted({*modules, *config["server_wide_modules"]}))
        self._remember = remember
        self._languages: dict[str, bytes] = {}
        found = dict(self._folders())
        if any(_is_read_only(folder.path) for folder in found.values()):
            self._remember = _compute  # an image may give all its files one time of each kind
        joined = self._remember(
            b"files" + _digest(b"".join(folder.told for folder in found.values())),
            lambda: b"".join(_content(_walk(folder.path)) for folder in found.values()),
        )
        digests = [joined[start : start + _DIGEST] for start in range(0, len(joined), _DIGEST)]
        self.parts = dict(zip(found, digests, strict=True))
        environment = (
            FORMAT,
            release.version,
            sys.version,
            sys.implementation.cache_tag,
            _packages(),
            [str(config[option]) for option in _OPTIONS],
        )
        self.content = _digest(repr((environment, self.parts)).encode())
        self.places = _digest(b"".join(folder.places for folder in found.values()))
        self.count = sum(folder.files for folder in found.values())
        self._paths = {name: folder.path for name, folder in found.items()}
        self._roots = {os.fsencode(f"{Path(folder.path).parent}/") for folder in found.values()}

    def __str__(self) -> str:
        return self.content.hex()[:16]

    def listing(self) -> str:
        """Its parts, a line a module, to compare two nodes by."""
        lines = [f"{digest.hex()} {name}" for name, digest in self.parts.items()]
        options = ", ".join(f"{option} = {config[option]}" for option in _OPTIONS)
        return "\n".join(
            [f"Odoo {release.version}, Python {sys.version}, {options}", *_packages(), *lines]
        )

    def surroundings(self) -> dict[str, str]:
        """The platform of the code: names and versions."""
        options = {f"option {option}": str(config[option]) for option in _OPTIONS}
        versions = {"Odoo": release.version, "Python": sys.version}
        return {**versions, **options, **dict.fromkeys(_packages(), "")}

    def files(self) -> dict[str, dict[str, str]]:
        """Digests of all files, by module and name; without modules whose files were changed since.

        It takes as long as to read them: a third of a second, or a second where there are many.
        """
        found = {}
        for name, path in self._paths.items():
            digests: dict[str, str] = {}
            if _content(_walk(path), digests) == self.parts[name]:
                found[name] = digests
        return found

    def names_a_place(self, data: bytes) -> bool:
        """Whether something encoded holds the path of a file of a module."""
        return any(root in data for root in self._roots)

    def of_languages(self, words: Iterable[object]) -> bytes:
        """What the translations of some languages are.

        :param words: anything; what is no language's code is passed over
        """
        languages = {word for word in words if isinstance(word, str) and _is_language(word)}
        return b"".join(self._language(language) for language in sorted(languages))

    def _language(self, language: str) -> bytes:
        found = self._languages.get(language)
        if found is None:
            files = []
            for module in self.modules:
                for path in get_po_paths(module, language):
                    with contextlib.suppress(OSError):
                        name = "/".join((module, *Path(path).parts[-2:]))
                        files.append((name, path, os.stat(path)))
            told = _joined([_told(path, of) for _name, path, of in files])
            found = self._remember(b"terms" + told, lambda: _content(files)) if files else b""
            if len(self._languages) < _MOST_LANGUAGES:
                self._languages[language] = found
        return found

    def _folders(self) -> Iterator[tuple[str, Folder]]:
        yield "odoo", _folder(_CORE)
        for name in self.modules:
            if path := get_module_path(name, display_warning=False):
                yield name, _folder(path)


def _is_read_only(path: str) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _compute(_name: bytes, compute: Callable[[], bytes]) -> bytes:
    return compute()


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=_DIGEST).digest()


@functools.cache
def _packages() -> tuple[str, ...]:
    """Python's packages, each with its version, as their folders are named."""
    found: set[str] = set()
    for folder in sys.path:
        with contextlib.suppress(OSError):
            found.update(name for name in os.listdir(folder or ".") if name.endswith(_PACKAGE))
    return tuple(sorted(found))


@functools.cache
def _folder(path: str) -> Folder:
    told, places = [], []
    for _name, file, of in _walk(path):
        told.append(_told(file, of))
        places.append(f"{file} {of.st_mtime_ns}")
    return Folder(path, len(told), _joined(told), _joined(places))


def _told(path: str, of: os.stat_result) -> str:
    """What changes with the content of a file."""
    return f"{path} {of.st_size} {of.st_dev} {of.st_ino} {of.st_mtime_ns} {of.st_ctime_ns}"


def _joined(lines: list[str]) -> bytes:
    return _digest("\0".join(lines).encode(errors="surrogateescape"))


def _walk(
    folder: str, prefix: str = "", parents: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[File]:
    """The files in a folder and in those below it, in the order of their names.

    A file that cannot be read, or a link to nowhere, is passed over: Odoo cannot read it either.

    :param prefix: of their names
    :param parents: the folders that it is in: a link may lead back to one
    """
    try:
        of = os.stat(folder)
        with os.scandir(folder) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError:  # no folder, or a vanished one
        return
    inode = of.st_dev, of.st_ino
    if inode in parents:
        return
    for entry in entries:
        name = entry.name
        if name in _LEFT_OUT or name[0] == "." or name.endswith(_TRANSLATIONS):
            continue
        try:
            status = entry.stat()
        except OSError:
            continue
        if stat.S_ISDIR(status.st_mode):
            if entry.path != _ADDONS:
                yield from _walk(entry.path, f"{prefix}{name}/", parents | {inode})
        elif stat.S_ISREG(status.st_mode):
            yield prefix + name, entry.path, status


def _content(files: Iterable[File], digests: dict[str, str] | None = None) -> bytes:
    """A digest of names and contents.

    :param digests: gets one of each file, by name
    """
    digest = sha256()
    for name, path, _status in files:
        try:
            with open(path, "rb", buffering=0) as opened:
                data = opened.read()
        except OSError:
            continue
        digest.update(f"{name}\0{len(data)}\0".encode(errors="surrogateescape"))
        digest.update(data)
        if digests is not None:
            digests[name] = sha256(data).hexdigest()[:_LISTED]
    return digest.digest()[:_DIGEST]
