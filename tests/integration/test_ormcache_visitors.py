"""Who may choose keys freely, as a visitor may of some methods, keeps nobody else from sharing."""

import time
import uuid

import pytest
import requests

from odoo.addons.redis_session_ormcache.tests.integration.test_ormcache_security import (
    check_counts,
)
from odoo.addons.redis_session_ormcache.tests.support.cached import (
    FIGURES,
    LOOK,
    MANY,
    figures,
    hashes,
)
from stack.servers import ServerError, until

SMALL = {"ormcache_max_bytes": 2**20}  # bytes: as little as may be, to be filled soon
MOST = 2**20 // 8 * 3 // 4  # bytes that one method may have of a hash of that
HONEST = """
    bundle = env["ir.asset"]._get_asset_paths("web.assets_web", {})
    modules = env.registry._init_modules
    result = [
        len(bundle),
        env["ir.http"]._get_web_translations_hash(modules, "en_US"),
        env["decimal.precision"].precision_get("Product Price"),
    ]
"""
METHODS = "_get_asset_paths", "_get_web_translations_hash", "precision_get"


@pytest.fixture
def make_tier(redis):
    """A way to Redis, with bounds of its own."""
    from odoo.addons.redis_session_ormcache.connection import RedisServer
    from odoo.addons.redis_session_ormcache.ormcache import RemoteTier

    servers = []

    def make(max_bytes=2**20):
        servers.append(RedisServer(redis.url, half="ormcache", timeout=5.0))
        return RemoteTier(servers[-1], max_bytes=max_bytes)

    yield make
    for server in servers:
        server.disconnect()


@pytest.fixture
def key(raw):
    """Of a hash of nobody's."""
    name = f"visitors:{uuid.uuid4()}"
    yield name
    raw.delete(name)


def sizes(raw, database):
    """Bytes, by container."""
    return {key.split(b":")[3]: int(raw.hget(key, "#") or 0) for key in hashes(raw, database)}


def require_shared(redis, make_worker, database):
    """A process shares what it needs, and another one finds all of it."""
    first = make_worker(redis, database, settings=SMALL)
    second = make_worker(redis, database, settings=SMALL)
    right = first.run(HONEST)
    look = first.run(LOOK)
    assert right[0] > 100
    assert second.run(HONEST) == right
    by_method = second.run(FIGURES)
    assert [by_method[name]["found"] for name in METHODS] == [1, 1, 1], by_method
    assert second.run(LOOK) == look
    assert figures(second)["found"] >= MANY


