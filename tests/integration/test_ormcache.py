"""The shared ormcache between real Odoo processes: what is shared, with whom, and what never is."""

import re
import shutil
import subprocess
import textwrap

import pytest
import requests

from odoo.addons.redis_session_ormcache.tests.support.cached import FIGURES, LOOK, MANY, figures
from stack.provision.environment import odoo_command
from stack.servers import PostgreSQL, ServerError, odoo_environment, until

# -- sharing -------------------------------------------------------------------------------------


def test_a_fresh_process_computes_nothing_that_another_did(redis, make_worker, lone_database):
    """It gets the same values, from Redis."""
    first, second = make_worker(redis, lone_database), make_worker(redis, lone_database)
    assert second.run("result = env.registry.ready")
    computed = first.run(LOOK)
    assert first.run(LOOK) == computed
    assert second.run(LOOK) == computed
    assert figures(first)["published"] >= MANY
    assert figures(second)["found"] >= MANY
    by_method = second.run(FIGURES)
    assert [name for name, figure in by_method.items() if figure["computed"]] == [], by_method


def test_a_server_has_answered_once_before_it_serves(redis, raw, make_node, lone_database):
    """Each prefork worker has what would keep its first visitor waiting."""
    sessions = set(raw.keys("odoo:session:*"))
    node = make_node(redis, database=lone_database, workers=2)

    def maps():
        return node.log.read_text().count("Generating routing map")

    until(lambda: maps() == 2, "that both workers have answered")
    assert set(raw.keys("odoo:session:*")) <= sessions  # those of other tests may end meanwhile
    for _ in range(8):
        assert requests.get(f"{node.url}/web/login", timeout=30).ok
    assert maps() == 2


def test_an_invalidation_reaches_everybody(redis, make_worker, lone_database):
    """What is changed in one process is seen in the others' next transactions."""
    first, second = make_worker(redis, lone_database), make_worker(redis, lone_database)
    look = "result = repr(env['ir.rule']._compute_domain('res.partner'))"
    for worker in (first, second):
        worker.run(look, uid=2)
    for number in range(5):
        name = f"test {number}"
        first.run(f"""
            env["ir.rule"].create({{
                "name": {name!r}, "model_id": env["ir.model"]._get_id("res.partner"),
                "domain_force": [("name", "!=", {name!r})],
            }})
        """)
        assert name in second.run(look, uid=2)
        assert name in first.run(look, uid=2)
        assert first.run(look, uid=2) == second.run(look, uid=2)


def test_what_was_not_committed_is_not_shared(redis, make_worker, lone_database):
    """Values computed in a transaction that is rolled back are dropped."""
    first, second = make_worker(redis, lone_database), make_worker(redis, lone_database)
    with pytest.raises(ServerError, match="on purpose"):
        first.run("""
            env["res.lang"]._lang_get("en_US").name = "Uncommitted"
            env.flush_all()
            kept["seen"] = env["res.lang"]._get_active_by("code")["en_US"]["name"]
            raise ValueError("on purpose")
        """)
    assert first.run("result = kept['seen']") == "Uncommitted"
    for worker in (first, second):
        name = worker.run("result = env['res.lang']._get_active_by('code')['en_US']['name']")
        assert name == "English (US)"


def test_what_a_savepoint_undid_is_not_shared(redis, make_worker, lone_database):
    """Neither are values computed before a rollback to a savepoint, though the rest commits."""
    first, second = make_worker(redis, lone_database), make_worker(redis, lone_database)
    first.run("""
        try:
            with cr.savepoint():
                # Without clearing any cache, as a method that creates records on a miss.
                cr.execute("UPDATE res_lang SET name = 'Undone' WHERE code = 'en_US'")
                kept["seen"] = env["res.lang"]._get_active_by("code")["en_US"]["name"]
                raise ValueError
        except ValueError:
            pass
    """)
    assert first.run("result = kept['seen']") == "Undone"
    name = second.run("result = env['res.lang']._get_active_by('code')['en_US']['name']")
    assert name == "English (US)"


