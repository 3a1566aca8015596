"""Cached values and their keys as bytes: what travels, what is refused, what hostile bytes do."""

import copyreg
import datetime
import functools
import itertools
import operator
import pickle
import random
import re
import struct
import sys
import threading
import time
import uuid
from collections import Counter, OrderedDict, UserDict, defaultdict
from decimal import Decimal
from enum import IntEnum
from types import SimpleNamespace

import odoo.http
import pytest
import werkzeug.wrappers
from addons.ormcache_round_trip.same import difference
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lxml import etree
from markupsafe import Markup
from odoo.addons.base.models.ir_qweb import QWebError
from odoo.addons.base.models.res_lang import LangData, LangDataDict
from odoo.exceptions import UserError
from odoo.fields import Domain
from odoo.http import Response
from odoo.models import BaseModel
from odoo.orm.domains import DomainBool, DomainCondition, DomainNot, OptimizationLevel
from odoo.orm.identifiers import NewId
from odoo.tools import SQL, LazyTranslate
from odoo.tools.constants import EXTERNAL_ASSET
from odoo.tools.misc import Collector, DotDict, OrderedSet, ReadonlyDict, frozendict
from odoo.tools.set_expression import SetDefinitions

from odoo.addons.redis_session_ormcache.codec import value as codec
from odoo.addons.redis_session_ormcache.codec.value import Vault, decode, encode, key_bytes
from odoo.addons.redis_session_ormcache.exceptions import (
    CorruptRecordError,
    ExpiredRecordError,
    NotShareableError,
)
from odoo.addons.redis_session_ormcache.http_patch import cached_values, ormcache, registry
from odoo.addons.redis_session_ormcache.ormcache import SharedOrmcache, Transaction

UTC = datetime.timezone.utc


@pytest.fixture(scope="module", autouse=True)
def _types():
    """The types of Odoo, as ``post_load`` registers them."""
    cached_values.check()
    cached_values.apply()


def ids(values):
    return [f"{number}-{type(value).__name__}" for number, value in enumerate(values)]


def table(values):
    """A test per value."""
    return pytest.mark.parametrize("value", values, ids=ids(values))


# -- what travels ----------------------------------------------------------------------------------

BUILTINS = [
    None,
    True,
    False,
    0,
    -1,
    2**200,
    0.0,
    -0.0,
    1.5,
    float("inf"),
    float("nan"),
    "",
    "text",
    "café \U0001f600 \x00",
    "\ud800 alone",
    b"",
    b"\x00\xff",
    bytearray(b"\x00\xff"),
    1 + 2j,
    (),
    (1, True, "1", 1.0, b"1"),
    [],
    [1, [2, [3, ()]]],
    {},
    {"b": 1, "a": 2},
    {(1, "x"): {1: {2: [{"y": None}]}}},
    set(),
    {1, "1", None},
    frozenset(),
    frozenset({(1, frozenset({2}))}),
    range(1, 10, 3),
    uuid.UUID(int=7),
    Decimal("1.10"),
    Decimal("-0"),
    Decimal("NaN"),
    OrderedDict([("b", 1), ("a", [2])]),
    defaultdict(list, {"a": [1]}),
    defaultdict(None, {"a": 1}),
    defaultdict(dict, {"a": defaultdict(set, {1: {2}})}),
]
TIMES = [
    datetime.date(2024, 2, 29),
    datetime.time(23, 59, 59, 999999),
    datetime.time(1, 2, tzinfo=UTC, fold=1),
    datetime.datetime(1, 1, 1),
    datetime.datetime(2024, 10, 27, 2, 30, 0, 1, fold=1),
    datetime.datetime(2024, 10, 27, 2, 30, tzinfo=UTC),
    datetime.timedelta(days=-1, seconds=3, microseconds=5),
]
MARKUP = [Markup("<b>&amp;</b>"), {"a": [Markup("x")]}, {Markup("key"): "key"}]
ODOO = [
    frozendict(),
    frozendict(b=1, a=frozendict(c=(1, frozendict()))),
    OrderedSet(),
    OrderedSet([3, 1, "2"]),
    ReadonlyDict({"b": 1, "a": ReadonlyDict({})}),
    LangData({"id": 1, "code": "en_US"}),
    LangDataDict({"en_US": LangData({"id": 1, "code": "en_US"})}),
    EXTERNAL_ASSET,
    [("/web/a.js", EXTERNAL_ASSET), ("/web/b.js", None)],
]
DOMAINS = [
    Domain.TRUE,
    Domain.FALSE,
    [Domain.TRUE, Domain.TRUE],
    Domain("a", "=", 1),
    Domain("a", "in", OrderedSet([1, 2])),
    Domain("a", "in", [1, "x", None]),
    Domain("a.b", "ilike", Markup("x")),
    Domain("day", ">=", datetime.date(2024, 1, 1)),
    ~Domain("a.b", "=", 1),
    Domain("a", "=", 1) & Domain("b", "=", 2) & Domain("c", "!=", False),
    Domain("a", "=", 1) | ~(Domain("b", "=", 2) & Domain("c.d", "<", 1.5)),
    Domain("a", "any", Domain("b", "any", Domain("c", "=", 1) | Domain("d", "=", 2))),
    Domain("a", "not any!", Domain.TRUE),
    Domain("a", "any", [("b", "=", 1)]),
]


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


