"""Sessions of a former store: read from what really wrote them, moved, and not brought back."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from odoo.addons.redis_session_ormcache.keys import moved_key, session_place
from odoo.addons.redis_session_ormcache.migration import open_old_store
from odoo.addons.redis_session_ormcache.sessions import SessionStoreUnavailable
from odoo.addons.redis_session_ormcache.sessions.store import REVOKED_FOR
from odoo.addons.redis_session_ormcache.tests.integration.test_commands import found, run
from odoo.addons.redis_session_ormcache.tests.integration.test_start import assert_stopped, start
from odoo.addons.redis_session_ormcache.tests.support import old_stores
from odoo.addons.redis_session_ormcache.tests.support.browser import Browser
from odoo.addons.redis_session_ormcache.tests.support.dose import dose
from odoo.addons.redis_session_ormcache.tests.support.field import field_addons
from stack.load import AWAY, RIGHT, Crowd, User
from stack.load.users import Absence
from stack.provision import environment
from stack.servers import Odoo, Redis, odoo_environment, start_all, until, write_conf

KINDS = ["file", "camptocamp", "mangono", "session_db"]
IN_REDIS = "camptocamp", "mangono"
WEEK = 7 * old_stores.DAY
MANY = dose(2_000, 100_000)  # files
USERS = dose(16, 50)  # on each old store under load
PAUSE = 0.2  # seconds between a click and the next
CONTENT = {"cart": [1, {"a": None}], "name": "Zoë \U0001f600", "uid": 2, "login": "admin", "n": 1.5}


@pytest.fixture(scope="module")
def old_redis(tmp_path_factory):
    """The Redis of a former store."""
    with Redis(tmp_path_factory.mktemp("old")) as server:
        yield server


@pytest.fixture
def make_old(tmp_path, postgres, request):
    """Make a former store of a kind."""
    with contextlib.ExitStack() as databases:

        def make(kind, name="sessions"):
            if kind == "file":
                return old_stores.files(tmp_path / name)
            if kind in IN_REDIS:
                server = request.getfixturevalue("old_redis")
                server.cli("FLUSHALL")
                return getattr(old_stores, kind)(server)
            old = old_stores.session_db(postgres)
            databases.callback(postgres.dropdb, old.database)
            databases.callback(old.store._close_connection)
            return old

        yield make


@pytest.fixture
def make_new(make_store, redis):
    """Make a store that knows of a former one; with the same prefix, it is that of another node."""

    def make(old, *, server=redis, **options):
        opened = open_old_store(old.url, timeout=1.0)
        return make_store(server, old=opened, **options)

    return make


@pytest.fixture(params=KINDS)
def old(request, make_old):
    return make_old(request.param)


@pytest.fixture
def left(old, new_session):
    """A session of a user, as the former store has it."""
    return saved(old, new_session)


def saved(old, new_session, **values):
    session = new_session(old.store, **{**CONTENT, **values})
    old.store.save(session)
    return session


def holds(old, session):
    """Whether the former store has a session."""
    return not old.store.get(session.sid).is_new


def marks(store, session):
    """The note of a session's identifier."""
    return store.server.execute("HGETALL", moved_key(place(store, session.sid).key))


def place(store, sid):
    return session_place(store._prefix, sid)


# -- a miss ----------------------------------------------------------------------------------------


def test_a_session_is_moved_with_its_content(old, left, make_new):
    """It has the same sid and all its content, and is not asked for there again."""
    store = make_new(old)
    session = store.get(left.sid)
    assert (session.sid, session.is_new, dict(session)) == (left.sid, False, dict(left))
    assert holds(old, left)
    old.store.delete(left)
    assert dict(store.get(left.sid)) == dict(left)


def test_the_former_store_is_read_only(make_old, make_new, new_session, own_redis):
    """A miss, a move, a rotation and what is saved here change nothing in it."""
    for kind in KINDS:
        old = make_old(kind)
        sessions = [saved(old, new_session, uid=None) for _number in range(3)]
        before = everything(old)
        store = make_new(old, server=own_redis, prefix=f"odoo:{kind}")
        store.check()
        store.get(store.generate_key())
        for session in sessions:
            here = store.get(session.sid)
            here["more"] = 1
            store.save(here)
            store.rotate(here, None, soft=True)
        store.get_missing_session_identifiers([session.sid[:42] for session in sessions])
        store.adopt([found for found in store.old.fetch(store.old.names()) if found])
        assert everything(old) == before, kind