def test_visitors_bundles_and_translations(
    redis, raw, make_node, make_worker, make_tier, lone_database
):
    """A visitor asks for bundles and modules that are not there, until no more of it is kept."""
    node = make_node(redis, database=lone_database, settings=SMALL)
    visitor = requests.Session()
    paths = {
        b"assets": "/web/bundle/nothing{}",
        b"default": "/web/webclient/translations?mods=nothing{}",
    }
    for container, path in paths.items():
        for number in range(20):
            assert visitor.get(node.url + path.format(number), timeout=30).ok
        # The same of many more requests.
        [key] = [key for key in hashes(raw, lone_database) if key.split(b":")[3] == container]
        full = [tag for tag, (entries, _size) in check_counts(raw, key).items() if entries >= 15]
        assert full
        tier = make_tier(2**20 // 8)
        for number in range(3_000):
            assert tier.publish(key.decode(), [(b"%b%16d" % (t, number), sealed(1)) for t in full])
        assert len(hashes(raw, lone_database)[key]) > 1_000
    require_shared(redis, make_worker, lone_database)


def test_only_pages_at_their_own_address(redis, raw, make_node, website_database, postgres):
    """A page answers to its path in any case, and a visitor may ask for any debug modes."""
    node = make_node(redis, database=website_database, start=False)
    base = f"UPDATE ir_config_parameter SET value = '{node.url}' WHERE key = 'web.base.url'"
    postgres.sql(website_database, base)
    node.start()

    def pages():
        return sum(
            len(fields)
            for key, fields in hashes(raw, website_database).items()
            if key.split(b":")[3] == b"templates.cached_values"
        )

    # While its own first question is open, a server may keep what it computes to itself.
    assert requests.get(f"{node.url}/web/login", timeout=60).ok
    time.sleep(1)
    before = pages()
    assert requests.get(f"{node.url}/contactus", timeout=60).ok
    until(lambda: pages() == before + 1, "that the page is shared")
    for path in ("/Contactus", "/contactUs", "/CONTACTUS"):
        found = requests.get(node.url + path, timeout=60)
        assert found.ok
        assert "contactus" in found.text
    debugging = requests.Session()
    for modes in ("1,1", "assets,1,1,1"):
        assert debugging.get(f"{node.url}/contactus?debug={modes}", timeout=60).ok
        assert debugging.get(f"{node.url}/contactus", timeout=60).ok
    time.sleep(1)  # what would be shared is on its way
    assert pages() == before + 1


FILL = {
    "a visitor's bundles": "env['ir.asset']._get_asset_paths(word, {})",
    "a visitor's modules": "env['ir.http']._get_web_translations_hash([word], 'en_US')",
    "a customer's words": "env['decimal.precision'].precision_get(word)",
    "a customer's companies": """
                companies = {"allowed_company_ids": [1] * (number % 500 + 1)}
                mode = ["read", "write", "create", "unlink"][number % 4]
                for model in ["res.users", "res.partner", "res.company"]:
                    env(context=companies)["ir.rule"]._compute_domain(model, mode)
    """,
    "a customer's debug modes": "env['ir.ui.menu'].load_menus(word)",
}


@pytest.mark.parametrize("call", FILL.values(), ids=FILL)
def test_anybodys_keys(redis, raw, make_worker, lone_database, call):
    """Of any method: they are a part of its values, and the newest are kept."""
    worker = make_worker(redis, lone_database, settings=SMALL)
    for start in range(0, 6_000, 100):
        worker.run(f"""
            for number in range({start}, {start + 100}):
                word = f"nothing{{number}}"
                {call.strip()}
        """)
        if max(sizes(raw, lone_database).values()) > MOST - 12_000:
            break
    else:
        pytest.fail("it is not filled")
    for hash_key in hashes(raw, lone_database):
        check_counts(raw, hash_key)
    require_shared(redis, make_worker, lone_database)


def test_templates_that_are_not_there(redis, make_worker, lone_database):
    """Their values cannot be shared, and that keeps no other template from it."""
    first, second = make_worker(redis, lone_database), make_worker(redis, lone_database)
    ask = "result = env['ir.ui.view']._get_cached_template_info({!r})['id']"

    def published():
        return first.run(FIGURES)["_get_cached_template_info"]["published"]

    assert first.run(ask.format("web.login"))
    before = published()
    assert before
    for number in range(30):
        assert first.run(ask.format(f"web.nothing{number}")) is None
    name = "web.brand_promotion"
    found = first.run(ask.format(name))
    assert found
    assert published() > before
    assert second.run(ask.format(name)) == found
    assert second.run(FIGURES)["_get_cached_template_info"]["found"] == 1
    for worker in (first, second):
        with pytest.raises(ServerError, match=r"Template not found: 'web\.nothing1'"):
            worker.run("env['ir.ui.view']._get_template_view('web.nothing1')")


# -- the hash ------------------------------------------------------------------------------------


def sealed(number, size=40):
    """Bytes as of a sealed value."""
    return b"=%0*d" % (size - 1, number)


@pytest.mark.parametrize("methods", [1, 2, 5])
def test_a_full_hash_takes_what_is_new(raw, make_tier, key, methods):
    """Of the methods that fill it, and of another one; for all of them more than a while."""
    from odoo.addons.redis_session_ormcache.ormcache import remote

    tier = make_tier(64 * 2**20)
    tags = [b"%06x" % number for number in range(methods)]
    for start in range(0, 2 * remote.MAX_ENTRIES, 1_000):
        for tag in tags:
            numbers = range(start, start + 1_000)
            assert all(tier.publish(key, [(b"%b%16d" % (tag, n), sealed(n)) for n in numbers]))
    assert raw.hlen(key) <= remote.MAX_ENTRIES
    check_counts(raw, key)
    for tag in (*tags, b"ffffff"):
        mine = [(b"%bhonest%10d" % (tag, n), sealed(n)) for n in range(100)]
        assert all(tier.publish(key, mine))
        assert sum(tier.ask(key, field, claim=True) == value for field, value in mine) >= 95
    counts = check_counts(raw, key)
    assert counts[b"ffffff"] == (100, 4_000)


def test_a_hash_full_of_bytes_takes_what_is_new(raw, make_tier, key):
    """A value that is bigger than the others takes the place of many."""
    tier = make_tier(2**20)
    for n in range(20_000):
        assert tier.publish(key, [(b"aaaaaa%16d" % n, sealed(n, 200))]) == [1]
    assert 0.7 * 2**20 < int(raw.hget(key, "#")) <= 2**20
    big = [(b"aaaaaabig", sealed(1, 8_000)), (b"bbbbbbbig", sealed(1, 60_000))]
    assert tier.publish(key, big) == [1, 1]
    assert int(raw.hget(key, "#")) <= 2**20
    assert tier.ask(key, b"bbbbbbbig", claim=False) == big[1][1]
    check_counts(raw, key)


def test_a_value_that_grows_and_one_that_shrinks(raw, make_tier, key):
    """The bytes are those that are there, also when nothing else makes room."""
    tier = make_tier(10_000)
    field = b"aaaaaa1"
    for size, done in (
        (3_000, 1),
        (7_000, 2),
        (9_000, 0),
        (100, 2),
        (7_500, 2),
        (20_000, 0),
        (7_600, 0),
    ):
        assert tier.publish(key, [(field, sealed(1, size))]) == [done]
        check_counts(raw, key)
    assert len(raw.hget(key, field)) == 7_500


def test_claims_are_a_part_of_a_methods_share(raw, make_tier, key):
    """Whoever asks for what nobody can compute, or is killed meanwhile, fills no hash."""
    from odoo.addons.redis_session_ormcache.ormcache import remote
    from odoo.addons.redis_session_ormcache.ormcache.remote import Claim

    tier = make_tier()
    for n in range(remote.MAX_ENTRIES):
        assert tier.ask(key, b"aaaaaa%16d" % n, claim=True) == Claim.OURS
    assert raw.hlen(key) <= 0.76 * remote.MAX_ENTRIES
    assert tier.ask(key, b"bbbbbb1", claim=True) == Claim.OURS
    assert tier.ask(key, b"bbbbbb1", claim=True) == Claim.THEIRS
    check_counts(raw, key)
    assert tier.publish(key, [(b"aaaaaanew", sealed(1)), (b"bbbbbb1", sealed(2))]) == [1, 2]
    assert tier.ask(key, b"bbbbbb1", claim=True) == sealed(2)
    tier.release(key, [b"aaaaaa%16d" % n for n in range(1_000)])
    counts = check_counts(raw, key)
    assert counts[b"bbbbbb"] == (1, 40)


def test_whoever_publishes_learns_that_a_value_is_wanted(raw, make_tier, key):
    """Somebody waited for it, or had computed it too."""
    from odoo.addons.redis_session_ormcache.ormcache.remote import Claim, Stored

    tier, other = make_tier(), make_tier()
    alone, awaited, given_up = b"aaaaaa1", b"aaaaaa2", b"aaaaaa3"
    for field in (alone, awaited, given_up):
        assert tier.ask(key, field, claim=True) == Claim.OURS
    for field in (awaited, given_up):
        assert other.ask(key, field, claim=True) == Claim.THEIRS
    values = [(alone, sealed(1)), (awaited, sealed(2))]
    assert tier.publish(key, values) == [Stored.NEW, Stored.WANTED]
    assert other.publish(key, values[:1]) == [Stored.WANTED]
    tier.release(key, [given_up])
    assert other.ask(key, given_up, claim=True) == Claim.OURS
    check_counts(raw, key)


def test_what_says_nothing_of_a_hash_is_taken_for_nothing(raw, make_tier, key):
    """Counts that somebody else wrote."""
    tier = make_tier()
    for count in (b"", b"#", b"#1", b"#x 1", b"# 1 1", b"#-1 -1", b"=", b"#1 1 1", b"#1.5 2"):
        raw.hset(key, "#aaaaaa", count)
        assert all(tier.publish(key, [(b"aaaaaa1", sealed(1))])), count
        assert tier.ask(key, b"aaaaaa2", claim=True) == 1, count
        tier.release(key, [b"aaaaaa2"])
    assert tier.fetch([key])[0] == {b"aaaaaa1": sealed(1)}