# -- domains ---------------------------------------------------------------------------------------


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


def test_the_rules_of_a_database_select_the_same(env):
    """The domain of each model's rules gives the same query, before and after optimization."""
    user = env.ref("base.user_admin")
    seen = 0
    for name in sorted(set(env["ir.rule"].search([]).mapped("model_id.model"))):
        model = env[name].with_user(user)
        domain = env["ir.rule"].with_user(user)._compute_domain(name)
        for one in (domain, domain.optimize(model.sudo()), domain.optimize_full(model.sudo())):
            decoded = decode(encode(one))
            assert difference(one, decoded) is None
            if not model._abstract:
                seen += one is not Domain.TRUE
                queries = [model.sudo()._search(each).select().code for each in (one, decoded)]
                assert queries[0] == queries[1]
    assert seen > 10


# -- groups ----------------------------------------------------------------------------------------


def test_group_definitions_answer_the_same(env):
    """Those of a real database: parsed expressions, supersets, subsets, disjoint groups, keys."""
    original = env["res.groups"]._get_group_definitions()
    decoded = decode(encode(original))
    assert type(decoded) is SetDefinitions
    assert difference(original, decoded) is None
    groups = env["res.groups"].search([])
    references = [*groups.get_external_id().values(), "*", "no.such"]
    for group in groups.ids:
        for ask in ("get_superset_ids", "get_subset_ids", "get_disjoint_ids"):
            assert getattr(decoded, ask)([group]) == getattr(original, ask)([group])
    assert any(original.get_disjoint_ids([group]) for group in groups.ids)
    for one, other in itertools.product(references[:8] + references[-2:], repeat=2):
        for text in (one, f"{one},{other}", f"{one},!{other}", f"!{one},!{other}"):
            if text:
                parsed = original.parse(text, raise_if_not_found=False)
                again = decoded.parse(text, raise_if_not_found=False)
                assert parsed == again
                assert decoded.from_key(parsed.key) == again
                assert decoded.from_key(parsed.key).key == parsed.key
                assert [again.matches({group}) for group in groups.ids] == [
                    parsed.matches({group}) for group in groups.ids
                ]
    assert decoded.from_ids(groups.ids) == original.from_ids(groups.ids)


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


def test_the_groups_of_access_rights_stay_the_same(env):
    """For each model and mode: also none, and everybody."""
    own, Access = codec_of("_get_access_groups"), env["ir.model.access"]
    seen = set()
    groups = env["res.groups"].search([]).ids
    definitions = env["res.groups"]._get_group_definitions()
    originals = [definitions.empty, definitions.universe]
    for model, mode in itertools.product(env.registry, ["read", "write", "create", "unlink"]):
        originals.append(Access._get_access_groups(model, mode))
    for original in originals:
        decoded = own.decode(Access, own.encode(original))
        assert decoded == original
        assert hash(decoded) == hash(original)
        assert decoded.is_empty() == original.is_empty()
        assert decoded.is_universal() == original.is_universal()
        assert [decoded.matches({group}) for group in groups] == [
            original.matches({group}) for group in groups
        ]
        assert decoded & original == original
        assert (~decoded).key == (~original).key
        seen.add(original.key)
    assert len(seen) > 5


