"""Which values of Redis a process computes again, to find methods that depend on more than their
keys say.

Such a method is wrong in stock Odoo too, within one process; shared, its values reach all of them.
A value of Redis is therefore computed again now and then, in a transaction of its own. A difference
that no change of the database explains tells of such a method: it is *distrusted*, which is noted
in Redis and signalled, so that every process drops its values and computes them from then on.

>>> def _get_bindings(self, model_name): pass
>>> method = Method(_get_bindings)
>>> method.file = "/usr/lib/odoo/addons/base/models/ir_actions.py"
>>> [Sampling(one_in, ("/usr/lib/odoo/",)).one_in_of(method, 1) for one_in in (0, 1, 2000)]
[0, 1, 2000]
>>> method.file = "/srv/addons/other/models/ir_actions.py"
>>> [Sampling(2000, ("/usr/lib/odoo/",)).one_in_of(method, count) for count in (1, 1000, 1001)]
[20, 20, 2000]
"""

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..codec.value import encode
from ..exceptions import NotShareableError
from .policy import Method
from .remote import RemoteTier

FOREIGN_ONE_IN = 20  # values of a method that is not Odoo's own, among its first ...
FOREIGN_FIRST = 1_000


def distrusted_key(prefix: str, database: str) -> str:
    """The hash in Redis that has the methods of a database which are not shared any more.

    >>> distrusted_key("odoo", "production")
    'odoo:ormcache:production:distrusted'
    """
    return f"{prefix}:ormcache:{database}:distrusted"


def read_distrusted(remote: RemoteTier, prefix: str, database: str) -> dict[str, float]:
    """Methods that are not shared because a value was wrong: by name, when that was found, in
    seconds since the epoch."""
    [found] = remote.fetch([distrusted_key(prefix, database)]) or [{}]
    return {name.decode(): float(text.partition(b" ")[0]) for name, text in found.items()}


class Sampling:
    """Picks values.

    :param one_in: of so many values of Redis one; 0: none
    :param own_folders: where the files of Odoo's own modules are
    """

    def __init__(self, one_in: int, own_folders: tuple[str, ...]) -> None:
        self.one_in = one_in
        self._own_folders = own_folders

    def picks(self, method: Method, found: int) -> bool:
        """Whether a value is to be computed again.

        :param found: values of the method that this process has found in Redis
        """
        one_in = self.one_in_of(method, found)
        return one_in > 0 and random.random() * one_in < 1

    def one_in_of(self, method: Method, found: int) -> int:
        """Of how many values of a method one is picked; 0: none is."""
        if found <= FOREIGN_FIRST and not method.file.startswith(self._own_folders):
            return min(self.one_in, FOREIGN_ONE_IN)
        return self.one_in


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are the same but for the order in lists and tuples, which may come of a
    set: strings in sets have another order in each process.

    >>> is_same(("a", ["b"]), (["b"], "a")), is_same({"a": [1]}, {"a": [1, 1]})
    (True, False)
    >>> is_same((1, "b"), (1, 2)), is_same({"a": 1}, ValueError("not a dict"))
    (False, False)
    """
    try:
        return bool(one == other) or _unordered(one) == _unordered(other)
    except Exception:  # they do not compare
        return False


def _unordered(value: Any) -> Any:
    """The same for equal values of any order; hashable."""
    if isinstance(value, Mapping):
        return type(value), frozenset((_unordered(key), _unordered(v)) for key, v in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value), frozenset(Counter(map(_unordered, value)).items())
    try:
        return encode(value)
    except NotShareableError:
        return value
