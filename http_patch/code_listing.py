"""The files of each fingerprint, to find out why two nodes do not share.

A fingerprint only says that code differs. So one process of each puts the digests of its files in
the books, sealed with the secret of the database: names of files are nobody else's business.
"""

import contextlib
import json
import time
from collections.abc import Mapping

from ..codec.value import Cost, Vault
from ..exceptions import CorruptRecordError, NotShareableError, SecretUnavailableError
from ..operation import Books
from . import database_secret
from .fingerprint import Fingerprint

Listing = dict[str, dict[str, str]]
"""Digests by module and file; under "" what the code runs on."""

_AGAIN = 3600.0  # seconds until it is looked whether a listing is still there

_looked: dict[tuple[str, str], float] = {}  # by database and fingerprint


def publish(books: Books, codes: Mapping[str, Fingerprint]) -> None:
    """Put the listing of each database's code in the books, if no process has done so."""
    for database, code in codes.items():
        place, now = (database, str(code)), time.monotonic()
        if now - _looked.get(place, -_AGAIN) < _AGAIN:
            continue
        _looked[place] = now
        if not books.claim_listing(*place):
            continue
        # If it is too long, or PostgreSQL does not answer, it is not known which files differ.
        with contextlib.suppress(NotShareableError, SecretUnavailableError):
            if secret := database_secret.read(database):
                data = json.dumps({"": code.surroundings(), **code.files()}).encode()
                books.put_listing(*place, Vault(secret).seal(_bound(*place), data, Cost()))


def read(books: Books, database: str) -> dict[str, Listing]:
    """The listings of a database, by fingerprint.

    :raises SecretUnavailableError: when PostgreSQL does not answer
    """
    found: dict[str, Listing] = {}
    secret = database_secret.read(database)
    for fingerprint, sealed in books.listings(database).items() if secret else ():
        try:
            data, _cost = Vault(secret or "").open(_bound(database, fingerprint), sealed)
        except CorruptRecordError:  # of a former secret
            continue
        found[fingerprint] = json.loads(data)
    return found


def differing(listings: Mapping[str, Listing]) -> list[str]:
    """The files that are not the same in all listings, as ``module: path``.

    >>> one = {"": {"Python": "3.11"}, "sale": {"a.py": "1", "b.py": "2"}}
    >>> two = {"": {"Python": "3.12"}, "sale": {"a.py": "1", "b.py": "3"}}
    >>> differing({"x": one, "y": two})
    ['Python', 'sale: b.py']
    """
    names = {
        (module, name)
        for listing in listings.values()
        for module, files in listing.items()
        for name in files
    }
    return [
        f"{module}: {name}" if module else name
        for module, name in sorted(names)
        if len({listing.get(module, {}).get(name) for listing in listings.values()}) > 1
    ]


def _bound(database: str, fingerprint: str) -> bytes:
    return f"listing {database} {fingerprint}".encode()