@pytest.mark.parametrize("data", [encode("((('x"), encode(1), encode("1"), b""], ids=range(4))
def test_what_names_no_groups_is_refused(env, data):
    """It counts as damaged: the access rights are read."""
    with pytest.raises(CorruptRecordError):
        codec_of("_get_access_groups").decode(env["ir.model.access"], data)


# -- compiled templates ----------------------------------------------------------------------------

ARCH = """
    <t t-set="total" t-value="0"/>
    <ul t-att-class="'many' if len(items) > 1 else 'one'" t-attf-id="list-{{ items[0] }}">
        <li t-foreach="items" t-as="item" t-key="item">
            <t t-set="total" t-value="total + item"/>
            <t t-call="test.part"><b t-out="item_index"/></t>
        </li>
    </ul>
    <p t-if="total &gt; 2" t-out="total"/><p t-else="">few</p>
    <i t-field="user.name"/><t t-out="[x for x in items if x in (lambda: items)()]"/>
"""


def codec_of(name):
    (own,) = [own for method, own in cached_values.codecs().items() if method.endswith(f".{name}")]
    return own


def round_trip(model, value):
    own = codec_of("_generate_code_cached")
    return own.decode(model, own.encode(value))


@pytest.fixture
def make_template(env):
    """Make a template; its identifier."""

    def make(name, arch):
        arch = f'<t t-name="{name}">{arch}</t>'
        View = env["ir.ui.view"]
        return View.create({"name": name, "key": name, "type": "qweb", "arch": arch}).id

    return make


@pytest.fixture
def travelled(env, monkeypatch):
    """From now on, templates come from another process; the identifiers of those that did."""

    def cached(self, ref):
        calls.append(ref)
        self.env.cr.cache.pop("_compile_batch_", None)  # trees, of which compiling leaves nothing
        return round_trip(self, self._generate_code_uncached(ref))

    def start():
        monkeypatch.setattr(type(env["ir.qweb"]), "_generate_code_cached", cached)
        return calls

    calls = []
    return start


def test_a_compiled_template_renders_the_same(env, make_template, travelled):
    """With conditions, loops, fields, and calls of other templates, which travelled as well."""
    qweb = env["ir.qweb"]
    made = [
        make_template("test.all", ARCH),
        make_template("test.part", '<em t-out="0"/>:<u t-out="item * 2"/>'),
    ]
    values = {"items": [1, 2, 3], "user": env.user}
    expected = qweb._render("test.all", values)
    assert "<em><b>2</b></em>:<u>6</u>" in expected
    calls = travelled()
    rendered = qweb._render("test.all", values)
    assert set(calls) == set(made)
    assert rendered == expected
    assert type(rendered) is type(expected)


def test_a_template_that_fails_says_the_same(env, make_template, travelled):
    """The error names the template, the node and the code, which travelled with it."""
    made = make_template("test.fails", '<p><i t-out="1 // 0"/></p>')

    def message():
        with pytest.raises(QWebError) as raised:
            env["ir.qweb"]._render("test.fails", {})
        return str(raised.value)

    expected = message()
    assert 't-out="1 // 0"' in expected
    calls = travelled()
    assert message() == expected
    assert made in calls


def test_a_transaction_that_may_not_cache_renders_a_template_again(env, make_template, monkeypatch):
    """Each time from the whole tree, of which compiling leaves nothing."""
    make_template("test.twice", '<p><i t-out="number"/></p>')
    shared = SharedOrmcache(None, "database", "prefix", {})
    shared.current_generation = lambda *_arguments: None
    transaction = Transaction(None, lambda: True)
    monkeypatch.setattr(ormcache.ormcache, "lookup", ormcache.lookup)
    monkeypatch.setattr(registry, "usable", lambda *_arguments: shared)
    monkeypatch.setattr(registry, "transaction", lambda *_arguments: transaction)
    for number in (1, 2):
        rendered = env["ir.qweb"]._render("test.twice", {"number": number})
        assert rendered == f"<p><i>{number}</i></p>"