def everything(old):
    """Sessions of a former store, with their times."""
    if old.kind == "file":
        files = [path for path in old.folder.rglob("*") if path.is_file()]
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    if old.kind == "session_db":
        old.store._cr.execute("SELECT sid, write_date, payload, xmin::text FROM http_sessions")
        return sorted(old.store._cr.fetchall())
    client = old.store.redis
    return {key: (client.get(key), client.expiretime(key)) for key in client.keys("*")}


def test_a_sid_that_nobody_had_gives_a_new_session(old, left, make_new):
    """And leaves nothing behind."""
    store = make_new(old)
    sid = store.generate_key()
    session = store.get(sid)
    assert session.is_new
    assert session.sid != sid
    assert store.server.execute("EXISTS", moved_key(place(store, sid).key)) == 0


def test_without_the_setting_nothing_is_moved(old, left, redis_store):
    """A session of the former store is one that is not there."""
    assert redis_store.get(left.sid).is_new


def test_what_is_left_of_its_time_is_not_extended(make_old, make_new, new_session):
    """By the time of a file, of a row, or by what Redis says."""
    ends = {}
    for kind in KINDS:
        old = make_old(kind)
        session = saved(old, new_session)
        idle(old, session, WEEK - 3600)
        store = make_new(old)
        assert store.get(session.sid).uid == 2, kind
        ends[kind] = store.server.execute("TTL", place(store, session.sid).key)
    assert all(3500 < seconds <= 3600 for seconds in ends.values()), ends


def test_a_session_that_is_over_is_not_moved(old, left, make_new):
    """Though the former store may not have noticed."""
    idle(old, left, WEEK + 1)
    assert make_new(old).get(left.sid).is_new


def test_the_timeout_of_its_database_counts(make_old, make_new, new_session):
    """It is read for what is moved, since no request has told it yet."""
    old = make_old("file")
    store = make_new(old, read_lifetime={"prod": 60, "other": 10**7}.get)
    short, long = saved(old, new_session), saved(old, new_session, db="other")
    idle(old, short, 61)
    idle(old, long, WEEK + 1)
    assert store.get(short.sid).is_new
    assert store.get(long.sid).uid == 2


def test_a_visitor_has_the_time_of_visitors(make_old, make_new, new_session):
    """Where one is set."""
    old = make_old("file")
    store = make_new(old, anonymous_ttl=100)
    visitor = saved(old, new_session, uid=None, login=None)
    idle(old, visitor, 40)
    assert not store.get(visitor.sid).is_new
    assert 50 <= store.server.execute("TTL", place(store, visitor.sid).key) <= 60


def idle(old, session, seconds):
    """Have a session as it were after so many seconds without activity."""
    if old.kind == "file":
        path, then = old.store.get_session_filename(session.sid), time.time() - seconds
        os.utime(path, (then, then))
    elif old.kind == "session_db":
        old.store._cr.execute(
            "UPDATE http_sessions SET write_date = write_date - %s * interval '1 second'"
            " WHERE sid = %s",
            (seconds, session.sid),
        )
    elif seconds < WEEK:
        old.store.redis.expire(old.store.prefix + session.sid, int(WEEK - seconds))
    else:
        old.store.redis.delete(old.store.prefix + session.sid)


def test_both_sids_of_a_rotation_are_moved(old, left, make_new, env):
    """Each when it is presented; the former one until its time is over."""
    former = left.sid
    old.store.rotate(left, env(user=2), soft=True)
    assert left.sid[:42] == former[:42]
    store = make_new(old)
    for sid in (left.sid, former):
        session = store.get(sid)
        assert (session.uid, session.sid) == (2, sid)
    assert store.get(former)["next_sid"] == left.sid
    assert store.server.execute("HLEN", place(store, former).key) == 2


