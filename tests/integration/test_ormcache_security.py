"""What somebody gets who can read Redis, write to it, or fill it: nothing."""

import random
import uuid

from odoo.addons.redis_session_ormcache.tests.support.browser import Browser
from odoo.addons.redis_session_ormcache.tests.support.cached import LOOK, MANY, figures, hashes

ALLOWED = "result = sorted(env['ir.model.access']._get_allowed_models())"


def test_values_moved_elsewhere_are_refused(redis, raw, make_worker, lone_database):
    """Between methods, containers or states of the database: they are computed instead."""
    right = make_worker(redis, lone_database).run(LOOK)
    stored = hashes(raw, lone_database)
    places = [(key, field) for key, fields in stored.items() for field in fields]
    values = [value for fields in stored.values() for value in fields.values()]
    for (key, field), value in zip(places, values[1:] + values[:1], strict=True):
        raw.hset(key, field, value)
    worker = make_worker(redis, lone_database)
    assert worker.run(LOOK) == right
    assert figures(worker)["rejected"] >= MANY
    assert figures(worker)["found"] == 0
    # What was refused was replaced by what was computed.
    healed = make_worker(redis, lone_database)
    assert healed.run(LOOK) == right
    assert figures(healed)["found"] >= MANY
    assert figures(healed)["rejected"] == 0


def test_values_of_an_earlier_state_are_refused(redis, raw, make_worker, lone_database):
    """Put back under the key of the present state, what was true does not open."""
    worker = make_worker(redis, lone_database)
    worker.run(ALLOWED, uid=2)
    past = hashes(raw, lone_database)
    worker.run("env.registry.clear_all_caches()")
    right = worker.run(ALLOWED, uid=2)
    for key, fields in hashes(raw, lone_database).items():
        container = key.split(b":")[3]
        for old, values in past.items():
            if old != key and old.split(b":")[3] == container:
                shared = {field: values[field] for field in fields if field in values}
                if shared:
                    raw.hset(key, mapping=shared)
    other = make_worker(redis, lone_database)
    assert other.run(ALLOWED, uid=2) == right
    assert figures(other)["rejected"] > 0
    assert figures(other)["found"] == 0


def test_garbage_in_redis_is_a_miss(redis, raw, make_worker, lone_database):
    """Bytes of any kind, another type under the key, a claim that never ends."""
    right = make_worker(redis, lone_database).run(LOOK)
    garbage = [b"", b"x", b"!", b"!99999999999999:" + b"f" * 12, b"!nan", b"\0" * 40, b"#"]
    for number, (key, fields) in enumerate(hashes(raw, lone_database).items()):
        raw.hset(
            key, mapping={f: garbage[(n + number) % len(garbage)] for n, f in enumerate(fields)}
        )
        if number == 1:
            raw.hset(key, "#", "not a number")
        if number == 3:
            raw.hset(key, "#", "9" * 5000)
        if number == 2:
            raw.delete(key)
            raw.set(key, "not a hash")
    assert make_worker(redis, lone_database).run(LOOK) == right


def test_a_granting_value_is_refused(redis, raw, make_worker, lone_database):
    """Whoever can write to Redis, and reads this code, cannot make a right."""
    from odoo.addons.redis_session_ormcache.codec.value import Cost, Vault, encode

    worker = make_worker(redis, lone_database)
    before, of_admin = worker.run(ALLOWED, uid=3), worker.run(ALLOWED, uid=2)
    assert before != of_admin
    forger = Vault(str(uuid.uuid4()))
    grants = encode(frozenset(of_admin))
    for key, fields in hashes(raw, lone_database).items():
        raw.hset(
            key, mapping={f: forger.seal(key + b"\0" + f, grants, Cost(1.0, 1)) for f in fields}
        )
    other = make_worker(redis, lone_database)
    assert other.run(ALLOWED, uid=3) == before
    assert figures(other)["rejected"] >= 1


# -- secrets -------------------------------------------------------------------------------------

MAKE_USERS = """
    env["ir.config_parameter"].set_param("test.secret", "planted-in-a-parameter-4711")
    env["ir.default"].set("res.partner", "comment", "planted-in-a-default-4712")
    for login, group in (("clerk", "base.group_user"), ("customer", "base.group_portal")):
        env["res.users"].create({
            "name": login, "login": login, "password": f"planted-password-{login}",
            "group_ids": [(6, 0, [env.ref(group).id])],
        })
    admin = env["res.users"].browse(2)
    result = {
        "api key": env["res.users.apikeys"].with_user(admin)._generate("rpc", "test", None),
        "database.secret": env["ir.config_parameter"].get_param("database.secret"),
        "database.uuid": env["ir.config_parameter"].get_param("database.uuid"),
    }
"""
READ_SECRETS = """
    env["ir.config_parameter"].get_param("test.secret")
    env["ir.default"]._get_model_defaults("res.partner")
    env["res.users"].browse(2)._compute_session_token("s" * 84)
    result = env["res.users"].browse(2)._compute_session_token("s" * 84)
"""