def test_all_templates_of_a_database_come_back_the_same(env):
    """The code, its constants and its options."""
    qweb, seen = env["ir.qweb"], 0
    for view in env["ir.ui.view"].search([("type", "=", "qweb")]):
        value = qweb._generate_code_uncached(view.id)
        if value[1] != "not_found_template":
            seen += 1
            assert difference(value, round_trip(qweb, value)) is None, view.key
    assert seen > 20


def test_a_template_that_is_not_there_is_not_shared(env):
    """What stands for it is a function of the process that looked for it."""
    value = env["ir.qweb"]._generate_code_uncached("no.such_template")
    with pytest.raises(NotShareableError):
        round_trip(env["ir.qweb"], value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        encode(None),
        encode(("code", "name", {})),
        encode((b"code", "name", {})),
        encode((b"\xe3" + bytes(40), "name", {})),
        encode((b"i\x01\x00\x00\x00", "name", {})),
    ],
    ids=["nothing", "none", "text", "unknown type", "no code", "a number"],
)
def test_what_is_no_template_is_refused(env, data):
    """It counts as damaged: the template is compiled."""
    with pytest.raises(CorruptRecordError):
        codec_of("_generate_code_cached").decode(env["ir.qweb"], data)


TOKEN = "0123456789abcdef0123456789abcdef01234567o1798761600"
PAGE = """<script>odoo = {{csrf_token: "{0}", debug: ""}}</script>
<form><input type="hidden" name="csrf_token" value="{0}"/>{1}</form>"""


WEBSITE_PAGE = SimpleNamespace(_CACHE_DURATION=3600)


def page(more="", **headers):
    """As ``WebsitePage._get_response_cached`` gives it."""
    response = Response(headers={"X-Frame-Options": "SAMEORIGIN", **headers})
    response.response = [Markup(PAGE).format(TOKEN, more)]
    response.time = time.time()
    return response, (1, "en_US", "/", "")


def page_of_bytes():
    value = page()
    value[0].response = [b"<html/>"]
    return value


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


# -- what does not travel --------------------------------------------------------------------------


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Colour(IntEnum):
    RED = 1


class Moment(datetime.datetime):
    pass


class Pairs(dict):
    pass


def generator():
    yield 1


REFUSED = [
    Text("a"),
    Number(1),
    Colour.RED,
    Moment(2024, 1, 1),
    Pairs(a=1),
    Collector({"a": (1,)}),
    DotDict(a=1),
    UserDict(a=1),
    Counter("abc"),
    datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
    datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(), "Z")),
    defaultdict(lambda: 1),
    defaultdict(Text),
    defaultdict(list, a=Text("a")),
    len,
    generator,
    lambda: 1,
    functools.partial(len),
    "".join,
    operator.itemgetter(1),
    generator(),
    iter([1]),
    memoryview(b"a"),
    object(),
    object,
    int,
    Ellipsis,
    NotImplemented,
    sys,
    threading.Lock(),
    ValueError("a"),
    UserError("a"),
    SQL("SELECT 1"),
    NewId(),
    NewId(1),
    Domain.custom(to_sql=lambda model, alias, query: SQL("TRUE")),
    Domain("a", "any", Domain.custom(to_sql=lambda model, alias, query: SQL("TRUE"))),
    Domain("a", "in", SQL("SELECT 1")),
    OptimizationLevel.FULL,
    LazyTranslate("base")("Name"),
    etree.fromstring("<a/>"),
    BaseModel,
    odoo.http.Endpoint if hasattr(odoo.http, "Endpoint") else odoo.http.root,
    odoo.http.Response("a"),
    codec.Adapter("a", len, len),
]


@table(REFUSED)
def test_anything_else_is_refused(value):
    """A value that could not come back as it is stays in its process."""
    for whole in (value, [value], {"a": value}, frozendict(a=(value,)), OrderedDict(a=value)):
        with pytest.raises(NotShareableError):
            encode(whole)


