"""A call whose value the caches of the process do not have. :meth:`SharedOrmcache.look_up` is the
whole way of it, from top to bottom:

1. Where the call's value would be in Redis: the *slot*. There is none when the method stays local,
   or while the transaction may neither read nor publish (``transaction.py``).
2. Tier 2: the slot's value, if Redis has it, or somebody who computes it now is about to send it.
3. Compute it. It stays with the transaction until it is known to be committed, and is encoded at
   once, because its callers may edit it.

Knows Odoo by what it is handed: :class:`Call` and ``transaction.Connection``.
"""

import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from ..codec.value import Cost, Vault, decode, encode, key_bytes
from ..exceptions import CorruptRecordError, ExpiredRecordError, NotShareableError
from .counters import COUNTERS, Counter
from .generation import Generation
from .layers import Computed
from .local import Caches, LocalTier
from .originals import EDITED, digest
from .outbox import Entry, Outbox, place
from .policy import UNKNOWN, Method
from .remote import LEASE, TAG_LENGTH, Claim, RemoteTier
from .transaction import Connection, Transaction
from .verification import Sampling, distrusted_key, is_same

_logger = logging.getLogger(__name__)

PATIENCE = 0.010  # seconds to wait for a value that somebody computes, and ...
PATIENCE_FACTOR = 2  # ... that many times what one of its method takes
MAX_PATIENCE = 2.0  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.008  # seconds between two looks
_REMEMBERED_HASHES = 24  # hashes fetched whole, per database
_REMEMBERED_FAILURES = 10_000  # keys whose method raised, per hash


class ValueCodec(NamedTuple):
    """How the values of one method travel.

    :param encode: bytes of a value; raises NotShareableError
    :param decode: value of a model's method, from these bytes; raises CorruptRecordError, or
        ExpiredRecordError
    :param identity: by which values are compared; None: they tell of the moment when they were
        computed, and are not
    """

    encode: Callable[[Any], bytes]
    decode: Callable[[Any, bytes], Any]
    identity: Callable[[Any], Any] | None = lambda value: value


def plain_decode(_model: Any, data: bytes) -> Any:
    """A value that is the same on every model."""
    return decode(data)


PLAIN = ValueCodec(encode, plain_decode)


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


class Call(Protocol):
    """One call of a cached method, whose value the process does not have.

    :param key: as ``ormcache.key`` makes it: model name, function, arguments
    :param model: what it is called on
    :param may_load: whether a value of Redis will do
    :param may_share: whether others may be given the value
    """

    key: tuple[Any, ...]
    container: str
    method: Method
    model: Any
    may_load: bool
    may_share: bool

    def surroundings(self, generation: Generation) -> tuple[Any, ...] | None:
        """All that its value depends on beyond its key; None: on more than can be said."""

    def compute(self) -> tuple[Any, Cost, Collection[Any] | None]:
        """The value; what it took; keys that were looked up for it, None: not known."""

    def is_of_known_tables(self, generation: Generation) -> bool:
        """Whether the value was computed from tables whose state is in the generation."""

    def again(self, generation: Generation) -> "AbstractContextManager[Again | None]":
        """The same call in a transaction of its own, which changes nothing; None where that sees
        another state of the database than a generation.
        """

    def unless_explained(self, generation: Generation, act: Callable[[], None]) -> None:
        """Do something in a while, unless the database turns out to be in another state than a
        generation, and have all processes drop the values of the call's container.
        """


class Again(Protocol):
    """A call that is made again."""

    transaction: Transaction

    def compute(self) -> tuple[Any, Collection[Any] | None]:
        """The value, or the exception that took its place; and keys that were looked up for it.

        :raises Exception: when the database did not answer
        """


