"""Cache keys as bytes: equal exactly where Odoo's cache takes them for equal."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from odoo.addons.redis_session_ormcache.codec.value import decode, encode, key_bytes
from odoo.addons.redis_session_ormcache.exceptions import (
    NotShareableError,
)
from odoo.addons.redis_session_ormcache.tests.support.dose import dose
from odoo.addons.redis_session_ormcache.tests.support.values import (
    MARKUP,
    ODOO,
    REFUSED,
    TIMES,
    Number,
    Text,
    table,
)

pytestmark = pytest.mark.usefixtures("odoo_types")

KEYS = [
    None, True, False, 1, 0, -1, 1.0, 0.0, -0.0, float("inf"), float("nan"), "1", "", "None",
    "True", b"1", b"", (), (1,), ("1",), ((1,),), (1, 1), ((1,), 1), (1, (1,)), ("a", "bc"),
    ("ab", "c"), ("abc",), frozenset(), frozenset({1}), frozenset({"1"}), frozenset({(1,)}),
    (frozenset({1}),),
    "\ud800", "\ud800".encode("utf-8", "surrogatepass"), "\udfff", "é", "é".encode(), "e\u0301",
    "1\n1", "int 1\n1\n1", 10**5000, -(10**5000), 2**64, -(2**64),
]  # fmt: skip


def test_keys_that_differ_in_value_or_type_are_different_bytes():
    """Though some are equal to Python: 1 and True, 0.0 and -0.0."""
    made = [key_bytes(key) for key in KEYS]
    assert len(set(made)) == len(KEYS)


@table(KEYS)
def test_a_key_is_the_same_bytes_again(value):
    """Another process asks for what one has published."""
    copy = decode(encode(value))
    assert key_bytes(copy) == key_bytes(value)
    assert key_bytes((copy, (copy,))) == key_bytes((value, (value,)))


def test_the_order_of_a_set_is_not_part_of_the_key():
    """Sets of equal elements are equal, however they were filled."""
    numbers = [2**40 * number for number in range(50)]
    keys = {key_bytes(frozenset(order)) for order in (numbers, reversed(numbers), set(numbers))}
    assert len(keys) == 1
    mixed = ["a", 1, None, (2,), frozenset({3}), b"a"]
    assert key_bytes(frozenset(mixed)) == key_bytes(frozenset(reversed(mixed)))


@table([*REFUSED, *MARKUP, *TIMES, *ODOO, [1], {1}, (1, [2]), (Text("a"),), frozenset({Number(1)})])
def test_a_key_of_another_type_is_refused(value):
    """Nothing is known of how it compares."""
    with pytest.raises(NotShareableError):
        key_bytes(("name", value))


confusing = st.text(alphabet="01\n str int tuple()'") | st.text(st.characters(codec=None))
key_parts = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), confusing, st.binary()),
    confusing.map(lambda text: text.encode("utf-8", "surrogatepass")),
)
keys = st.recursive(
    key_parts, lambda inner: st.lists(inner).map(tuple) | st.frozensets(inner), max_leaves=8
)


def typed(key):
    """What is equal for two keys only if they are of the same types and equal."""
    if type(key) is tuple:
        return tuple, tuple(map(typed, key))
    if type(key) is frozenset:
        return frozenset, frozenset(map(typed, key))
    return type(key), repr(key)


@settings(max_examples=dose(300, 10_000), deadline=None)
@given(st.lists(keys, min_size=2, max_size=10))
@example([("a", "b"), ("a\n1\nb",)])
@example([("",), ()])
@example([((),), ()])
@example([b"\xed\xa0\x80", "\ud800"])
def test_no_two_keys_collide(many):
    """Bytes are equal exactly where keys are of the same types and equal."""
    assert len({key_bytes(key) for key in many}) == len({typed(key) for key in many})
