"""Bytes that somebody else wrote: nothing is run, nothing opens."""

import copyreg
import functools
import pickle
import random
import struct

import pytest
from odoo.fields import Domain
from odoo.tools.misc import frozendict

from odoo.addons.redis_session_ormcache.codec import value as codec
from odoo.addons.redis_session_ormcache.codec.value import Cost, Vault, decode, encode
from odoo.addons.redis_session_ormcache.exceptions import (
    CorruptRecordError,
)
from odoo.addons.redis_session_ormcache.tests.support.dose import dose
from odoo.addons.redis_session_ormcache.tests.support.values import (
    Text,
)

pytestmark = pytest.mark.usefixtures("odoo_types")

ran = []


def run(*_arguments):
    ran.append(1)
    return ran


class Calls:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def called(function, *arguments, protocol=5):
    return pickle.dumps(Calls(function, *arguments), protocol)


def text(word):
    return b"\x8c" + struct.pack("<B", len(word)) + word.encode()


def stack_global(module, name):
    return text(module) + text(name) + b"\x93"


OURS = codec.__name__
BUILD = stack_global(OURS, "_build")
NOW = f"__import__({__name__!r}, fromlist=['ran']).ran.append(1)"
GLOBALS = [
    ("os", "system"),
    ("posix", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "dict"),
    ("builtins", "object"),
    ("__builtin__", "eval"),
    ("copyreg", "_reconstructor"),
    ("copyreg", "__newobj__"),
    ("copy_reg", "_reconstructor"),
    ("functools", "partial"),
    ("operator", "attrgetter"),
    ("pickle", "loads"),
    ("marshal", "loads"),
    ("types", "FunctionType"),
    ("odoo.tools.safe_eval", "safe_eval"),
    ("odoo.api", "Environment"),
    (OURS, "pickle.loads"),
    (OURS, "register"),
    (OURS, "decode"),
    (OURS, "Vault"),
    (OURS, "_by_name"),
    (OURS, "_build.__globals__"),
    (OURS, "_Unpickler"),
    ("", "_build"),
    (__name__, "run"),
]
HOSTILE = {
    "reduce": called(run),
    **{f"protocol {number}": called(run, protocol=number) for number in range(5)},
    "eval": called(eval, NOW),
    "exec": called(exec, NOW),
    "partial": called(functools.partial, run),
    "reconstructor": called(copyreg._reconstructor, Text, str, "a"),
    "type": called(type, "A", (), {}),
    "getattr": called(getattr, [], "append"),
    **{
        f"{word} {module}.{name}": data
        for module, name in GLOBALS
        for word, data in {
            "GLOBAL": f"c{module}\n{name}\n.".encode(),
            "STACK_GLOBAL": b"\x80\x05" + stack_global(module, name) + b".",
            "INST": f"(S'true'\ni{module}\n{name}\n.".encode(),
            "OBJ": b"\x80\x05(" + stack_global(module, name) + text("true") + b"o.",
            "NEWOBJ": b"\x80\x05" + stack_global(module, name) + b")\x81.",
            "NEWOBJ_EX": b"\x80\x05" + stack_global(module, name) + b")}\x92.",
        }.items()
    },
    "STACK_GLOBAL of numbers": b"\x80\x05K\x01K\x01\x93.",
    "OBJ of ours": b"\x80\x05(" + BUILD + text("none") + b"o.",
    "NEWOBJ of ours": b"\x80\x05" + BUILD + b")\x81.",
    "INST of ours": f"(S'none'\ni{OURS}\n_build\n.".encode(),
    "unknown name": b"\x80\x05" + BUILD + text("os.system") + b"\x85R.",
    "no name": b"\x80\x05" + BUILD + b")R.",
    "a name that does not hash": b"\x80\x05" + BUILD + b"]\x85R.",
    "wrong parts": b"\x80\x05" + BUILD + text("uuid.UUID") + text("x") + b"\x86R.",
    "too many parts": b"\x80\x05" + BUILD + text("decimal.Decimal") + b"KKK\x87R.",
    "unknown object": b"\x80\x05" + BUILD + text("builtins.object") + text("x") + b"\x86R.",
    "attributes of ours": b"\x80\x05" + BUILD + b"N}" + text("__name__") + text("x") + b"s\x86b.",
    "dictionary of ours": b"\x80\x05" + BUILD + b"}" + text("x") + text("y") + b"sb.",
    "items of ours": b"\x80\x05" + BUILD + b"(K\x01K\x01u.",
    "appended to ours": b"\x80\x05" + BUILD + b"K\x01a.",
    "added to ours": b"\x80\x05" + BUILD + b"(K\x01\x90.",
    "attributes of a constant": b"\x80\x05"
    + BUILD
    + text("odoo.orm.domains.DomainBool")
    + b"\x88\x86RN}"
    + text("value")
    + b"\x89s\x86b.",
    "EXT1": b"\x80\x05\x82\xf0.",
    "EXT2": b"\x80\x05\x83\xf0\xf0.",
    "EXT4": b"\x80\x05\x84\xf0\xf0\x00\x00.",
    "registered EXT1": b"\x80\x05\x82\xf1)R.",
    "PERSID": b"Pa\n.",
    "BINPERSID": b"\x80\x05K\x01Q.",
    "buffer": b"\x80\x05\x97.",
    "read-only buffer": b"\x80\x05K\x01\x98.",
    "protocol of the future": b"\x80\xff.",
    "nothing": b"",
    "a stop only": b".",
    "no mark": b"t.",
    "unknown opcode": b"\xff\xff.",
    "an empty memo": b"h\x07.",
    "longer than it is": b"\x80\x05\x8e" + struct.pack("<Q", 2**62) + b"a.",
    "text longer than it is": b"\x80\x05\x8d" + struct.pack("<Q", 2**63 - 1) + b"a.",
    "a frame longer than it is": b"\x80\x05\x95" + struct.pack("<Q", 2**40) + b"N.",
    "a number longer than it is": b"\x80\x05\x8b" + struct.pack("<i", 2**31 - 1) + b"a.",
    "a negative length": b"\x80\x05\x8b" + struct.pack("<i", -1) + b"a.",
    "unhashable": b"\x80\x05}]]s.",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_pickle_made_elsewhere_is_refused(data):
    """It names something else than the one function, or does something else with it."""
    copyreg.add_extension(__name__, "run", 0xF1)
    before = dict(vars(codec))
    try:
        with pytest.raises(CorruptRecordError):
            decode(data)
    finally:
        copyreg.remove_extension(__name__, "run", 0xF1)
    assert not ran
    assert vars(codec) == before
    assert decode(encode(frozendict(a=1))) == {"a": 1}
    assert Domain.TRUE.value is True


def test_a_pickle_that_refers_to_itself_a_lot_stays_small():
    """What is named again and again is one object."""
    data = b"\x80\x05]\x94" + b"".join(
        b"](" + b"h" + struct.pack("<B", level) + (b"h" + struct.pack("<B", level)) * 9 + b"e\x94"
        for level in range(200)
    )
    value = decode(data + b".")
    for _ in range(200):
        assert len(value) == 10
        value = value[0]
    assert value == []


def test_no_part_of_a_pickle_is_a_pickle():
    """Whatever is cut off."""
    data = encode({"a": [1, "x", b"y" * 300, Domain("a", "=", 1)], "b": frozendict(c=1.5)})
    for length in range(len(data)):
        with pytest.raises(CorruptRecordError):
            decode(data[:length])


def test_nothing_opens_that_was_not_sealed_for_its_place(seed):
    """Of all values that were changed, cut, extended or mixed, none opens."""
    dice, vault, other = random.Random(seed), Vault("secret"), Vault("another secret")
    places = [b"one", b"two", b"other", b""]
    plain = [b"", b"a", b"text" * 10, bytes(1000)]
    sealed = [
        (place, vault.seal(place, data, Cost(dice.random(), dice.randrange(9))))
        for place in places
        for data in plain
    ]
    foreign = [other.seal(place, data, Cost()) for place in places for data in plain]
    assert all(vault.open(place, data) for place, data in sealed)

    def mutated():
        place, data = dice.choice(sealed)
        kind = dice.randrange(9)
        if kind == 0:
            return place, data[: dice.randrange(len(data))]
        if kind == 1:
            return place, data[dice.randrange(1, len(data)) :]
        if kind == 2:
            return place, data + dice.randbytes(dice.randrange(1, 20))
        if kind == 3:
            return place + dice.randbytes(1), data
        if kind == 4:
            return place, dice.choice(foreign)
        if kind == 5:
            head, tail = dice.sample(sealed, 2)
            return head[0], head[1][:12] + tail[1][12:]
        if kind == 6:
            return place, dice.randbytes(len(data))
        if kind == 7:
            return dice.choice([other for other in places if other != place]), data
        position = dice.randrange(len(data))
        changed = bytes([data[position] ^ 1 << dice.randrange(8)])
        return place, data[:position] + changed + data[position + 1 :]

    opened = 0
    for _ in range(dose(100_000, 1_000_000)):
        try:
            vault.open(*mutated())
            opened += 1
        except CorruptRecordError:
            pass
    assert opened == 0


def test_what_is_sealed_is_not_taken_for_a_claim():
    """Whatever its random part is: a value would be there, and never be found."""
    vault = Vault("secret")
    assert not any(vault.seal(b"place", b"", Cost()).startswith(b"!") for _ in range(3000))


def test_a_name_of_data_is_the_databases_own():
    """Who has not the secret cannot tell which key a name stands for."""
    assert Vault("a").digest(b"key") == Vault("a").digest(b"key")
    assert Vault("a").digest(b"key") != Vault("b").digest(b"key")
    assert len(Vault("a").digest(b"key" * 1000)) == codec.FIELD_LENGTH
