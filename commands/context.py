"""The settings in force for a subcommand, and both halves as the server has them."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from odoo.tools import config

from ..config import Settings
from ..exceptions import ConfigurationError
from ..http_patch.install import make_remote_tier, make_session_store
from ..operation import Books

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..connection import RedisServer
    from ..ormcache import RemoteTier
    from ..sessions import RedisSessionStore


_BAR = 30  # characters


class Context(contextlib.AbstractContextManager["Context"]):
    """One run of ``odoo redis``.

    :param as_json: whether a machine reads what is printed
    """

    def __init__(self, settings: Settings, *, as_json: bool) -> None:
        self.settings, self.as_json = settings, as_json

    @classmethod
    def of(cls, options: argparse.Namespace) -> Self:
        """As the options of the command line say.

        :raises ConfigurationError: when a setting is wrong
        """
        words = ["-c", options.config] if options.config else []
        config.parse_config(
            [*words, "--log-level=warn", "--log-handler=py.warnings:ERROR"], setup_logging=True
        )
        settings, _notices = Settings.from_environment(os.environ, config["config"])
        if not (settings.session or settings.ormcache):
            raise ConfigurationError("session = false and ormcache = false: Redis is not used")
        return cls(settings, as_json=options.json)

    def __exit__(self, *_error: object) -> None:
        for half in (vars(self).get("sessions"), vars(self).get("remote")):
            if half:
                half.disconnect()

    @cached_property
    def sessions(self) -> RedisSessionStore | None:
        """Sessions in Redis; None: they are in files."""
        return make_session_store(self.settings) if self.settings.session else None

    @cached_property
    def remote(self) -> RemoteTier | None:
        """The shared cache; None: each process has its own."""
        return make_remote_tier(self.settings) if self.settings.ormcache else None

    @cached_property
    def server(self) -> RedisServer:
        """The Redis that has the books."""
        half = self.sessions or self.remote
        assert half  # see `of`
        return half.server

    @cached_property
    def books(self) -> Books:
        return Books(self.server, self.settings.prefix)

    def show(self, found: Any, lines: Iterable[str]) -> None:
        """Print a result: as JSON for machines, else these lines."""
        if self.as_json:
            say(json.dumps(found, indent=2, default=str))
        else:
            for line in lines:
                say(line)

    def progress(self, done: float, word: str) -> None:
        """A bar, for people.

        :param done: a fraction
        :param word: what it is at work on; "" removes the bar
        """
        if self.as_json or not sys.stderr.isatty():
            return
        bar = "#" * int(_BAR * done)
        sys.stderr.write(f"\r\033[K[{bar:{_BAR}}] {word[:40]}" if word else "\r\033[K")
        sys.stderr.flush()

    def agreed(self, question: str, *, yes: bool) -> bool:
        """Whether the person agrees; without one, only where the command line did."""
        if yes:
            return True
        if self.as_json or not sys.stdin.isatty():
            complain("Say --yes to do it.")
            return False
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def say(line: str) -> None:
    """Print a line of what was asked for."""
    sys.stdout.write(f"{line}\n")


def complain(line: str) -> None:
    """Print a line that is not of the result."""
    sys.stderr.write(f"{line}\n")


def table(rows: Sequence[Sequence[object]], *, right: Sequence[int] = ()) -> list[str]:
    """Lines of rows, of which the first is the heading, in columns.

    :param right: columns of numbers
    """
    if not rows:
        return []
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    lines = []
    for row in texts:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def duration(seconds: float) -> str:
    """For people.

    >>> [duration(seconds) for seconds in (4, 90, 7_300, 200_000)]
    ['4 s', '1 min', '2 h', '2 d']
    """
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"
