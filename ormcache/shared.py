"""The two-tier lookup: what happens when tier 1, Odoo's LRU, has no value.

* A transaction reads and publishes under the generation that its own snapshot saw, or one that was
  seen on its cursor before. So what is read was computed by a snapshot at least as new.
* What it computes is encoded at once, and published after its commit; before, only when it is
  proven to have written nothing; never after a rollback, not even to a savepoint.
* While its thread has invalidated something and not signalled it yet, it does neither.
* A transaction older than what the process knows does neither, and leaves tier 1 alone too: what it
  computes is for itself only.

Knows Odoo by what it is handed: a registry, a cursor, a cached method.
"""

import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet

from ..codec.value import Vault, decode, encode, key_bytes
from ..exceptions import CorruptRecordError, ExpiredRecordError, NotShareableError
from .counters import COUNTERS, Counter
from .generation import REGISTRY, Generation, Ids
from .originals import Originals
from .policy import Method
from .remote import TAG_LENGTH, RemoteTier
from .transaction import Entry, Hash, Transaction

_logger = logging.getLogger(__name__)

_REMEMBERED_HASHES = 24  # hashes fetched whole, per database
_REMEMBERED_FAILURES = 10_000  # keys whose method raised, per hash


class ValueCodec(NamedTuple):
    """How the values of one method travel.

    :param encode: bytes of a value; raises NotShareableError
    :param decode: value of a model's method, from these bytes; raises CorruptRecordError, or
        ExpiredRecordError
    """

    encode: Callable[[Any], bytes]
    decode: Callable[[Any, bytes], Any]


PLAIN = ValueCodec(encode, lambda _model, data: decode(data))


class Code(Protocol):
    """The code and files of a process, which values depend on.

    :param content: equal for processes that may share
    :param places: equal for those of them whose files have the same paths and dates
    """

    content: bytes
    places: bytes

    def of_languages(self, words: Sequence[object]) -> bytes:
        """Equal for equal translations of the languages in ``words``."""

    def names_a_place(self, data: bytes) -> bool:
        """Whether something encoded holds the path of a file."""


class Place(NamedTuple):
    """Where the value of one key belongs, as one transaction sees it."""

    transaction: Transaction
    generation: Generation
    vault: Vault
    hash: Hash
    field: bytes
    method: Method
    counter: Counter

    @property
    def bound(self) -> bytes:
        """What its value is sealed for: nowhere else does it open."""
        return self.hash.key.encode() + b"\0" + self.field