def test_a_sid_that_was_replaced_is_over_soon(old, left, make_new, env):
    """Though the former store has it; and it does not shorten the time of its successor."""
    former = left.sid
    old.store.rotate(left, env(user=2), soft=True)
    session = old.store.get(former)
    idle(old, session, WEEK - 100)
    store = make_new(old)
    store.get(left.sid)
    assert store.get(former).uid == 2
    assert store.server.execute("TTL", place(store, former).key) > 2 * old_stores.DAY
    session["deletion_time"] = time.time() - 1
    old.store.save(session)
    assert make_new(old).get(former).is_new


def test_the_time_of_its_last_activity_is_kept(make_old, make_new, new_session):
    """Where the former store says it."""
    for kind in ("file", "session_db"):
        old = make_old(kind)
        session = saved(old, new_session)
        idle(old, session, 1000)
        store = make_new(old)
        record = store.get(session.sid).redis_record
        assert 1000 <= store.now() - record.seen < 1010, kind
        assert record.ttl == WEEK, kind


def test_nodes_that_move_it_at_once_have_the_same(old, left, make_new):
    """One does, and the others find it."""
    stores = [make_new(old, prefix="odoo:at-once") for _node in range(4)]
    barrier = threading.Barrier(4)

    def ask(store):
        barrier.wait()
        return dict(store.get(left.sid))

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ask, stores)) == [dict(left)] * 4
    assert stores[0].server.execute("HLEN", place(stores[0], left.sid).key) == 1


# -- what has ended --------------------------------------------------------------------------------


def log_out(store, session):
    session.logout()
    store.rotate(session, None)


def revoke(store, session):
    store.delete_from_identifiers([session.sid[:42]])


def test_a_log_out_reaches_both(old, left, make_new):
    """On all nodes; a session of this store alone leaves nothing behind."""
    store, other = (make_new(old, prefix="odoo:log-out") for _node in range(2))
    log_out(store, store.get(left.sid))
    assert not holds(old, left)
    assert store.get(left.sid).is_new
    assert other.get(left.sid).is_new
    own = store.new()
    own.update(CONTENT)
    store.save(own)
    log_out(store, store.get(own.sid))
    assert marks(store, own) == []


def test_a_revocation_reaches_what_was_not_moved(old, left, new_session, make_new):
    """It is deleted there, with all sids of its identifier, and no other."""
    other = saved(old, new_session)
    store = make_new(old)
    revoke(store, left)
    assert not holds(old, left)
    assert holds(old, other)
    assert store.get(left.sid).is_new
    assert store.get(other.sid).uid == 2


@pytest.mark.parametrize("end", ["log out", "revoke", "log in", "expire", "delete"])
def test_what_ended_here_does_not_come_back(make_old, make_new, new_session, end):
    """On no node, though another node's own disk has it still."""
    mine, others = make_old("file", "mine"), make_old("file", "others")
    session = saved(mine, new_session)
    shutil.copytree(mine.folder, others.folder, dirs_exist_ok=True)
    nodes = [make_new(old, prefix=f"odoo:{end.replace(' ', '-')}") for old in (mine, others)]
    here = nodes[0].get(session.sid)
    if end == "log out":
        log_out(nodes[0], here)
    elif end == "revoke":
        revoke(nodes[0], here)
    elif end == "log in":
        here.uid = None
        nodes[0].rotate(here, None)
    elif end == "delete":
        nodes[0].delete(here)
    else:
        nodes[0].server.execute("UNLINK", place(nodes[0], session.sid).key)
    assert holds(others, session)
    for node in nodes * 2:
        assert node.get(session.sid).is_new


def test_what_was_revoked_before_it_was_moved_does_not_come_back(make_old, make_new, new_session):
    """Though the disk of another node has it still."""
    mine, others = make_old("file", "mine"), make_old("file", "others")
    session = saved(others, new_session)
    nodes = [make_new(old, prefix="odoo:before") for old in (mine, others)]
    revoke(nodes[0], session)
    assert holds(others, session)
    assert nodes[1].get(session.sid).is_new


def test_a_revocation_while_it_is_moved_holds(old, left, make_new):
    """Between the moment at which a node reads it there and that at which it is stored here."""
    store, other = (make_new(old, prefix="odoo:while") for _node in range(2))
    fetch = store.old.fetch

    def fetch_late(names):
        sessions = fetch(names)
        revoke(other, left)
        return sessions

    store.old.fetch = fetch_late
    assert store.get(left.sid).is_new
    assert store.server.execute("EXISTS", place(store, left.sid).key) == 0


