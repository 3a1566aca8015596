"""Values that one transaction has computed and nobody else may see yet. Pure: no I/O, no Odoo.

A transaction begins with one layer; each savepoint puts one on top. A layer *has changed* the
database when it wrote, has changes to write, or invalidated something. A computed value belongs to
the topmost layer that has changed the database, because only that layer's rollback can make the
value wrong; where none has, it belongs to the lowest.

========================== ===========================================================
event                      effect
========================== ===========================================================
``put``                    the value is visible to this transaction
``mark_changed``           later values belong to the top layer
``invalidate``             values of these containers are not visible any more, those of
                           the process neither
``begin``                  a savepoint: an empty layer on top
``release``                the layer, and those above it, become a part of the one below
``roll_back``              the layer is empty again, those above it are gone; what they
                           hid is visible again
``take``                   the values of the lowest layer leave it, to be seen by others
========================== ===========================================================

>>> layers = Layers()
>>> def sees():
...     return {key: found.value for key, found in layers.view.items()}
>>> layers.put("default", "a", Computed("computed before"))
>>> layers.begin("s1")
>>> layers.put("default", "b", Computed("s1 has changed nothing: belongs below"))
>>> layers.mark_changed()
>>> layers.put("default", "c", Computed("may tell of what s1 wrote"))
>>> layers.invalidate({"default"})
>>> layers.put("default", "a", Computed("computed again"))
>>> sees()
{'a': 'computed again'}
>>> lost, unsure = layers.roll_back("s1")
>>> lost, [computed.value for computed in unsure]
({'default'}, ['s1 has changed nothing: belongs below'])
>>> sorted(sees()), layers.has_changed, sorted(layers.view.invalidated)
(['a', 'b'], False, [])
>>> layers.begin("s2")
>>> layers.mark_changed()
>>> layers.put("default", "c", Computed("may tell of what s2 wrote"))
>>> layers.release("s2")
>>> sorted(sees()), layers.has_changed
(['a', 'b', 'c'], True)

A rollback to a savepoint that was begun before the layers were leaves nothing:

>>> layers.roll_back("unknown"), sees()
(({'default'}, []), {})
"""

from collections.abc import Iterable
from typing import Any

from .originals import EDITED, Digest

MOST_VALUES = 8192  # of one container in one layer, as many as Odoo's largest cache has


class Computed:
    """A value that a transaction has computed.

    :param original: what tells it from what its callers may make of it
    :param entry: itself, encoded for the shared cache; None: it stays in its process
    """

    __slots__ = ("entry", "original", "value")

    def __init__(self, value: Any, original: Digest = EDITED, entry: Any = None) -> None:
        self.value = value
        self.original = original
        self.entry = entry


Values = dict[str, dict[Any, Computed]]  # by container and key


class View(dict[Any, Computed]):
    """Values that a transaction sees of its own, by key.

    :ivar invalidated: containers of which it sees nothing else
    """

    __slots__ = ("invalidated",)

    def __init__(self) -> None:
        super().__init__()
        self.invalidated: set[str] = set()


class Layer:
    """Values that were computed since a savepoint, or since the transaction began.

    :param savepoint: its name; None: the transaction
    :ivar below: values that belong to layers below, because this one has changed nothing
    """

    __slots__ = ("below", "has_changed", "invalidated", "savepoint", "values")

    def __init__(self, savepoint: str | None = None) -> None:
        self.savepoint = savepoint
        self.values: Values = {}
        self.below: list[Computed] = []
        self.invalidated: set[str] = set()
        self.has_changed = False


class Layers:
    """The layers of one transaction."""

    __slots__ = ("_stack", "view")

    def __init__(self) -> None:
        self._stack = [Layer()]
        self.view = View()

    @property
    def has_changed(self) -> bool:
        """Whether the transaction may have changed the database."""
        return any(layer.has_changed for layer in self._stack)

    def put(self, container: str, key: Any, computed: Computed) -> None:
        """Keep a value; when a container has too many, its others in this layer go."""
        *above, layer = self._down_to_change()
        for each in above:
            each.below.append(computed)
        values = layer.values.setdefault(container, {})
        if len(values) >= MOST_VALUES:
            for other in values:
                self.view.pop(other, None)
            values.clear()
        values[key] = self.view[key] = computed

    def mark_changed(self) -> None:
        """Later values may tell of changes made since the last savepoint."""
        self._stack[-1].has_changed = True

    def invalidate(self, containers: Iterable[str]) -> None:
        """The values of these containers are not valid any more."""
        top = self._stack[-1]
        top.has_changed = True
        for container in containers:
            for layer in reversed(self._stack):
                for key in layer.values.get(container, ()):
                    self.view.pop(key, None)
                if layer is top:
                    layer.values.pop(container, None)
                if container in layer.invalidated:  # what is below is not visible
                    break
            top.invalidated.add(container)
            self.view.invalidated.add(container)

    def begin(self, savepoint: str) -> None:
        """A savepoint was set."""
        self._stack.append(Layer(savepoint))

    def release(self, savepoint: str) -> None:
        """A savepoint was released: its changes belong to what is below."""
        number = self._number(savepoint)
        if number is None:
            return
        below = self._stack[number - 1]
        for layer in self._stack[number:]:
            for container in layer.invalidated:
                below.values.pop(container, None)
            for container, values in layer.values.items():
                below.values.setdefault(container, {}).update(values)
            below.invalidated |= layer.invalidated
            below.has_changed |= layer.has_changed
        del self._stack[number:]

    def roll_back(self, savepoint: str) -> tuple[set[str], list[Computed]]:
        """The transaction was rolled back to a savepoint.

        :return: containers that lost values; and values that were computed since the savepoint and
            stay, because nothing tells that it had changed anything
        """
        number = self._number(savepoint)
        if number is None:
            return self.clear(), []
        undone = self._stack[number:]
        self._stack[number:] = [Layer(savepoint)]
        if any(layer.values or layer.invalidated for layer in undone):
            self._see_again()
        lost = {container for layer in undone for container in layer.values}
        return lost, undone[0].below

    def take(self) -> Values:
        """Give away the values of a transaction that has changed nothing."""
        [*_savepoints, base] = reversed(self._stack)
        values, base.values = base.values, {}
        self.view.clear()
        return values

    def flatten(self) -> None:
        """The transaction is committed: all savepoints are released."""
        if len(self._stack) > 1:
            self.release(self._stack[1].savepoint or "")

    def clear(self) -> set[str]:
        """Drop all values; the containers that lost some."""
        lost = {container for layer in self._stack for container in layer.values}
        for layer in self._stack:
            layer.values = {}
        self.view.clear()
        return lost

    def _down_to_change(self) -> list[Layer]:
        """The layers from the top down to the first that has changed, or to the lowest."""
        number = len(self._stack) - 1
        while number and not self._stack[number].has_changed:
            number -= 1
        return self._stack[number:][::-1]

    def _number(self, savepoint: str) -> int | None:
        for number in range(len(self._stack) - 1, 0, -1):
            if self._stack[number].savepoint == savepoint:
                return number
        return None

    def _see_again(self) -> None:
        self.view.clear()
        hidden: set[str] = set()
        for layer in reversed(self._stack):
            for container in layer.values.keys() - hidden:
                for key, computed in layer.values[container].items():
                    self.view.setdefault(key, computed)
            hidden |= layer.invalidated
        self.view.invalidated = hidden