class SharedOrmcache:
    """Tier 2 for the database of one registry, which threads share.

    :param codecs: for methods whose values need one of their own, by module and qualified name
    """

    def __init__(
        self, remote: RemoteTier, database: str, prefix: str, codecs: Mapping[str, ValueCodec]
    ) -> None:
        self.remote = remote
        self._known: dict[str, Ids] = {}  # per origin, the newest that this process saw signalled
        self._seen: dict[str, Generation] = {}  # per origin, the one it saw last
        self._codecs = codecs
        self._database = database
        self._prefix = f"{prefix}:ormcache:{database}:"
        self._vaults: dict[str, Vault] = {}
        self.is_closed = False  # whether its database has no secret
        self.code: Code | None = None  # once it is known; until then nothing is shared
        self.originals = Originals()
        self._hashes: OrderedDict[str, Hash] = OrderedDict()
        # By container and origin: the newest generation, and the key of its hash.
        self._newest: dict[tuple[str, str], tuple[Generation, str]] = {}
        self._methods: dict[Any, Method] = {}
        self._lock = threading.Lock()
        # Weak: the end of one may go unnoticed, when another addon's callback fails.
        self._open: WeakSet[Transaction] = WeakSet()
        self._unsettled: WeakSet[Transaction] = WeakSet()
        self._undone = 0

    def learn(self, generation: Generation) -> None:
        """Take note that this process has seen ``generation``: what is older is past."""
        if self._seen.get(generation.origin) is generation:
            return
        with self._lock:  # :meth:`put` is done, or will find what changed
            self._seen[generation.origin] = generation
            known = self._known.get(generation.origin, {})
            newest = {key: max(known.get(key, ()), ids) for key, ids in generation.ids.items()}
            # The same object, so that what is compared most often is found equal at once.
            self._known[generation.origin] = generation.ids if newest == generation.ids else newest

    def method(self, cache: Any) -> Method:
        """What is known of a cached method.

        :param cache: its ``odoo.tools.cache.ormcache``
        """
        found = self._methods.get(cache)
        if found is None:
            found = self._methods[cache] = Method(cache.method)
        return found

    def forget_hashes(self) -> None:
        """Fetch each again when something is looked for in it."""
        self._hashes.clear()

    # -- what threads see of each other ------------------------------------------------------------

    def began(self, transaction: Transaction) -> None:
        """A transaction may put values in tier 1, until it ended.

        It can see those of the others that are open, who had nobody to prove anything to before.
        """
        if transaction.open_in is self:
            return
        with self._lock:
            transaction.open_in = self
            if transaction not in self._open:
                self._unsettled.update([other for other in self._open if other.fills])
                self._open.add(transaction)

    def is_alone(self, transaction: Transaction) -> bool:
        """Whether no other transaction sees what it puts in tier 1."""
        with self._lock:
            return all(each is transaction for each in self._open)

    def unsettle(self, transaction: Transaction) -> None:
        """A transaction puts values in tier 1 that may never be committed."""
        with self._lock:
            self._unsettled.add(transaction)

    def settle(self, transaction: Transaction, *, undone: bool) -> None:
        """These were committed after all, or undone: then tier 1 is to be cleared after this."""
        with self._lock:
            if undone and transaction in self._unsettled:
                self._undone += 1
            self._unsettled.discard(transaction)

    def ended(self, transaction: Transaction) -> None:
        """After the commit or the rollback of all of it."""
        with self._lock:
            transaction.open_in = None
            self._open.discard(transaction)

    def unsettled(self, transaction: Transaction) -> list[Transaction]:
        """The others from whose values in tier 1 something may be computed meanwhile."""
        if not self._unsettled:
            return []
        with self._lock:
            return [other for other in self._unsettled if other is not transaction]

    def drop_what_waits(self) -> None:
        """Publish nothing of what open transactions computed so far."""
        with self._lock:
            for transaction in self._open:
                transaction.drop()

    def doubts(self, transaction: Transaction) -> tuple[bool, int]:
        """Whether tier 1 may hold what others have not committed; and how often some of it went."""
        return bool(self.unsettled(transaction)), self._undone

    # -- one transaction ---------------------------------------------------------------------------

    def current_generation(
        self, transaction: Transaction, registry: Any, read: Callable[[], Generation]
    ) -> Generation | None:
        """The generation of a transaction; None when it misses what this process knows of.

        :param read: reads the generation in the transaction
        """
        generation = transaction.generation
        if generation is not None and not self.is_older(generation, registry):
            return generation
        known = (dict(self._known), registry.registry_sequence, dict(registry.cache_sequences))
        if transaction.outdated == known:
            return None
        generation = transaction.generation = read()
        if not self.is_older(generation, registry):
            return generation
        transaction.outdated, transaction.own = known, {}
        return None

    def is_older(self, generation: Generation, registry: Any) -> bool:
        """Whether a snapshot misses something that this process knows of.

        The registry's sequences are a guess after it signalled, and never too high.
        """
        if generation.is_past:
            return True
        known = self._known.get(generation.origin)
        if known is not None and known is not generation.ids and generation.older_than(known):
            return True
        newest = generation.newest
        if (newest[REGISTRY] or 0) < registry.registry_sequence:
            return True
        for key, sequence in registry.cache_sequences.items():
            if (newest[key] or 0) < sequence:
                return True
        return False

    def put(self, lru: Any, key: Any, value: Any, transaction: Transaction, registry: Any) -> bool:
        """Put a value in tier 1, unless the process knows of more than the transaction has seen.

        In one step as to :meth:`learn`: whoever learns of more clears tier 1 after that.
        """
        with self._lock:
            generation = transaction.generation
            if generation is not None and self.is_older(generation, registry):
                return False
            lru[key] = value
            return True

    def place(
        self,
        transaction: Transaction,
        generation: Generation,
        cache: Any,
        method: Method,
        key: tuple[Any, ...],
        surroundings: tuple[Any, ...],
    ) -> Place | None:
        """Where a value belongs; None when its key cannot be told from others in all processes, or
        when Redis is too slow.

        :param key: as ``ormcache.key`` makes it: model name, function, arguments
        :param surroundings: what else a value may depend on
        """
        if self.code is None or not generation.secret:
            return None
        vault = self.vault(generation.secret)
        counter = COUNTERS[self._database, method.name]
        surroundings = (*surroundings, self.code.places if method.holds_places else b"")
        try:
            key_digest = vault.digest(key_bytes((method.name, key[0], key[2:], surroundings)))
        except NotShareableError as error:
            counter.rejected += 1
            method.refuse(str(error))
            return None
        hash_ = self._hash(cache.cache_name, generation, transaction, vault)
        if hash_ is None:
            return None
        tag = vault.digest(method.name.encode()).hex()[:TAG_LENGTH].encode()
        return Place(transaction, generation, vault, hash_, tag + key_digest, method, counter)

    def load(self, place: Place, model: Any) -> tuple[Any] | None:
        """The value from tier 2, in a tuple; None: the caller is to compute it."""
        sealed = place.transaction.find(place.hash, place.field, place.method)
        if sealed is None:
            return None
        place.counter.bytes_in += len(sealed)
        try:
            data, cost = place.vault.open(place.bound, sealed)
            value = self._codec(place.method).decode(model, data)
        except ExpiredRecordError:
            return None
        except CorruptRecordError as error:
            place.counter.rejected += 1
            _logger.warning("A value of %s is refused: %s", place.method.name, error)
            return None
        place.counter.found += 1
        place.counter.saved += cost
        place.method.computed(cost)
        place.method.is_shareable = True
        return (value,)

    def store(self, place: Place, value: Any, cost: float, *, publish: bool) -> None:
        """Encode a computed value, before anybody can change it, for a publication later.

        :param cost: seconds that computing it took
        :param publish: whether it is valid beyond this transaction
        """
        place.counter.computed += 1
        place.counter.spent += cost
        place.method.computed(cost)
        if not publish:
            place.transaction.release(place.field)
            return
        try:
            data = self._encoded(place.method, value)
            sealed = place.vault.seal(place.bound, data, cost)
        except Exception as error:  # a codec's too: the value itself is fine
            place.counter.rejected += 1
            place.method.refuse(str(error))
            _logger.debug("A value of %s stays local: %s", place.method.name, error)
            place.transaction.release(place.field)
            return
        place.method.is_shareable = True
        place.transaction.offer(Entry(place.hash.key, place.field, sealed, place.counter))

    def give_up(self, place: Place) -> None:
        """The method raised: there is nothing to store, nor to ask for again."""
        if len(place.hash.failed) < _REMEMBERED_FAILURES:
            place.hash.failed.add(place.field)
        place.transaction.release(place.field)

    def _hash(
        self, container: str, generation: Generation, transaction: Transaction, vault: Vault
    ) -> Hash | None:
        """A container's hash, fetched when this process first looks for something in it.

        None when that would take the transaction too long.
        """
        assert self.code is not None
        token = vault.digest(self.code.content + generation.token(container))
        key = f"{self._prefix}{container}:{token.hex()}"
        found = self._hashes.get(key)
        if found is None:
            if transaction.has_waited_enough:
                return None
            found = self._hashes[key] = Hash(key, transaction.waiting(self.remote.fetch, key))
            line = container, generation.origin
            past = self._newest.get(line)
            if past is None or past[0].older_than(generation.ids):
                self._newest[line] = generation, key
                if past is not None:
                    self._hashes.pop(past[1], None)
                    transaction.waiting(self.remote.retire, past[1])
            while len(self._hashes) > _REMEMBERED_HASHES:
                self._hashes.popitem(last=False)
        return found

    def vault(self, secret: str) -> Vault:
        """Seals the values of a database with this secret."""
        found = self._vaults.get(secret)
        if found is None:
            found = Vault(secret)
            self._vaults = {secret: found}  # a former one is not needed any more
        return found

    def remember(self, vault: Vault, name: bytes, compute: Callable[[], bytes]) -> bytes:
        """Bytes that cost time to compute, and that a process of this database may have computed.

        :param name: what they depend on
        """
        key, field = f"{self._prefix}remembered", b"-" * TAG_LENGTH + vault.digest(name)
        bound = key.encode() + b"\0" + field
        sealed = self.remote.ask(key, field, claim=False)
        if isinstance(sealed, bytes):
            with contextlib.suppress(CorruptRecordError):
                return vault.open(bound, sealed)[0]
        data = compute()
        self.remote.publish(key, [(field, vault.seal(bound, data, 0.0))])
        return data

    def _encoded(self, method: Method, value: Any) -> bytes:
        data = self._codec(method).encode(value)
        if self.code and not method.holds_places and self.code.names_a_place(data):
            raise NotShareableError("it holds the path of a file")
        return data

    def _codec(self, method: Method) -> ValueCodec:
        return self._codecs.get(method.name, PLAIN)


def keys_of_containers(keys: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Per container, the keys that clear it: ``_CACHES_BY_KEY`` the other way round.

    >>> keys_of_containers({"default": ("default", "values"), "stable": ("stable", "default")})
    {'default': ('default', 'stable'), 'values': ('default',), 'stable': ('stable',)}
    """
    names = dict.fromkeys(name for group in keys.values() for name in group)
    return {name: tuple(key for key, group in keys.items() if name in group) for name in names}
