"""A store in Redis for the library ``python3-openid``, so that OpenID 2.0 works on several nodes.

An association holds the secret that messages are signed with. It is sealed with a key that Redis
never sees, as cached values are, and opens only where it was stored. All keys have one hash tag, so
that Redis Cluster keeps them together.

>>> store = RedisOpenIDStore(redis.Redis.from_url(url), secret)     # doctest: +SKIP
>>> consumer = openid.consumer.consumer.Consumer(session, store)    # doctest: +SKIP
"""

import logging
import time
from hashlib import blake2b
from typing import Any

from openid.association import Association
from openid.store import nonce
from openid.store.interface import OpenIDStore

from odoo.addons.redis_session_ormcache.codec.value import Cost, Vault
from odoo.addons.redis_session_ormcache.exceptions import CorruptRecordError

_logger = logging.getLogger(__name__)

LEAST_SECRET = 32  # characters
LEAST_TTL = 60  # seconds


class RedisOpenIDStore(OpenIDStore):  # type: ignore[misc]
    """Mirrors ``openid.store.memstore.MemoryStore``, for all processes.

    :param client: a redis-py client, of a cluster too; its answers are bytes
    :param secret: the same on all nodes; of 32 characters at least
    :param prefix: what every key begins with
    """

    def __init__(self, client: Any, secret: str, prefix: str = "openid") -> None:
        if len(secret) < LEAST_SECRET:
            raise ValueError(f"The secret has less than {LEAST_SECRET} characters")
        self._client, self._vault = client, Vault(secret)
        self._prefix = f"{{{prefix}}}"

    # -- associations: a hash for each server; a set that names the hashes

    def storeAssociation(self, server_url: str, association: Association) -> None:
        """Keep it until it expires, in place of those of its server that have."""
        key, field = self._place(server_url, association.handle)
        sealed = self._vault.seal(key.encode() + field, association.serialize(), Cost())
        expires, now = association.issued + association.lifetime, int(time.time())
        others = {other: _expires(value) for other, value in self._client.hgetall(key).items()}
        expired = [other for other, when in others.items() if when <= now]
        with self._client.pipeline() as pipeline:
            if expired:
                pipeline.hdel(key, *expired)
            pipeline.hset(key, field, b"%d %b" % (expires, sealed))
            pipeline.expireat(key, max(now + LEAST_TTL, expires, *others.values()))
            pipeline.sadd(self._servers, key)
            pipeline.execute()

    def getAssociation(self, server_url: str, handle: str | None = None) -> Association | None:
        """The newest one where no handle is given; never one that has expired."""
        if handle is None:
            key = self._key(server_url)
            found = [self._opened(key, *item) for item in self._client.hgetall(key).items()]
        else:
            key, field = self._place(server_url, handle)
            found = [self._opened(key, field, self._client.hget(key, field))]
        valid = [each for each in found if each is not None and each.expiresIn > 0]
        return max(valid, key=lambda each: each.issued, default=None)

    def removeAssociation(self, server_url: str, handle: str) -> bool:
        return bool(self._client.hdel(*self._place(server_url, handle)))

    def cleanupAssociations(self) -> int:
        """Remove those that have expired; how many."""
        removed = 0
        for key in self._client.smembers(self._servers):
            found = self._client.hgetall(key)
            gone = [field for field, value in found.items() if _expires(value) <= time.time()]
            removed += self._client.hdel(key, *gone) if gone else 0
            if len(gone) == len(found):
                self._client.srem(self._servers, key)
        return removed

    def _opened(self, key: str, field: bytes, value: bytes | None) -> Association | None:
        if value is None:
            return None
        try:
            data, _cost = self._vault.open(key.encode() + field, value.partition(b" ")[2])
        except CorruptRecordError as error:
            _logger.warning("An association is refused: %s", error)
            return None
        return Association.deserialize(data)

    def _place(self, server_url: str, handle: str) -> tuple[str, bytes]:
        return self._key(server_url), self._vault.digest(handle.encode())

    def _key(self, server_url: str) -> str:
        return f"{self._prefix}:associations:{self._vault.digest(server_url.encode()).hex()}"

    @property
    def _servers(self) -> str:
        return f"{self._prefix}:servers"

    # -- nonces: members of one sorted set, by their time

    def useNonce(self, server_url: str, timestamp: int, salt: str) -> bool:
        """Whether nobody used it before, on any node, and its time is within ``nonce.SKEW``."""
        now = time.time()
        if abs(timestamp - now) > nonce.SKEW:
            return False
        parts = "\0".join((server_url, str(timestamp), salt))
        member = blake2b(parts.encode(), digest_size=16).digest()
        with self._client.pipeline() as pipeline:
            pipeline.zremrangebyscore(self._nonces, "-inf", f"({now - nonce.SKEW}")
            pipeline.zadd(self._nonces, {member: timestamp}, nx=True)
            pipeline.expire(self._nonces, 2 * nonce.SKEW + 1)
            return bool(pipeline.execute()[1])

    def cleanupNonces(self) -> int:
        """Remove those that are too old to be taken; how many."""
        oldest = time.time() - nonce.SKEW
        return int(self._client.zremrangebyscore(self._nonces, "-inf", f"({oldest}"))

    @property
    def _nonces(self) -> str:
        return f"{self._prefix}:nonces"


def _expires(value: bytes) -> int:
    """When an association does: this part is not sealed, for it is needed to tidy up."""
    return int(value.partition(b" ")[0])