def test_a_superseded_sid_that_was_moved_does_not_come_back(make_old, make_new, new_session, env):
    """The former store has it as one that is alive, because it was rotated here."""
    old = make_old("file")
    session = saved(old, new_session, uid=None)
    store = make_new(old)
    here = store.get(session.sid)
    store.rotate(here, env, soft=True)
    latest = store.get(here.sid)
    latest["create_time"] = 0
    store.delete_old_sessions(latest)
    assert store.get(session.sid).is_new
    assert not store.get(here.sid).is_new


def test_how_long_an_end_is_remembered(old, left, make_new):
    """Longer than the former store may hold it: moved, two of its times; revoked, a year."""
    store = make_new(old)
    store.get(left.sid)
    key = moved_key(place(store, left.sid).key)
    assert 2 * WEEK - 5 <= store.server.execute("TTL", key) <= 2 * WEEK
    revoke(store, left)
    assert REVOKED_FOR - 5 <= store.server.execute("TTL", key) <= REVOKED_FOR


def test_missing_ones_are_those_of_neither(old, left, new_session, make_new):
    """A session that is only there is not missing, unless it ended here."""
    store = make_new(old)
    ended, moved = saved(old, new_session), saved(old, new_session)
    store.get(moved.sid)
    store.get(ended.sid)
    store.server.execute("UNLINK", place(store, ended.sid).key)
    nobody = store.generate_key()
    asked = [session.sid[:42] for session in (left, ended, moved)] + [nobody[:42]]
    assert store.get_missing_session_identifiers(asked) == {ended.sid[:42], nobody[:42]}


@pytest.mark.parametrize("name", ["access", "cluster"])
def test_it_takes_no_more_access(topologies, make_old, make_new, new_session, name):
    """As the documented user, and in a Cluster: moved, logged out, revoked."""
    old = make_old("file")
    store = make_new(old, server=topologies(name), prefix="odoo:moves")
    store.check()
    sessions = [saved(old, new_session) for _number in range(20)]
    for session in sessions:
        assert store.get(session.sid).uid == 2
    log_out(store, store.get(sessions[0].sid))
    store.delete_from_identifiers([session.sid[:42] for session in sessions[1:]])
    for session in sessions:
        old.store.save(session)
        assert store.get(session.sid).is_new
    store.check()


def test_what_is_done_once_at_start_leaves_nothing(make_old, make_new, own_redis):
    """Not even what is remembered of a revocation."""
    store = make_new(make_old("file"), server=own_redis)
    store.check()
    assert own_redis.cli("DBSIZE").strip() == "0"


# -- a store that is away, or broken ---------------------------------------------------------------


def test_a_former_store_that_does_not_answer(old, left, make_new):
    """503, not a new session, on a read and a revocation; what is here is served."""
    here = make_new(old).new()
    store = make_new(old, prefix="odoo:away")
    here.update(CONTENT)
    store.save(here)
    with away(old, store):
        with pytest.raises(SessionStoreUnavailable):
            store.get(left.sid)
        with pytest.raises(SessionStoreUnavailable):
            revoke(store, left)
        assert store.get(here.sid).uid == 2
    assert store.get(left.sid).is_new  # it was revoked here all the same


@contextlib.contextmanager
def away(old, store):
    if old.kind == "file":
        hidden = old.folder.with_name("hidden")
        old.folder.rename(hidden)
        old.folder.write_text("no folder")
        yield
        old.folder.unlink()
        hidden.rename(old.folder)
    elif old.kind == "session_db":
        cursor = old.store._cr
        cursor.execute("ALTER TABLE http_sessions RENAME TO hidden")
        yield
        cursor.execute("ALTER TABLE hidden RENAME TO http_sessions")
    else:
        old.server.pause()
        yield
        old.server.resume()
        deadline = time.monotonic() + 10
        while store.old._server.is_away and time.monotonic() < deadline:
            time.sleep(0.1)


def spoil(old, session, text):
    """Have what is stored be this text."""
    if old.kind == "file":
        with open(old.store.get_session_filename(session.sid), "w", encoding="utf-8") as file:
            file.write(text)
    elif old.kind == "session_db":
        query = "UPDATE http_sessions SET payload = %s WHERE sid = %s"
        old.store._cr.execute(query, (text, session.sid))
    else:
        old.store.redis.set(old.store.prefix + session.sid, text, keepttl=True)