def test_a_template_that_a_savepoint_undid_is_compiled_again(redis, make_worker, lone_database):
    """From the whole tree, of which compiling leaves nothing."""
    worker = make_worker(redis, lone_database)
    worker.run("""
        arch = '<t t-name="{0}"><p><i t-out="number"/></p></t>'
        for key in ("test.first", "test.twice"):
            env["ir.ui.view"].create({"type": "qweb", "key": key, "arch": arch.format(key)})
    """)
    found = worker.run("""
        import contextlib
        def render(number, key="test.twice"):
            return str(env["ir.qweb"]._render(key, {"number": number}))
        result = [render(0, "test.first")]
        with contextlib.suppress(ValueError), cr.savepoint(flush=False):  # which clears nothing
            cr.execute("UPDATE res_country SET code = code")
            result.append(render(1))
            raise ValueError
        result.append(render(2))
    """)
    assert found == ["<p><i>0</i></p>", "<p><i>1</i></p>", "<p><i>2</i></p>"]


def test_a_long_transaction_computes_each_value_once(redis, make_worker, lone_database):
    """Though the process knows of a signal that its snapshot misses; it does so again when it has
    invalidated something, and nobody else gets what it keeps."""
    worker = make_worker(redis, lone_database)
    found = worker.run(
        """
        import threading

        registry, model = env.registry, env["ir.model"]._get_id("res.partner")

        def rule(env, name):
            domain = [("name", "!=", name)]
            env["ir.rule"].create({"name": name, "model_id": model, "domain_force": domain})

        def look(env):
            before = env.cr.sql_log_count
            domain = repr(env["ir.rule"]._compute_domain("res.partner"))
            return domain, env.cr.sql_log_count - before

        def change():
            with registry.cursor() as other:
                rule(env(cr=other), "theirs")
                other.commit()
                registry.signal_changes()
            with registry.cursor() as other:
                registry.check_signaling(other)

        look(env)
        thread = threading.Thread(target=change)
        thread.start()
        thread.join()
        result = [look(env) for _time in range(4)]
        with registry.cursor() as other:
            result.append(look(env(cr=other)))
        rule(env, "own")
        result.append(look(env))
    """,
        uid=2,
    )
    *old, new, own = found
    assert {domain for domain, _queries in old} == {old[0][0]}
    assert [queries for _domain, queries in old[1:]] == [0, 0, 0]
    assert "theirs" in new[0]
    assert "theirs" not in old[0][0]
    assert "own" in own[0]
    assert "own" in worker.run(
        "result = repr(env['ir.rule']._compute_domain('res.partner'))", uid=2
    )


def test_a_cron_jobs_values_do_not_reach_visitors(redis, make_worker, lone_database):
    """Without a request, rules and templates may be others: each kind has its own."""
    first, second = make_worker(redis, lone_database), make_worker(redis, lone_database)
    first.run(LOOK)
    in_request = """
        from odoo.http import _request_stack
        class Session:
            debug = ""
        class Request:
            session, is_frontend = Session(), True
        _request_stack.push(Request())
        try:
            env["ir.rule"]._compute_domain("res.partner")
        finally:
            _request_stack.pop()
    """
    second.run(in_request)
    found = second.run(FIGURES)["_compute_domain"]
    assert (found["found"], found["computed"]) == (0, 1)
    third = make_worker(redis, lone_database)
    third.run(in_request)
    assert third.run(FIGURES)["_compute_domain"]["found"] == 1


def test_a_shell_shares(redis, make_worker, lone_database):
    """``odoo shell`` finds what the servers computed; it never commits, and publishes nothing."""
    worker = make_worker(redis, lone_database)
    worker.run(LOOK)
    words = "shell", "-c", worker.log.with_name("odoo.conf"), "--shell-interface", "python"
    look, figures_of = textwrap.dedent(LOOK), textwrap.dedent(FIGURES)
    script = f"{look}\ncr = env.cr\n{figures_of}\n"
    script += "print('FIGURES', sum(figure['found'] for figure in result.values()))\n"
    done = subprocess.run(
        [*odoo_command(), *words],
        input=script,
        env=odoo_environment({}),
        capture_output=True,
        text=True,
        check=True,
    )
    [found] = re.findall(r"FIGURES (\d+)", done.stdout)
    assert int(found) >= MANY


