"""The types of Odoo that cached values are made of, and how each of them travels.

Several of them pickle without complaint and fail on load, or come back unequal; so each is taken
apart and put together here. What is not listed, and holds one of these, is not shared.
"""

import ast
import functools
import marshal
import re
import time
from types import FunctionType
from typing import Any

from odoo.addons.base.models import ir_model, ir_qweb, ir_ui_view
from odoo.addons.base.models.res_lang import LangData, LangDataDict
from odoo.http import Response
from odoo.models import BaseModel
from odoo.orm import domains
from odoo.orm.domains import (
    DomainAnd,
    DomainBool,
    DomainCondition,
    DomainNot,
    DomainOr,
    OptimizationLevel,
)
from odoo.tools.constants import EXTERNAL_ASSET
from odoo.tools.misc import OrderedSet, ReadonlyDict, frozendict
from odoo.tools.set_expression import SetDefinitions, Union

from ..codec.value import decode, encode, register, register_key
from ..exceptions import CorruptRecordError, ExpiredRecordError, NotShareableError
from ..ormcache import ValueCodec
from ..ormcache.policy import method_name
from ..ormcache.shared import plain_decode
from .generations import Rules
from .shape import require, require_source


def check() -> None:
    """Refuse an Odoo whose values are made in another way."""
    require(set(DomainCondition.__slots__) == _CONDITION_SLOTS, "DomainCondition has its slots")
    require(SetDefinitions.__slots__ == ("__leaves",), "SetDefinitions has leaves only")
    require(type(EXTERNAL_ASSET) is object, "EXTERNAL_ASSET is a plain object")
    require(ReadonlyDict.__slots__ == ("_data__",), "a ReadonlyDict has data only")
    require_source(
        "IrQweb._generate_code_uncached", ir_qweb.IrQweb._generate_code_uncached, "262e78b29464"
    )


def apply() -> None:
    """Register the types."""
    register(frozendict, lambda value: (dict(value),))
    register(OrderedSet, lambda value: (list(value),))
    for readonly in (ReadonlyDict, LangData, LangDataDict):
        register(readonly, lambda value: (value._data__,))
    register(DomainBool, lambda value: (value.value,), _build_bool)
    register(DomainNot, lambda value: (value.child, _level(value)), _build_not)
    register(DomainAnd, _reduce_nary, _nary_builder(DomainAnd))
    register(DomainOr, _reduce_nary, _nary_builder(DomainOr))
    register(DomainCondition, _reduce_condition, _build_condition)
    register(SetDefinitions, _reduce_definitions, _build_definitions)
    register(object, _reduce_object, _OBJECTS.__getitem__)
    register_key(BaseModel, _reduce_recordset)


def codecs() -> dict[str, ValueCodec]:
    """The methods whose values need a codec of their own, by module and qualified name."""
    found = {PAGE: ValueCodec(_encode_page, _decode_page, identity=None)}
    for method, codec in (
        (
            ir_qweb.IrQweb._generate_code_cached,
            ValueCodec(_encode_template, _decode_template, _code),
        ),
        (ir_ui_view.Base._get_view_cache, ValueCodec(encode, plain_decode, _view_parts)),
        (
            ir_model.IrModelAccess._get_access_groups,
            ValueCodec(_encode_union, _decode_union, _union_key),
        ),
    ):
        if cache := getattr(method, "__cache__", None):  # not there with --dev=xml
            found[method_name(cache.method)] = codec
    return found


# -- domains ---------------------------------------------------------------------------------------

_CONDITION_SLOTS = {"_field_instance", "field_expr", "operator", "value"}


def _build_bool(value: bool) -> Any:
    return domains._TRUE_DOMAIN if value else domains._FALSE_DOMAIN


def _level(domain: Any) -> int:
    """A domain that was optimized further is so for one moment of one transaction only."""
    return min(domain._opt_level, OptimizationLevel.BASIC).value  # type: ignore[no-any-return]


def _levelled(domain: Any, level: int) -> Any:
    object.__setattr__(domain, "_opt_level", OptimizationLevel(level))
    return domain


def _build_not(child: Any, level: int) -> Any:
    return _levelled(DomainNot(child), level)


def _reduce_nary(value: Any) -> tuple[Any, ...]:
    return value.children, _level(value)


def _nary_builder(cls: Any) -> Any:
    return lambda children, level: _levelled(cls(children), level)