def test_no_secret_is_in_redis(own_redis, make_node, make_worker, make_database):
    """After logins of all kinds a dump holds no password, token, key or parameter, nor any text."""
    import xmlrpc.client

    import redis as driver

    database = make_database()
    worker = make_worker(own_redis, database)
    planted = worker.run(MAKE_USERS)
    planted |= {"token": worker.run(READ_SECRETS), "sid": "s" * 84}
    node = make_node(own_redis, database=database)
    for login, password in (
        ("admin", "admin"),
        ("clerk", "planted-password-clerk"),
        ("customer", "planted-password-customer"),
    ):
        browser = Browser(database)
        assert browser.login(node, login, password)
        assert browser.get(node, "/odoo" if login != "customer" else "/web/login").ok
        planted |= {f"password of {login}": password, f"sid of {login}": browser.sid}
    del planted["password of admin"]  # "admin" is in many a name
    rpc = xmlrpc.client.ServerProxy(f"{node.url}/xmlrpc/2/object")
    found = rpc.execute_kw(database, 2, planted["api key"], "res.users", "search_count", [[]])
    assert found >= 3
    planted |= {"parameter": "planted-in-a-parameter-4711", "default": "planted-in-a-default-4712"}
    with driver.Redis.from_url(own_redis.url) as client:
        keys = list(client.scan_iter("*"))
        stored = b"\n".join(
            part for key in keys for item in client.hgetall(key).items() for part in (key, *item)
        )
    assert sum(b":ormcache:" in key for key in keys) >= 5
    assert len(stored) > 50_000
    for name, secret in planted.items():
        assert secret.encode() not in stored, name
    # Nothing of what is cached can be read, nor what it was asked with.
    for text in (b"res.partner", b"base.group_user", b"template_", b"res_users", b"English"):
        assert text not in stored


# -- bounds --------------------------------------------------------------------------------------


def test_a_database_stays_within_its_bounds(redis, raw, make_worker, lone_database):
    """However many users there are: a method's new values take the place of its old ones."""
    cap = 2**20
    worker = make_worker(redis, lone_database, settings={"ormcache_max_bytes": cap})
    worker.run("""
        cr.execute('''
            INSERT INTO res_partner (name, active) SELECT 'user ' || n, true
            FROM generate_series(1, 1500) n
        ''')
        cr.execute('''
            INSERT INTO res_users (login, partner_id, company_id, active)
            SELECT name, id, 1, true FROM res_partner WHERE name LIKE 'user %'
        ''')
        cr.execute('''
            INSERT INTO res_groups_users_rel (gid, uid)
            SELECT %s, id FROM res_users WHERE login LIKE 'user %%'
        ''', [env.ref("base.group_user").id])
        env.registry.clear_all_caches()
    """)
    for start in range(0, 1500, 100):
        worker.run(f"""
            named = [("login", "like", "user ")]
            for user in env["res.users"].search(named, order="id", offset={start}, limit=100):
                user._get_group_ids()
                env["ir.model.access"].with_user(user)._get_allowed_models()
        """)
    for fields in hashes(raw, lone_database).values():
        assert sum(map(len, fields.values())) <= cap // 8
    sizes = [int(raw.hget(key, "#") or 0) for key in hashes(raw, lone_database)]
    assert cap // 8 * 0.7 < max(sizes) <= cap // 8
    sums = figures(worker)
    assert sums["published"] > 0.8 * sums["computed"]
    assert worker.run(LOOK)


def test_20_000_users_stay_within_the_bounds(redis, raw):
    """Nor do the values of many grow a hash past its bytes or its number of entries."""
    from odoo.addons.redis_session_ormcache.connection import RedisServer
    from odoo.addons.redis_session_ormcache.ormcache import RemoteTier, remote

    server = RedisServer(redis.url, half="ormcache", timeout=2.0)
    tier = RemoteTier(server, max_bytes=16 * 2**20)
    key = f"bounds:{uuid.uuid4()}"
    menus, rights = b"=" + random.randbytes(5000), b"=" + random.randbytes(60)
    for user in range(0, 20_000, 50):
        numbers = range(user, user + 50)
        for kind, value in ((b"a", menus), (b"b", rights)):
            tier.publish(key, [(b"%b%15d" % (kind * 6, n), value) for n in numbers])
    counts = check_counts(raw, key)
    assert 11 * 2**20 < int(raw.hget(key, "#")) <= 16 * 2**20
    assert counts[b"a" * 6][0] < counts[b"b" * 6][0]
    small = b"=" + b"x" * 20
    for user in range(0, 60_000, 500):
        fields = [b"cccccc%16d" % n for n in range(user, user + 500)]
        assert all(tier.publish(f"{key}:2", [(field, small) for field in fields]))
    assert 0.7 * remote.MAX_ENTRIES < raw.hlen(f"{key}:2") <= remote.MAX_ENTRIES
    check_counts(raw, f"{key}:2")
    raw.delete(key, f"{key}:2")
    server.disconnect()


def check_counts(raw, key):
    """What a hash says of itself is true; entries and bytes, by tag."""
    found = raw.hgetall(key)
    fields = {field: value for field, value in found.items() if not field.startswith(b"#")}
    counts = {
        field[1:]: tuple(map(int, value[1:].split()))
        for field, value in found.items()
        if field.startswith(b"#") and field != b"#"
    }
    for tag, (entries, size) in counts.items():
        own = [value for field, value in fields.items() if field.startswith(tag)]
        assert entries == len(own)
        assert size == sum(len(value) for value in own if not value.startswith(b"!"))
    assert sum(entries for entries, _size in counts.values()) == len(fields)
    if b"#" in found:
        assert int(found[b"#"]) == sum(size for _entries, size in counts.values())
    return counts


def test_past_states_go_soon(redis, raw, make_worker, lone_database):
    """The hashes of a superseded state expire within a minute, the present ones within a day."""
    worker = make_worker(redis, lone_database)
    for _ in range(4):
        worker.run("env.registry.clear_all_caches()")
        worker.run(LOOK)
    by_container = {}
    for key in hashes(raw, lone_database):
        by_container.setdefault(key.split(b":")[3], []).append(raw.ttl(key))
    assert len(by_container) >= 4
    for container, ttls in by_container.items():
        assert len(ttls) == 4, container
        assert sum(ttl > 60 for ttl in ttls) == 1, container
        assert min(ttls) > 0, container
        assert max(ttls) <= 86_400, container