def test_tests_share_nothing(redis, raw, make_worker, lone_database):
    """With ``--test-enable`` the cache is Odoo's own."""
    worker = make_worker(redis, lone_database)
    worker.run("import odoo.tools; odoo.tools.config['test_enable'] = True")
    worker.run(LOOK)
    assert worker.run(FIGURES) == {}
    assert not list(raw.scan_iter(f"*:ormcache:{lone_database}:*:*"))


def test_templates_in_development_are_not_cached(redis, make_worker, lone_database):
    """With ``--dev=xml`` Odoo caches neither views nor templates, and nothing of them is shared."""
    worker = make_worker(redis, lone_database, config={"dev_mode": "xml"})
    worker.run(LOOK)
    worker.run("env['ir.qweb']._compile(env.ref('web.login').id)")
    methods = worker.run(FIGURES)
    assert "_get_allowed_models" in methods
    assert not {"_generate_code_cached", "_get_view_cache", "_compute_domain"} & set(methods)


def test_a_read_only_cursor_shares(redis, make_worker, lone_database, postgres):
    """Transactions on a replica's connection read and publish too."""
    replica = {"db_replica_host": postgres.host, "db_replica_port": postgres.port}
    first = make_worker(redis, lone_database, config=replica)
    second = make_worker(redis, lone_database, config=replica)
    assert first.run("result = cr.readonly", readonly=True)
    assert first.run(LOOK, readonly=True) == second.run(LOOK, readonly=True)
    assert figures(second)["found"] >= MANY


# -- with whom -----------------------------------------------------------------------------------


def test_a_copied_database_does_not_meet_the_other(redis, make_worker, lone_database, postgres):
    """A copy has the same ids, dates, secret and, made anew, the same name: it shares nothing."""
    backup = f"{lone_database}_backup"
    postgres.createdb(backup, lone_database)
    try:
        worker = make_worker(redis, lone_database)
        worker.run("env['res.lang']._lang_get('en_US').name = 'Future'")
        look = "result = env['res.lang']._get_active_by('code')['en_US']['name']"
        assert worker.run(look) == "Future"
        worker.stop()
        postgres.dropdb(lone_database)
        postgres.createdb(lone_database, backup)
        # What the dropped one signalled, the new one signals too: all ids of both are the same.
        worker = make_worker(redis, lone_database)
        worker.run("env.registry.clear_cache('stable')")
        assert worker.run(look) == "English (US)"
        assert worker.run(FIGURES)["_get_active_by"]["found"] == 0
    finally:
        postgres.dropdb(backup)


def test_a_restored_server_does_not_meet_its_abandoned_future(
    redis, make_worker, lone_database, postgres, tmp_path
):
    """Set back to an earlier state of its files, with the same ids and dates: nothing is shared."""
    server = PostgreSQL(tmp_path / "postgresql")
    data, saved = server.data, server.data.with_suffix(".saved")
    look = "result = env['res.lang']._get_active_by('code')['en_US']['name']"
    try:
        with server:
            dump = postgres.dump(lone_database, tmp_path / "dump")
            server.restore(lone_database, dump)
        subprocess.run(["cp", "-a", data, saved], check=True)  # with its owner
        with server:
            worker = make_worker(redis, lone_database, postgres=server)
            # Committed, and computed from, but not signalled when the server is set back.
            server.sql(lone_database, "UPDATE res_lang SET name = 'Future' WHERE code = 'en_US'")
            assert worker.run(look) == "Future"
            worker.stop()
        shutil.rmtree(data)
        saved.rename(data)
        with server:
            worker = make_worker(redis, lone_database, postgres=server)
            assert worker.run(look) == "English (US)"
            assert worker.run(FIGURES)["_get_active_by"]["found"] == 0
    finally:
        server.remove()
        shutil.rmtree(saved, ignore_errors=True)