def test_a_broken_one_is_not_there(old, left, make_new):
    """Nor does it keep its user from a new session."""
    spoil(old, left, '{"uid": 2, "lo')
    assert make_new(old).get(left.sid).is_new


# -- odoo redis migrate ----------------------------------------------------------------------------


@pytest.fixture
def configure(tmp_path, postgres, database):
    """Write an odoo.conf for the command."""

    def write(redis, **settings):
        return write_conf(
            tmp_path / "odoo.conf", postgres, tmp_path, options={"db_name": database},
            redis={"url": redis.url, **settings},
        )  # fmt: skip

    return write


def migrate(conf, *words):
    done = run("migrate", "--json", *words, conf=conf)
    assert done.returncode == 0, done.stderr
    return found(done)


def counted(told):
    return {name: number for name, number in told.items() if type(number) is int and number}


def test_migrate_copies_once(old, new_session, own_redis, configure, database):
    """A dry run copies nothing; what is copied is served without the former store; a second run
    copies nothing, and brings nothing back."""
    sessions = [saved(old, new_session, db=database) for _number in range(12)]
    broken, over = saved(old, new_session), saved(old, new_session)
    spoil(old, broken, "{")
    idle(old, over, WEEK + 1)
    rest = {"broken": 1, **({} if old.kind in IN_REDIS else {"expired": 1})}
    conf = configure(own_redis, old_sessions=old.url)
    told = migrate(conf, "--dry-run")
    assert counted(told) == {"copied": 12, **rest}
    assert own_redis.cli("DBSIZE").strip() == "0"
    told = migrate(conf)
    assert counted(told) == {"copied": 12, **rest}
    assert told["identifiers"]["broken"] == [broken.sid[:42]]
    assert all(holds(old, session) for session in sessions)
    keys = own_redis.cli("KEYS", "odoo:session:*").split()
    assert {key.rpartition(":")[2] for key in keys} == {session.sid[:42] for session in sessions}
    dump = own_redis.cli("--no-raw", "DUMP", keys[0])
    own_redis.cli("UNLINK", keys[1])
    assert counted(migrate(conf)) == {"already_in_redis": 12, **rest}
    assert own_redis.cli("--no-raw", "DUMP", keys[0]) == dump
    assert own_redis.cli("EXISTS", keys[1]).strip() == "0"


def test_migrate_names_what_it_passes_over(make_old, new_session, own_redis, configure):
    """A broken file, an expired one and one being written; by identifier, never by a whole sid."""
    old = make_old("file")
    sessions = [saved(old, new_session, db=None) for _number in range(4)]
    spoil(old, sessions[0], '{"uid"')
    idle(old, sessions[1], WEEK + 1)
    (old.folder / "tmpabc.__wz_sess").write_text('{"uid":')
    (old.folder / "README").write_text("not a session")
    told = migrate(configure(own_redis, old_sessions=old.url))
    assert counted(told) == {"without_database": 3, "broken": 1, "being_written": 1}
    secret = {"secret": "x" * 32}
    done = run("migrate", conf=configure(own_redis, old_sessions=old.url, **secret))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("2 copied, ")
    assert lines[3:] == [
        f"1 expired: {sessions[1].sid[:42]}",
        f"1 broken: {sessions[0].sid[:42]}",
        "1 being written: tmpabc.__wz_sess",
    ]
    assert not any(session.sid in done.stdout + done.stderr for session in sessions)