def _reduce_condition(value: Any) -> tuple[Any, ...]:
    return value.field_expr, value.operator, value.value, _level(value)


def _build_condition(field_expr: str, operator: str, value: Any, level: int) -> Any:
    return _levelled(DomainCondition(field_expr, operator, value), level)


# -- groups ----------------------------------------------------------------------------------------


def _reduce_definitions(value: Any) -> tuple[Any, ...]:
    leaves = value._SetDefinitions__leaves
    return (
        {
            leaf.id: {
                "ref": leaf.ref,
                "supersets": sorted(leaf.supersets - {leaf.id}),
                "disjoints": sorted(leaf.disjoints),
            }
            for key, leaf in leaves.items()
            if key == leaf.id
        },
    )


def _build_definitions(definitions: dict[int, Any]) -> Any:
    return SetDefinitions(definitions)


def _encode_union(value: Any) -> bytes:
    """A union of groups by their ids: it keeps a hash, and the leaves of its definitions."""
    ids = {leaf.id for inter in value._Union__inters for leaf in inter.leaves}
    if type(value) is not Union or not all(type(i) is int or i == "*" for i in ids):
        raise NotShareableError("a union of unknown groups")
    return encode(value.key)


def _union_key(value: Any) -> Any:
    return value.key


def _decode_union(model: Any, data: bytes) -> Any:
    try:
        return model.env["res.groups"]._get_group_definitions().from_key(decode(data))
    except (KeyError, TypeError, ValueError, SyntaxError) as error:  # a group that is gone
        raise CorruptRecordError(f"it names other groups: {error}") from error


# -- views -----------------------------------------------------------------------------------------


def _view_parts(value: Any) -> Any:
    """Fields that a view needs and has not are added to it in the order of a set."""
    return {**value, "arch": sorted(value["arch"].split("<"))}


# -- domains of rules ------------------------------------------------------------------------------

DOMAIN = "odoo.addons.base.models.ir_rule.IrRule._compute_domain"
XMLID = "odoo.addons.base.models.ir_model.IrModelData._xmlid_lookup"
# Fields of its user that a rule may name and be shared: ormcache/tables.py has their tables.
_OF_USER = {"id", "ids", "partner_id.id", "company_id.id", "company_ids.ids", "all_group_ids.ids"}
_NAMES = {"user", "time", "company_id", "company_ids", "website", "str", "int", "list", "tuple"}


def depends_on_listed_tables(rules: Rules, model: Any, model_name: str, mode: str = "read") -> bool:
    """Whether ``IrRule._compute_domain`` got what it says of its user from few tables.

    A rule may follow any field of ``user``, as to the pickings of the partner's company.

    :param rules: all that were in force when the domain was computed, as ``IrRule._get_rules`` has
        them one model at a time, for the price of a query
    """
    if model.env.su:  # has none
        return True
    names = [model_name]
    for name in names:
        names += model.env[name]._inherits
    groups = set(model.env.user._get_group_ids())
    return all(
        says_little_of_user(rule.domain)
        for name in dict.fromkeys(names)
        for rule in rules.get(name, ())
        if mode in rule.modes and (rule.groups is None or rule.groups & groups)
    )


@functools.lru_cache(maxsize=1024)
def says_little_of_user(domain: str) -> bool:
    """Whether a rule's domain names nothing but columns of its user that are told of.

    >>> says_little_of_user("[('user_id', '=', user.id), ('company_id', 'in', company_ids)]")
    True
    >>> says_little_of_user("[('id', 'in', user.partner_id.bom_ids.ids)]")
    False
    >>> says_little_of_user("[(f, '=', user[f]) for f in ('id',)]"), says_little_of_user("[")
    (False, False)
    """
    try:
        tree = ast.parse(domain.strip() or "[]", mode="eval")
    except SyntaxError:
        return False
    outer = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and (node.id not in _NAMES or _is_bare(node, outer)):
            return False
        if isinstance(node, ast.Attribute) and id(node) not in outer:
            base, _dot, path = ast.unparse(node).partition(".")
            if base == "user" and path not in _OF_USER:
                return False
    return True


def _is_bare(node: ast.Name, outer: set[int]) -> bool:
    """Whether ``user`` stands there by itself."""
    return node.id == "user" and id(node) not in outer


# -- recordsets in keys --------------------------------------------------------------------------