def test_what_a_database_knows_is_refused(env):
    """Records, models, environments, cursors, fields and queries belong to a process."""
    users = env["res.users"]
    for value in (
        env.user,
        users,
        type(users),
        env,
        env.cr,
        env.registry,
        users._fields["name"],
        users._fields,
        users._search([]),
        Domain("id", "in", users._search([])),
        env["ir.http"]._generate_routing_rules,
        next(env["ir.http"]._generate_routing_rules(["web"], {}))[1],
        users.browse,
    ):
        with pytest.raises(NotShareableError):
            encode([value])


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
    assert vault.open(b"", vault.seal(b"", bytes(100_000), 0.0))[0] == bytes(100_000)
    with pytest.raises(NotShareableError):
        vault.seal(b"", random.Random(1).randbytes(1100), 0.0)


# -- keys ------------------------------------------------------------------------------------------

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


def test_records_are_keys_by_model_and_ids(env):
    """As recordsets compare: their order, user and context do not matter."""
    groups = env["res.groups"].search([], limit=3)
    assert len(groups) == 3
    same = [groups, groups.browse(reversed(groups.ids)), groups.sudo().with_context(a=1)]
    assert len({key_bytes((records,)) for records in same}) == 1
    others = [
        groups,
        groups[:2],
        groups.browse(),
        env["res.users"].browse(groups.ids),
        groups.ids and groups._ids,
        ("res.groups", frozenset(groups.ids)),
        ("BaseModel", ("res.groups", frozenset(groups.ids))),
        (("res.groups", frozenset(groups.ids)),),
    ]
    assert len({key_bytes(key) for key in others}) == len(others)
    with pytest.raises(NotShareableError):
        key_bytes((groups.new({}),))


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


@settings(max_examples=300, deadline=None)
@given(st.lists(keys, min_size=2, max_size=10))
@example([("a", "b"), ("a\n1\nb",)])
@example([("",), ()])
@example([((),), ()])
@example([b"\xed\xa0\x80", "\ud800"])
def test_no_two_keys_collide(many):
    """Bytes are equal exactly where keys are of the same types and equal."""
    assert len({key_bytes(key) for key in many}) == len({typed(key) for key in many})


# -- hostile bytes ---------------------------------------------------------------------------------

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
NOW = "__import__('tests.test_values').ran.append(1)"
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


def test_nothing_opens_that_was_not_sealed_for_its_place():
    """Of 100,000 values that were changed, cut, extended or mixed, none opens."""
    dice, vault, other = random.Random(1), Vault("secret"), Vault("another secret")
    places = [b"one", b"other", b""]
    plain = [b"", b"a", b"text" * 10, bytes(1000)]
    sealed = [(place, vault.seal(place, data, dice.random())) for place in places for data in plain]
    foreign = [other.seal(place, data, 0.0) for place in places for data in plain]
    assert all(vault.open(place, data) for place, data in sealed)

    def mutated():
        place, data = dice.choice(sealed)
        kind = dice.randrange(8)
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
        position = dice.randrange(len(data))
        changed = bytes([data[position] ^ 1 << dice.randrange(8)])
        return place, data[:position] + changed + data[position + 1 :]

    opened = 0
    for _ in range(100_000):
        try:
            vault.open(*mutated())
            opened += 1
        except CorruptRecordError:
            pass
    assert opened == 0


def test_what_is_sealed_is_not_taken_for_a_claim():
    """Whatever its random part is: a value would be there, and never be found."""
    vault = Vault("secret")
    assert not any(vault.seal(b"place", b"", 0.0).startswith(b"!") for _ in range(3000))


def test_a_name_of_data_is_the_databases_own():
    """Who has not the secret cannot tell which key a name stands for."""
    assert Vault("a").digest(b"key") == Vault("a").digest(b"key")
    assert Vault("a").digest(b"key") != Vault("b").digest(b"key")
    assert len(Vault("a").digest(b"key" * 1000)) == codec.FIELD_LENGTH


# -- the comparison itself -------------------------------------------------------------------------


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
    ids=str,
)
def test_differences_are_found(one, other):
    """The comparison that the tests above rely on sees types, order and identity."""
    assert difference([one], [other])


def test_a_lost_identity_is_a_difference():
    """So it sees what was one object, and is two."""
    shared = [1]
    assert difference([shared, shared], [[1], [1]])
    assert difference([shared, shared], [shared, shared]) is None