def test_migrate_without_a_former_store(own_redis, configure, tmp_path):
    """One line says what is missing, or wrong."""
    done = run("migrate", conf=configure(own_redis))
    assert done.returncode == 1
    assert "old_sessions is not set" in done.stderr
    done = run("migrate", conf=configure(own_redis, old_sessions=f"file://{tmp_path}/none"))
    assert done.returncode == 1
    assert f"{tmp_path}/none cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_migrate_goes_on_after_an_interruption(
    make_old, new_session, own_redis, configure, database
):
    """It says that it was interrupted; a second run copies the rest."""
    old = make_old("file")
    for _number in range(1200):
        saved(old, new_session, db=database)
    pipe = old.store.get_session_filename(old.store.generate_key())
    os.makedirs(os.path.dirname(pipe), exist_ok=True)
    os.mkfifo(pipe)  # to open it waits for a writer
    conf = configure(own_redis, old_sessions=old.url)
    command = [*environment.odoo_command(), f"--addons-path={environment.addons_path()}", "redis"]
    with subprocess.Popen(
        [*command, "migrate", "-c", str(conf)], env=odoo_environment({}),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A run in the background ignores it, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process, contextlib.ExitStack() as ends:  # fmt: skip
        until(lambda: written_to(pipe, ends), "that it reads the pipe")
        process.send_signal(signal.SIGINT)
        told, complaint = process.communicate(timeout=20)
    assert process.returncode == 1
    assert complaint == "Interrupted: run it again to copy the rest.\n"
    os.unlink(pipe)
    copied = int(told.split()[0])
    assert copied in (0, 500, 1000)
    counts = counted(migrate(conf))
    assert counts.pop("already_in_redis", 0) == copied
    assert counts == {"copied": 1200 - copied}


def written_to(pipe, ends):
    """Whether somebody reads a pipe: whoever does waits until its end is closed."""
    with contextlib.suppress(OSError):
        return ends.enter_context(open(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), "wb"))


def test_doctor_asks_the_former_store(make_old, own_redis, configure, postgres):
    """Whether it answers, or will never do so."""
    nobody = f"session_db+postgresql://{postgres.user}:s3cret@127.0.0.1:1/sessions"
    for url, level, told in (
        (make_old("file").url, "OK", "are moved from file:///"),
        (make_old("session_db").url, "OK", "are moved from session_db+postgresql://***@"),
        ("file:///nowhere", "FAIL", "/nowhere cannot be read"),
        (nobody, "FAIL", "gets HTTP 503"),
    ):
        conf = configure(own_redis, old_sessions=url)
        findings = found(run("doctor", "--json", "--pings", "10", conf=conf))
        [finding] = [each for each in findings if each["subject"] == "former store"]
        assert finding["level"] == level
        assert told in finding["told"]
        assert "s3cret" not in finding["told"]


def test_many_files_in_time(make_old, new_session, own_redis, configure, database):
    """100,000 in less than a minute."""
    old = make_old("file")
    first = saved(old, new_session, db=database)
    text = json.dumps(dict(first))
    for _number in range(MANY - 1):
        path = old.store.get_session_filename(old.store.generate_key())
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    conf = configure(own_redis, old_sessions=old.url)
    told = migrate(conf)
    memory = own_redis.cli("INFO", "memory").partition("used_memory_human:")[2].split()[0]
    again = migrate(conf)
    print(f"{MANY} files: {told['seconds']} s, again {again['seconds']} s, {memory} in Redis")
    assert told["copied"] == again["already_in_redis"] == MANY
    assert told["seconds"] < max(60 * MANY / 100_000, 10)


def test_a_wrong_setting_stops_the_server(tmp_path, redis, postgres):
    """With one line, which does not have the password."""
    missing = f"session_db+postgresql://{postgres.user}:s3cret@{postgres.host}:{postgres.port}"
    for old, told in (
        ("nowhere", "old_sessions in"),
        (f"file://{tmp_path}/none", f"old_sessions: {tmp_path}/none cannot be read"),
        (f"{missing}/postgres", 'relation "http_sessions" does not exist'),
        ("session_db+postgresql://odoo:s3cret%zz@host/db", "libpq does not understand this URL"),
    ):
        outcome = start(tmp_path, {"url": redis.url, "old_sessions": old})
        assert_stopped(outcome, told)
        assert "s3cret" not in outcome[1]


# -- a switch under load ---------------------------------------------------------------------------


class Sticky(User):
    """A user whom the balancer sends to one node, and to another one while that is away."""

    home = None

    def run(self):
        while not self.leaves.is_set():
            self.ask(self.home)
            if self.answers[-1].verdict == AWAY:
                self.ask(next(node for node in self.nodes if node is not self.home))
            self.leaves.wait(self.pause)


