"""Values, and what of them can be shared."""

import datetime
import functools
import operator
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
from lxml import etree
from markupsafe import Markup
from odoo.addons.base.models.res_lang import LangData, LangDataDict
from odoo.exceptions import UserError
from odoo.fields import Domain
from odoo.http import Response
from odoo.models import BaseModel
from odoo.orm.domains import OptimizationLevel
from odoo.orm.identifiers import NewId
from odoo.tools import SQL, LazyTranslate
from odoo.tools.constants import EXTERNAL_ASSET
from odoo.tools.misc import Collector, DotDict, OrderedSet, ReadonlyDict, frozendict

from odoo.addons.redis_session_ormcache.codec import value as codec
from odoo.addons.redis_session_ormcache.http_patch import cached_values

UTC = datetime.timezone.utc


def ids(values):
    return [f"{number}-{type(value).__name__}" for number, value in enumerate(values)]


def table(values):
    """A test per value."""
    return pytest.mark.parametrize("value", values, ids=ids(values))


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


def codec_of(name):
    (own,) = [own for method, own in cached_values.codecs().items() if method.endswith(f".{name}")]
    return own


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
