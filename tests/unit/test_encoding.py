"""Cached values as bytes: what comes back the same, and what is refused."""

import random
import re
import time
from collections import OrderedDict, defaultdict

import pytest
import werkzeug.wrappers
from addons.ormcache_round_trip.same import difference
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from odoo.addons.base.models.res_lang import LangData, LangDataDict
from odoo.fields import Domain
from odoo.orm.domains import DomainBool, DomainCondition, DomainNot, OptimizationLevel
from odoo.tools import SQL
from odoo.tools.misc import OrderedSet, ReadonlyDict, frozendict
from odoo.tools.set_expression import SetDefinitions

from odoo.addons.redis_session_ormcache.codec import value as codec
from odoo.addons.redis_session_ormcache.codec.value import Cost, Vault, decode, encode
from odoo.addons.redis_session_ormcache.exceptions import (
    CorruptRecordError,
    ExpiredRecordError,
    NotShareableError,
)
from odoo.addons.redis_session_ormcache.tests.support.values import (
    BUILTINS,
    DOMAINS,
    MARKUP,
    ODOO,
    REFUSED,
    TIMES,
    TOKEN,
    UTC,
    WEBSITE_PAGE,
    codec_of,
    page,
    page_of_bytes,
    table,
)

pytestmark = pytest.mark.usefixtures("odoo_types")


@table(BUILTINS + TIMES + MARKUP + ODOO + DOMAINS)
def test_a_value_comes_back_the_same(value):
    """It is equal to what went in, and of the same types at every depth."""
    assert difference(value, decode(encode(value))) is None


@table(BUILTINS + TIMES + MARKUP + ODOO + DOMAINS)
def test_a_value_comes_back_the_same_from_within_another(value):
    """So it is inside of each container that cached values are made of."""
    whole = [(value,), {"key": value}, frozendict(key=value), defaultdict(list, key=[value])]
    assert difference(whole, decode(encode(whole))) is None


moments = st.datetimes(timezones=st.sampled_from([None, UTC]))
leaves = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    *(st.binary(), st.dates(), moments, st.timedeltas()),
    *(st.decimals(allow_nan=False), st.text().map(Markup)),
)
hashable = st.recursive(
    leaves,
    lambda inner: st.lists(inner).map(tuple) | st.frozensets(inner),
    max_leaves=5,
)
nested = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.sets(hashable),
        st.lists(hashable).map(OrderedSet),
        *(
            st.dictionaries(hashable, inner).map(cls)
            for cls in (dict, frozendict, OrderedDict, ReadonlyDict)
        ),
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(nested)
def test_any_value_made_of_these_comes_back_the_same(value):
    """However they are nested."""
    assert difference(value, decode(encode(value))) is None


def test_what_comes_back_is_another_object():
    """Whoever changes what was computed does not change what was shared."""
    value = {"a": [1], "b": frozendict(c=[2])}
    data = encode(value)
    value["a"].append(2)
    value["b"]["c"].append(3)
    assert decode(data) == {"a": [1], "b": {"c": [2]}}


@pytest.mark.parametrize(
    "shared", [[1], {"a": 1}, {1}, OrderedSet([1]), frozendict(a=[1])], ids=str
)
def test_an_object_in_two_places_stays_one(shared):
    """What is shared inside of one value is shared in what comes back."""
    one, other = decode(encode([shared, {"other": shared}]))
    assert one is other["other"]
    one, other = decode(encode((OrderedDict(a=shared), frozendict(a=shared))))
    assert one["a"] is other["a"]


def test_equal_objects_do_not_become_one():
    """What is apart stays apart."""
    one, other = decode(encode([[1], [1]]))
    assert one == other
    assert one is not other


def test_a_list_in_itself_comes_back():
    """Containers that pickle knows may hold themselves."""
    value = []
    value.append(value)
    decoded = decode(encode(value))
    assert decoded[0] is decoded


def test_a_default_factory_still_makes_values():
    """A missing key of a defaultdict gets a value of its own."""
    decoded = decode(encode(defaultdict(list)))
    decoded["a"].append(1)
    assert decoded == {"a": [1]}
    with pytest.raises(KeyError):
        decode(encode(defaultdict(None)))["a"]