class Hash:
    """A hash of Redis as this process fetched it, and what was found out about it since.

    :param values: fetched and not looked for yet
    :param took: seconds that this took
    :ivar failed: fields whose method raised: nobody will publish them
    :ivar asked: seconds since then that it took to ask for what was there, one by one
    :ivar known: fields that were looked for
    """

    __slots__ = ("asked", "failed", "key", "known", "took", "values")

    def __init__(self, key: str, values: dict[bytes, bytes], took: float) -> None:
        self.key = key
        self.values = values
        self.took = took
        self.failed: set[bytes] = set()
        self.known: set[bytes] = set()
        self.asked = 0.0


class Slot(NamedTuple):
    """Where in Redis a call's value is, or would be.

    :param generation: under which it may be read there
    """

    generation: Generation
    vault: Vault
    hash: Hash
    field: bytes
    counter: Counter

    @property
    def bound(self) -> bytes:
        """The place that its value is sealed for."""
        return place(self.hash.key, self.field)


class SharedOrmcache:
    """Both tiers for the database of one registry, which threads share.

    :param caches: tier 1, by container
    :param codecs: for methods whose values need one of their own, by module and qualified name
    """

    def __init__(
        self,
        remote: RemoteTier,
        outbox: Outbox,
        database: str,
        prefix: str,
        codecs: Mapping[str, ValueCodec],
        caches: Caches,
        sampling: Sampling,
    ) -> None:
        self.remote = remote
        self.local = LocalTier(caches)
        self.code: Code | None = None  # once it is known; until then nothing is shared
        self.is_closed = False  # whether its database has no secret
        self._outbox = outbox
        self._budget = outbox.budget
        self._codecs = codecs
        self._database = database
        self._prefix = f"{prefix}:ormcache:{database}:"
        self._vaults: dict[str, Vault] = {}
        self._hashes: OrderedDict[str, Hash] = OrderedDict()
        self._used: set[str] = set()  # containers that were looked into
        # By container and origin: the newest generation, and the key of its hash.
        self._newest: dict[tuple[str, str], tuple[Generation, str]] = {}
        self._methods: dict[Any, Method] = {}
        self._sampling = sampling
        self._distrusted_key = distrusted_key(prefix, database)
        self.distrusted: set[str] = set()  # names of methods, as Redis last told them

    def method(self, cache: Any) -> Method:
        """What is known of a cached method.

        :param cache: its ``odoo.tools.cache.ormcache``
        """
        found = self._methods.get(cache)
        if found is None:
            found = self._methods[cache] = Method(cache.method)
        return found

    def begin(self, connection: Connection) -> Transaction:
        """For a cursor: what it takes from both tiers, and gives to them."""
        return Transaction(self.local, self._outbox, connection)

    def flush(self) -> None:
        """Wait until Redis has what this process has for it, as far as it takes it."""
        self._outbox.flush()

    # -- a call ------------------------------------------------------------------------------------

    def look_up(self, transaction: Transaction, call: Call) -> Any:
        """The value of a call, from tier 2 or computed."""
        transaction.look_around()
        slot = self._slot(transaction, call)
        if slot is not None and call.may_load:
            found = self._load(transaction, slot, call)
            if found is not None:
                if self._sampling.picks(call.method, slot.counter.found):
                    self._verify(transaction, slot, call, found.value)
                transaction.take_in(call.container, call.key, found, slot.generation)
                return found.value
        return self._compute(transaction, slot, call)

    def _slot(self, transaction: Transaction, call: Call) -> Slot | None:
        generation = transaction.sharing(call.container)
        method = call.method
        if method.local or not call.may_share or self.code is None:
            return None
        if generation is None or not generation.secret:
            return None
        if self.remote.is_away or transaction.has_waited_enough:
            return None
        vault = self.vault(generation.secret)
        hash_ = self._hash(call.container, generation, transaction, vault)
        if hash_ is None or method.name in self.distrusted:
            return None
        surroundings = call.surroundings(generation)
        if surroundings is None:
            return None
        counter = COUNTERS[self._database, method.name]
        surroundings = (*surroundings, self.code.places if method.holds_places else b"")
        try:
            name = key_bytes((method.name, call.key[0], call.key[2:], surroundings))
        except NotShareableError as error:
            counter.rejected += 1
            method.refuse(str(error))
            return None
        tag = vault.digest(method.name.encode()).hex()[:TAG_LENGTH].encode()
        return Slot(generation, vault, hash_, tag + vault.digest(name), counter)

    def _load(self, transaction: Transaction, slot: Slot, call: Call) -> Computed | None:
        sealed = self._sealed(transaction, slot, call)
        if sealed is None:
            return None
        slot.counter.bytes_in += len(sealed)
        method = call.method
        try:
            data, cost = slot.vault.open(slot.bound, sealed)
            value = self._codec(method).decode(call.model, data)
        except ExpiredRecordError:
            return None
        except CorruptRecordError as error:
            slot.counter.rejected += 1
            _logger.warning("A value of %s is refused: %s", method.name, error)
            return None
        slot.counter.found += 1
        slot.counter.saved += cost.seconds
        slot.counter.queries_saved += cost.queries
        method.computed(cost.seconds)
        method.is_shareable = True
        return Computed(value, digest(value))

    def _sealed(self, transaction: Transaction, slot: Slot, call: Call) -> bytes | None:
        """The bytes that Redis has in a slot; None: the value is to be computed."""
        hash_, field, method = slot.hash, slot.field, call.method
        hash_.known.add(field)
        fetched = hash_.values.pop(field, None)
        if fetched is not None or field in hash_.failed:
            return fetched
        if not transaction.is_in_step(call.container) or not self._budget.allows(
            method.mean_cost, self.remote.round_trip
        ):
            return None
        claim = not transaction.has_changed
        waited = transaction.waited
        answer = self._ask(transaction, slot, method, claim=claim)
        if answer == Claim.THEIRS:
            transaction.settle_claims()  # somebody may be waiting for what this transaction has
            answer = self._wait(transaction, slot, method)
        asked = transaction.waited - waited
        if isinstance(answer, bytes):
            self._budget.earn(method.mean_cost or UNKNOWN)
            self._refetch(transaction, hash_, asked)
            return answer
        self._budget.spend(asked)
        if answer == Claim.OURS:
            transaction.claimed(hash_.key, field)
        return None

    def _ask(
        self, transaction: Transaction, slot: Slot, method: Method, *, claim: bool
    ) -> bytes | int | None:
        return transaction.waiting(
            self.remote.ask, slot.hash.key, slot.field, claim=claim, lease=_lease(method)
        )

    def _wait(self, transaction: Transaction, slot: Slot, method: Method) -> bytes | int | None:
        """Look again for a while, until whoever computes the value has sent it."""
        far, cost = self.remote.round_trip, method.mean_cost or UNKNOWN
        if cost < 2 * far:  # one to send it, one to look
            return None
        pause = max(_FIRST_PAUSE, far)
        left = min(PATIENCE + PATIENCE_FACTOR * cost, MAX_PATIENCE)
        while left > 0 and not transaction.has_waited_enough:
            began = time.monotonic()
            time.sleep(pause)
            pause = min(2 * pause, max(_LONGEST_PAUSE, far))
            answer = self._ask(transaction, slot, method, claim=not transaction.has_changed)
            if answer != Claim.THEIRS:
                return answer
            left -= time.monotonic() - began
        return None

    def _compute(self, transaction: Transaction, slot: Slot | None, call: Call) -> Any:
        before = transaction.number, transaction.epoch
        may_publish = slot is not None and transaction.is_in_step(call.container)
        waited = transaction.waited
        try:
            value, cost, looked_up = call.compute()
        except BaseException:
            if slot is not None:
                self._failed(transaction, slot)
            raise
        # A process that gets the value need not wait for that.
        cost = cost._replace(seconds=cost.seconds - (transaction.waited - waited))
        if before[0] != transaction.number:  # it ended one and began another
            if slot is not None:
                self._failed(transaction, slot)
            return value
        is_whole = before[1] == transaction.epoch and looked_up is not None
        is_edited = not is_whole or self._any_edited(transaction, looked_up or ())
        computed = Computed(value)
        if slot is not None:
            slot.counter.computed += 1
            slot.counter.spent += cost.seconds
            call.method.computed(cost.seconds)
            transaction.look_around()
            if (
                may_publish
                and not is_edited
                and transaction.is_in_step(call.container)
                and call.is_of_known_tables(slot.generation)
            ):
                computed.entry = self._entry(slot, call.method, value, cost)
            if computed.entry is None:
                transaction.give_up(slot.hash.key, slot.field)
        if not is_edited:
            is_encoded = computed.entry and self._codec(call.method).encode is encode
            computed.original = digest(value, computed.entry.data if is_encoded else None)
        transaction.keep(call.container, call.key, computed, cost.seconds)
        return value

    def _any_edited(self, transaction: Transaction, keys: Collection[Any]) -> bool:
        """Whether one of these values is no longer what it was computed as."""
        own = [(key, transaction.find(key)) for key in keys]
        for _key, computed in own:
            if computed is None or computed.original == b"":
                continue
            if computed.original is EDITED or digest(computed.value) != computed.original:
                return True
        return self.local.originals.any_edited(key for key, found in own if found is None)

    def _entry(self, slot: Slot, method: Method, value: Any, cost: Cost) -> Entry | None:
        try:
            data = self._encoded(method, value)
        except Exception as error:  # a codec's too: the value itself is fine
            slot.counter.rejected += 1
            method.refuse(str(error))
            _logger.debug("A value of %s stays local: %s", method.name, error)
            return None
        method.is_shareable = True
        return Entry(slot.vault, slot.hash.key, slot.field, data, slot.counter, cost)

    # -- verification ------------------------------------------------------------------------------

    def _verify(self, transaction: Transaction, slot: Slot, call: Call, found: Any) -> None:
        """Compute a value that was found in Redis again, and find out why if it is another one."""
        identity = self._codec(call.method).identity
        if identity is None or transaction.has_changed or transaction.is_of_verification:
            return
        try:
            differs = self._differs(slot, call, found, identity)
        except Exception:
            _logger.exception("A value of %s is not verified", call.method.name)
            return
        if differs:
            call.unless_explained(slot.generation, lambda: self._distrust(slot, call.method))

    def _differs(self, slot: Slot, call: Call, found: Any, identity: Callable[[Any], Any]) -> bool:
        """Whether a value that was found is another one when it is computed again."""
        with call.again(slot.generation) as again:
            if again is not None:
                value, looked_up = again.compute()
                if looked_up is not None and not self._any_edited(again.transaction, looked_up):
                    slot.counter.verified += 1
                    known = value if isinstance(value, Exception) else identity(value)
                    return not is_same(identity(found), known)
        return False

    def _distrust(self, slot: Slot, method: Method) -> None:
        """Share no value of a method any more, in any process."""
        if method.name in self.distrusted:
            return
        slot.counter.wrong += 1
        told = slot.field.hex()
        self.distrusted.add(method.name)
        is_noted = self.remote.note(self._distrusted_key, method.name, f"{time.time():.0f} {told}")
        _logger.error(
            "%s: a value of %s that another process had computed is wrong here (its arguments have "
            "the digest %s). The method depends on more than its arguments, so it is shared no more"
            " %s, until «odoo redis verify -d %s --trust %s»",
            self._database,
            method.name,
            told,
            "by any process" if is_noted else "by this process",
            self._database,
            method.name,
        )

    def trust(self, name: str) -> None:
        """Share a method again that was distrusted; processes learn it with the next signal."""
        self.distrusted.discard(name)
        self.remote.strike(self._distrusted_key, name)

    def _failed(self, transaction: Transaction, slot: Slot) -> None:
        """There is nothing to publish, nor to ask for again."""
        if len(slot.hash.failed) < _REMEMBERED_FAILURES:
            slot.hash.failed.add(slot.field)
        transaction.give_up(slot.hash.key, slot.field)

    # -- hashes ------------------------------------------------------------------------------------

    def forget_hashes(self) -> None:
        """Fetch each again when something is looked for in it."""
        self._hashes.clear()

    def _hash(
        self, container: str, generation: Generation, transaction: Transaction, vault: Vault
    ) -> Hash | None:
        """A container's hash, fetched when this process first looks for something in it.

        With it those of the other containers in use, or of all when this is the first: a far Redis
        is asked once after a change. A transaction that is not in step gets only what others have
        fetched: nobody will get what it computes in return.
        """
        is_first = not self._used
        self._used.add(container)
        key = self._key(container, generation, vault)
        found = self._hashes.get(key)
        if found is not None or not transaction.is_in_step(container):
            return found
        wanted = list(self.local.containers if is_first else self._used)
        keys = {self._key(each, generation, vault): each for each in wanted}
        missing = [each for each in keys if each not in self._hashes]
        self._budget.renew()
        began = time.monotonic()
        fetched = transaction.waiting(self.remote.fetch, [*missing, self._distrusted_key])
        took = time.monotonic() - began
        if fetched is None:
            fetched = [{} for _key in missing]
        else:
            self.distrusted = {name.decode() for name in fetched.pop()}
        for each, values in zip(missing, fetched, strict=True):
            self._hashes[each] = Hash(each, values, took)
            self._supersede(keys[each], generation, each)
        found = self._hashes[key]
        while len(self._hashes) > _REMEMBERED_HASHES:
            self._hashes.popitem(last=False)
        return found

    def _refetch(self, transaction: Transaction, hash_: Hash, asked: float) -> None:
        """Fetch a hash again once asking for single values has taken as long as that.

        :param asked: seconds that the last one took, which was found
        """
        hash_.asked += asked
        if hash_.asked < hash_.took:
            return
        began = time.monotonic()
        [values] = transaction.waiting(self.remote.fetch, [hash_.key]) or [{}]
        hash_.values = {name: value for name, value in values.items() if name not in hash_.known}
        hash_.took = max(time.monotonic() - began, 0.0 if hash_.values else 2 * hash_.took)
        hash_.asked = 0.0

    def _key(self, container: str, generation: Generation, vault: Vault) -> str:
        assert self.code is not None
        token = vault.digest(self.code.content + generation.token(container))
        return f"{self._prefix}{container}:{token.hex()}"

    def _supersede(self, container: str, generation: Generation, key: str) -> None:
        """Let the hash go that this one takes the place of."""
        line = container, generation.origin
        past = self._newest.get(line)
        if past is None or past[0].older_than(generation.ids):
            self._newest[line] = generation, key
            if past is not None and past[1] != key:
                self._hashes.pop(past[1], None)
                self._outbox.retire(past[1])

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
        bound = place(key, field)
        sealed = self.remote.ask(key, field, claim=False)
        if isinstance(sealed, bytes):
            with contextlib.suppress(CorruptRecordError):
                return vault.open(bound, sealed)[0]
        data = compute()
        self.remote.publish(key, [(field, vault.seal(bound, data, Cost()))])
        return data

    def _encoded(self, method: Method, value: Any) -> bytes:
        data = self._codec(method).encode(value)
        if self.code and not method.holds_places and self.code.names_a_place(data):
            raise NotShareableError("it holds the path of a file")
        return data

    def _codec(self, method: Method) -> ValueCodec:
        return self._codecs.get(method.name, PLAIN)


def _lease(method: Method) -> int:
    """Milliseconds that others wait for this process to compute one."""
    return min(LEASE, 100 + int(10_000 * (method.mean_cost or 1.0)))


def keys_of_containers(keys: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Per container, the keys that clear it: ``_CACHES_BY_KEY`` the other way round.

    >>> keys_of_containers({"default": ("default", "values"), "stable": ("stable", "default")})
    {'default': ('default', 'stable'), 'values': ('default',), 'stable': ('stable',)}
    """
    names = dict.fromkeys(name for group in keys.values() for name in group)
    return {name: tuple(key for key, group in keys.items() if name in group) for name in names}