@pytest.fixture(params=["file", "session_db", "mangono"])
def switch(request, tmp_path, postgres, make_database, own_redis):
    """Two nodes on a former store, and how to restart one with this addon."""
    database, field = make_database(), field_addons()
    with contextlib.ExitStack() as running:
        if request.param == "file":
            data = tmp_path / "shared"
            old = SimpleNamespace(url=f"file://{data}/sessions")
            before = {"load": "base,rpc,web", "config": {"data_dir": data}, "env": {}}
        elif request.param == "session_db":
            uri = old_stores.session_db_uri(postgres, database)
            old = SimpleNamespace(url=f"session_db+{uri}")
            before = {
                "load": "base,rpc,web,session_db", "config": field["config"],
                "env": {**field["env"], "SESSION_DB_URI": uri},
            }  # fmt: skip
        else:
            server = request.getfixturevalue("old_redis")
            server.cli("FLUSHALL")
            old = SimpleNamespace(url=f"mangono+{server.url}")
            before = {
                "load": "base,rpc,web,redis_session_store", "config": field["config"],
                "env": {**field["env"], "REDIS_URL": server.url},
            }  # fmt: skip

        def make(name, **options):
            node = Odoo(name, tmp_path / name, postgres, database=database, **options)
            running.callback(node.kill)
            return node

        nodes = [make("threaded", **before), make("prefork", workers=2, **before)]
        start_all(*nodes)
        absences = {}

        def restart(node):
            absences[node.name] = Absence(time.monotonic())
            node.stop()
            settings = {"url": own_redis.url, "old_sessions": old.url}
            Odoo(
                node.name, node.folder, postgres, database=database, port=node.port,
                gevent_port=node.gevent_port, redis=settings, workers=node.workers,
            )  # fmt: skip  # which writes another odoo.conf in the place of that one
            node.env = {}
            node.start()
            absences[node.name] = Absence(absences[node.name].began, time.monotonic())

        yield SimpleNamespace(
            kind=request.param, nodes=nodes, database=database, restart=restart, absences=absences,
            redis=own_redis, old=old, folder=tmp_path,
        )  # fmt: skip


def test_a_switch_under_load_logs_nobody_out(switch, configure):
    """Nodes are restarted one by one under users who click; who logged out before or meanwhile, or
    was revoked, stays logged out on all nodes."""
    one, two = switch.nodes

    def log_in(number):
        browser = Browser(switch.database)
        assert browser.login(switch.nodes[number % 2]) == 2
        return browser

    with ThreadPoolExecutor(4) as threads:
        browsers = list(threads.map(log_in, range(USERS + 6)))
    aside, users = browsers[:6], []
    for number, browser in enumerate(browsers[6:]):
        users.append(Sticky(switch.nodes, 2, browser.sid, PAUSE, switch.absences))
        users[-1].home = switch.nodes[number % 2]
    gone = [leave(aside[0], one), leave(aside[1], two)]
    with Crowd(users) as crowd:
        assert crowd.recovers(), crowd.complaints()[:3]
        switch.restart(one)
        gone.append(leave(aside[2], one))  # it was moved
        gone.append(leave(aside[3], two))  # it was not, and that node has the former store
        gone.append(aside[4].sid)
        conf = configure(switch.redis, old_sessions=switch.old.url)
        revoked = run("sessions", "--identifier", gone[-1][:42], "--revoke", "--yes", conf=conf)
        assert revoked.returncode == 0, revoked.stderr
        assert aside[4].uid(two) is None  # in the former store too
        switch.restart(two)
        gone.append(leave(aside[5], two))
        assert crowd.recovers(), crowd.complaints()[:3]
    print(f"{switch.kind}: {dict(crowd.verdicts())}")
    assert not crowd.complaints(), crowd.complaints()[:3]
    assert set(crowd.verdicts()) <= {RIGHT, AWAY}
    assert crowd.verdicts()[RIGHT] > 2 * USERS
    told = migrate(conf)
    assert told["already_in_redis"] == USERS, told  # what is copied are sessions of nobody
    assert told["broken"] == told["ended_in_redis"] == 0, told
    for sid in gone:
        for node in switch.nodes:
            browser = Browser(switch.database)
            browser.sid = sid
            assert browser.uid(node) is None
    for node in switch.nodes:
        assert "Traceback" not in node.log.read_text(errors="replace")


def leave(browser, node):
    """Log out; the sid that was its session's."""
    sid = browser.sid
    browser.call(node, "/web/session/destroy")
    return sid
