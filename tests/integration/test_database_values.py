"""Cached values of a database come back the same."""

import itertools

import pytest
from addons.ormcache_round_trip.same import difference
from odoo.addons.base.models.ir_qweb import QWebError
from odoo.fields import Domain
from odoo.tools.set_expression import SetDefinitions

from odoo.addons.redis_session_ormcache.codec.value import decode, encode, key_bytes
from odoo.addons.redis_session_ormcache.exceptions import (
    CorruptRecordError,
    NotShareableError,
)
from odoo.addons.redis_session_ormcache.http_patch import generations
from odoo.addons.redis_session_ormcache.http_patch.cached_values import (
    depends_on_listed_tables,
    says_little_of_user,
)
from odoo.addons.redis_session_ormcache.tests.support.values import (
    codec_of,
)

pytestmark = pytest.mark.usefixtures("odoo_types")


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


def test_the_rules_in_force_are_those_that_odoo_applies(env):
    """Whether a domain may be shared is decided by the same rules, though all are read at once."""
    rules = generations.read_rules(env.cr)
    seen = set()
    for user in ("base.user_admin", "base.public_user", "base.user_root"):
        of_user = env["ir.rule"].with_user(env.ref(user))
        for name, mode in itertools.product([*rules, "res.country"], of_user._MODES):
            names = [name, *env[name]._inherits]
            applied = [rule for each in names for rule in of_user._get_rules(each, mode).sudo()]
            wanted = all(says_little_of_user(rule.domain_force or "") for rule in applied)
            assert depends_on_listed_tables(rules, of_user, name, mode) is wanted
            seen.add(wanted)
    assert seen == {True, False}


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