def _reduce_recordset(records: Any) -> tuple[Any, ...]:
    """As recordsets compare: by model and ids."""
    return records._name, frozenset(records._ids)


# -- sentinels -------------------------------------------------------------------------------------

_OBJECTS = {"EXTERNAL_ASSET": EXTERNAL_ASSET}


def _reduce_object(value: object) -> tuple[str]:
    for name, known in _OBJECTS.items():
        if value is known:
            return (name,)
    raise NotShareableError("an unknown object()")


# -- compiled templates ----------------------------------------------------------------------------


def _encode_template(value: Any) -> bytes:
    """The code object that makes the functions: neither generated nor compiled again."""
    functions, name, options = value
    if options.get("profile"):
        raise NotShareableError("a template that is profiled")
    made_by = functions[name].__globals__.get("generate_functions")
    if type(made_by) is not FunctionType or made_by.__closure__ or made_by.__defaults__:
        raise NotShareableError("a template that could not be compiled")
    return encode((marshal.dumps(made_by.__code__), name, options))


def _code(value: Any) -> Any:
    """Functions are made of it; as it is dumped, equal code may differ."""
    functions, name, options = value
    made_by = functions[name].__globals__.get("generate_functions")
    return getattr(made_by, "__code__", None), name, options


def _decode_template(model: Any, data: bytes) -> Any:
    """Mirrors the end of ``IrQweb._generate_code_uncached``.

    Code from Redis runs here: what opened was sealed by a process that has the database's secret.
    """
    try:
        code, name, options = decode(data)
        made_of = model._IrQweb__prepare_globals()
        made_of["__builtins__"] = made_of  # So that unknown/unsafe builtins are never added.
        made_of["generate_functions"] = FunctionType(
            marshal.loads(code), made_of, "generate_functions"
        )
        return made_of["generate_functions"](), name, options
    except (ValueError, TypeError, EOFError) as error:
        raise CorruptRecordError(f"it is no template: {error}") from error


# -- pages of the website --------------------------------------------------------------------------

# By its name: website is imported only where it is installed.
PAGE = "odoo.addons.website.models.website_page.WebsitePage._get_response_cached"
# Where ``WebsitePage._post_process_response_from_cache`` puts the token of whoever gets the page.
_tokens = re.compile(r'(csrf_token: "|name="csrf_token" value=")[^"]+')
_looks_like_token = re.compile(r"\b[0-9a-f]{40}o[0-9]+\b").search  # Request.csrf_token


def page_surroundings(request: Any, page: Any) -> tuple[Any, ...] | None:
    """What a page depends on beyond its key; None where its links are not the website's own.

    In core it reaches the other visitors of one process, whatever address the first one used. Its
    key has the path and the debug mode as a visitor wrote them, ``/SHOP`` and ``1,1,1``: of any
    number.
    """
    path, own_url = request.httprequest.path, request.httprequest.url_root.rstrip("/")
    if path != page._get_page_info(request)["url"] or request.session.debug:
        return None
    if own_url != request.website.get_base_url().rstrip("/"):
        return None
    consent = request.env["ir.http"]._is_allowed_cookie("optional")
    return consent, request.geoip.country_code, request.env.context.get("tz")


def _encode_page(value: Any) -> bytes:
    """A page as everybody gets it who has not logged in: without its first visitor's csrf token."""
    response, key = value
    if type(response) is not Response or len(response.response) != 1:
        raise NotShareableError("a response of another kind")
    body, headers = response.response[0], list(response.headers.items())
    if not isinstance(body, str):
        raise NotShareableError("a page that is no text")
    if any(name.lower() == "set-cookie" for name, _content in headers):
        raise NotShareableError("a response with a cookie")
    blanked = type(body)(_tokens.sub(r"\1-", str(body)))  # Markup would escape what is put in
    if _looks_like_token(blanked):
        raise NotShareableError("a page with a token in another place")
    return encode((blanked, response.status, headers, response.time, key))


def _decode_page(model: Any, data: bytes) -> Any:
    try:
        body, status, headers, rendered, key = decode(data)
        age = time.time() - rendered
        response = Response(status=status, headers=headers)
    except (ValueError, TypeError) as error:
        raise CorruptRecordError(f"it is no page: {error}") from error
    if age >= model._CACHE_DURATION:
        raise ExpiredRecordError("Odoo would not serve it any more")
    response.response = [body]
    response.time = rendered
    return response, key