def test_a_missing_language_is_a_false_one():
    """As LangDataDict has it: the keys of a language there is, and nothing in them."""
    languages = LangDataDict({"en_US": LangData({"id": 1, "code": "en_US"})})
    decoded = decode(encode(languages))
    assert decoded["en_US"].code == "en_US"
    assert decoded["en_US"]
    assert not decoded["xx_XX"]
    assert decoded["xx_XX"].code is False
    assert "xx_XX" not in decoded
    with pytest.raises(AttributeError):
        _ = decoded["en_US"].nothing
    with pytest.raises(TypeError):
        decoded["en_US"]["code"] = "fr_FR"


def test_frozendicts_stay_frozen_and_hash_alike():
    """They may be keys afterwards, and nobody writes into them."""
    value = frozendict(a=1, b=frozendict())
    decoded = decode(encode(value))
    assert hash(decoded) == hash(value)
    with pytest.raises(NotImplementedError):
        decoded["c"] = 1


def test_constant_domains_are_the_constants():
    """TRUE and FALSE are compared by identity."""
    assert decode(encode(Domain.TRUE)) is Domain.TRUE
    assert decode(encode([Domain.FALSE]))[0] is Domain.FALSE
    assert type(Domain.TRUE) is DomainBool


@pytest.mark.parametrize("level", OptimizationLevel)
def test_a_domain_keeps_its_optimization_level(level):
    """Up to the one that holds in all transactions: what was not optimized is not taken for it."""
    inner = DomainCondition("b", "=", 1)
    for domain in (
        DomainCondition("a", "in", [1]),
        DomainNot(inner),
        inner & DomainCondition("c", "=", 1),
        inner | DomainCondition("c", "=", 1),
    ):
        object.__setattr__(domain, "_opt_level", level)
        decoded = decode(encode(domain))
        assert decoded._opt_level is min(level, OptimizationLevel.BASIC)
        assert decoded == domain
    assert inner._opt_level is OptimizationLevel.NONE


def test_groups_that_are_disjoint_stay_so():
    """Disjoint sets and supersets, given once, hold for all below."""
    original = SetDefinitions(
        {
            1: {"ref": "a", "supersets": [2]},
            2: {"ref": "b", "disjoints": [3]},
            3: {"ref": "c", "supersets": (4,)},
            4: {"ref": "4"},
        }
    )
    decoded = decode(encode(original))
    assert difference(original, decoded) is None
    assert decoded.get_disjoint_ids([1]) == [3]
    assert decoded.get_superset_ids([1, 3]) == [2, 4]


def test_a_page_comes_back_the_same_without_its_visitors_token():
    """Odoo puts another visitor's in the places where it was."""
    own, value = codec_of("_get_response_cached"), page()
    data = own.encode(value)
    assert TOKEN.encode() not in data
    response, key = decoded = own.decode(WEBSITE_PAGE, data)
    assert difference(value, decoded) is None
    assert key == value[1]
    html = response.response[0]
    for pattern in (r'csrf_token: "[^"]+"', r'name="csrf_token" value="[^"]+"'):
        assert len(re.findall(pattern, html)) == 1
    assert TOKEN in value[0].response[0]


@pytest.mark.parametrize(
    "value",
    [
        page(Markup('<a href="/leave?token={}"/>').format(TOKEN)),
        page(**{"Set-Cookie": "visitor=1"}),
        (werkzeug.wrappers.Response("plain"), ()),
        page_of_bytes(),
    ],
    ids=["a token elsewhere", "a cookie", "another type", "bytes"],
)
def test_a_page_of_one_visitor_is_not_shared(value):
    """What Odoo would not replace, or belongs to the answer to one request."""
    with pytest.raises(NotShareableError):
        codec_of("_get_response_cached").encode(value)


@pytest.mark.parametrize("data", [b"", encode(None), encode(("a", "b")), encode(tuple("abcde"))])
def test_what_is_no_page_is_refused(data):
    """It counts as damaged: the page is rendered."""
    with pytest.raises(CorruptRecordError):
        codec_of("_get_response_cached").decode(WEBSITE_PAGE, data)


