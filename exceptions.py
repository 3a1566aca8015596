"""Every error of this addon. Knows nothing of Odoo or redis-py.

* Error
    * ConfigurationError      a setting is wrong: the server must not start
    * UnsupportedOdooError    a patched part of Odoo has another shape: the server must not start
    * UnsupportedDriverError  redis-py or hiredis is another one: the server must not start
    * ReplacedError           another addon replaced that part: the server must not start
    * CorruptRecordError      what Redis holds in a place was not written for it
    * NewerRecordError        a newer version of this addon wrote what Redis holds in a place
    * ExpiredRecordError      what Redis holds is right, and too old
    * NotShareableError       a cached value that no other process could use as it is
    * SecretUnavailableError  PostgreSQL did not say with which secret a session is sealed
    * OldStoreUnavailableError  where sessions were kept before did not answer
    * WrongTypeError          a Redis key holds another type than this addon writes
    * RedisUnavailableError   Redis did not answer: nothing is known of what it holds
        * RedisRefusedError   it answered, and refused: read-only, out of memory, not permitted
"""


class Error(Exception):
    """Base of all errors of this addon."""


class ConfigurationError(Error):
    """A setting is wrong; the message names it and says what is expected."""


class UnsupportedOdooError(Error):
    """A part of Odoo that this addon replaces is not what it was written for."""


class UnsupportedDriverError(Error):
    """redis-py or hiredis is not what this addon was written for."""


class ReplacedError(Error):
    """Another addon does in its own way what this one does; the message names it."""


class CorruptRecordError(Error):
    """What is stored does not open: damaged, forged, or moved from another place.

    :ivar database: of a session's record, the one whose secret does not open it; None otherwise
    """

    database: str | None = None


class NewerRecordError(Error):
    """What is stored has the format of a newer version of this addon."""


class ExpiredRecordError(Error):
    """What is stored was made for less time than has passed."""


class NotShareableError(Error):
    """A value holds something that cannot be carried faithfully; the message names it."""


class SecretUnavailableError(Error):
    """PostgreSQL did not say what the secret of a database is."""


class OldStoreUnavailableError(Error):
    """The former store did not say what it holds. Never to be taken for «not there»."""


class WrongTypeError(Error):
    """The Redis key exists and holds another type than the command works on."""


class RedisUnavailableError(Error):
    """Redis refused, timed out, or cannot serve now. Never to be taken for «not there».

    :ivar command: what it refused, or hung up on, in words that do not say that this passes; ""
        otherwise
    :ivar key: which it was about
    :ivar expected: what would be in order instead
    """

    command = expected = ""
    key: object = None


class RedisRefusedError(RedisUnavailableError):
    """Redis answered, and refused this command."""