def test_a_page_that_odoo_would_not_serve_any_more_is_expired():
    """It is rendered, and takes the old one's place."""
    own, value = codec_of("_get_response_cached"), page()
    value[0].time = time.time() - 3601
    with pytest.raises(ExpiredRecordError):
        own.decode(WEBSITE_PAGE, own.encode(value))


@table(REFUSED)
def test_anything_else_is_refused(value):
    """A value that could not come back as it is stays in its process."""
    for whole in (value, [value], {"a": value}, frozendict(a=(value,)), OrderedDict(a=value)):
        with pytest.raises(NotShareableError):
            encode(whole)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda value: [value],
        lambda value: (value,),
        lambda value: {"a": value},
        lambda value: frozendict(a=value),
        lambda value: ReadonlyDict({"a": value}),
        lambda value: OrderedDict(a=value),
        DomainNot,
    ],
    ids=["list", "tuple", "dict", "frozendict", "ReadonlyDict", "OrderedDict", "DomainNot"],
)
def test_a_value_that_is_too_deep_is_refused(wrap):
    """Deeper than Python recurses: no crash."""
    value = Domain("a", "=", 1)
    for _ in range(100_000):
        value = wrap(value)
    with pytest.raises(NotShareableError, match="RecursionError"):
        encode(value)


def test_what_an_adapter_raises_is_a_refusal():
    """Nobody's method fails because its value could not be encoded."""
    broken = ReadonlyDict({})
    del broken._data__
    with pytest.raises(NotShareableError, match="AttributeError"):
        encode(broken)


def test_a_refusal_names_the_type():
    """Whoever reads the log finds what kept a value from being shared."""
    with pytest.raises(NotShareableError, match=r"^odoo\.tools\.sql\.SQL$"):
        encode({"a": [SQL("TRUE")]})


def test_a_value_that_is_too_big_is_refused(monkeypatch):
    """By what it takes in Redis: compressed."""
    monkeypatch.setattr(codec, "MAX_VALUE", 1000)
    vault = Vault("secret")
    assert vault.open(b"", vault.seal(b"", bytes(100_000), Cost(0.5, 7))) == (
        bytes(100_000),
        Cost(0.5, 7),
    )
    with pytest.raises(NotShareableError):
        vault.seal(b"", random.Random(1).randbytes(1100), Cost())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        ("a", Markup("a")),
        ([1], (1,)),
        ([1], [1, 2]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": 1}, {"a": True}),
        ({1: "a"}, {True: "a"}),
        ({"a": 1}, frozendict(a=1)),
        ({"a": 1}, {"a": 1, "b": 1}),
        ({1}, {True}),
        ({1}, {1, 2}),
        ({1}, frozenset({1})),
        (OrderedSet([1, 2]), OrderedSet([2, 1])),
        (defaultdict(list), defaultdict(dict)),
        (ReadonlyDict({"a": 1}), ReadonlyDict({"a": True})),
        (ReadonlyDict({"a": 1}), LangData({"a": 1})),
        (Domain("a", "=", 1), Domain("a", "=", True)),
        (Domain("a", "=", 1) & Domain("b", "=", 1), Domain("a", "=", 1) | Domain("b", "=", 1)),
        (SetDefinitions({1: {"ref": "a"}}), SetDefinitions({1: {"ref": "b"}})),
        (
            SetDefinitions({1: {"ref": "a"}, 2: {"ref": "b"}}),
            SetDefinitions({1: {"ref": "a", "supersets": [2]}, 2: {"ref": "b"}}),
        ),
        (lambda: 1, lambda: 2),
        (object(), object()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_differences_are_found(one, other):
    """The comparison that the tests above rely on sees types, order and identity."""
    assert difference([one], [other])


def test_a_lost_identity_is_a_difference():
    """So it sees what was one object, and is two."""
    shared = [1]
    assert difference([shared, shared], [[1], [1]])
    assert difference([shared, shared], [shared, shared]) is None
