"""``ir.config_parameter``: ``get_param`` says what stock Odoo's says, with fewer queries."""

import textwrap

from stack.servers import LOAD

# Each looks at keys that were not asked for before.
SCRIPTS = {
    "inserted": """
        get("test.first")
        cr.execute("INSERT INTO ir_config_parameter (key, value) VALUES ('test.new', 'inserted')")
        result = get("test.new")
    """,
    "updated": """
        get("test.first")
        cr.execute("UPDATE ir_config_parameter SET value = 'updated' WHERE key = 'test.second'")
        result = get("test.second")
    """,
    "updated by a query with WITH": """
        get("test.first")
        cr.execute(
            "WITH all_of_it AS (UPDATE ir_config_parameter SET value = 'updated' RETURNING key)"
            " SELECT * FROM all_of_it"
        )
        result = get("test.second")
    """,
    "updated by the second of two statements": """
        get("test.first")
        cr.execute("SELECT 1; UPDATE ir_config_parameter SET value = 'updated'")
        result = get("test.second")
    """,
    "deleted": """
        get("test.first")
        cr.execute("DELETE FROM ir_config_parameter WHERE key = 'test.second'")
        result = get("test.second")
    """,
    "undone": """
        cr.execute("SAVEPOINT before")
        cr.execute("UPDATE ir_config_parameter SET value = 'undone' WHERE key = 'test.second'")
        get("test.first")
        cr.execute("ROLLBACK TO before")
        result = get("test.second")
    """,
    "undone by a savepoint of Odoo's": """
        try:
            with cr.savepoint():
                cr.execute("UPDATE ir_config_parameter SET value = 'undone'")
                get("test.first")
                raise ValueError
        except ValueError:
            pass
        result = get("test.second")
    """,
    "written": """
        get("test.first")
        env["ir.config_parameter"].search([("key", "=", "test.second")]).value = "written"
        result = get("test.second")
    """,
    "set": """
        get("test.first")
        env["ir.config_parameter"].set_param("test.new", "set")
        result = get("test.new")
    """,
    "changed by another transaction": """
        get("test.first")
        with env.registry.cursor() as other:
            other.execute("UPDATE ir_config_parameter SET value = 'changed' WHERE key ~ '^test'")
        cr.rollback()
        result = get("test.second")
    """,
    "not there": """
        get("test.first")
        result = get("test.nowhere")
    """,
}


def test_a_parameter_is_what_stock_says(redis, make_worker, lone_database, postgres):
    """Whatever changed it, in the same transaction or another."""
    workers = [make_worker(redis, lone_database, load=load) for load in (LOAD, "base,web")]
    for what, script in SCRIPTS.items():
        said = []
        for worker in workers:
            postgres.sql(
                lone_database,
                "DELETE FROM ir_config_parameter WHERE key ~ '^test';"
                "INSERT INTO ir_config_parameter (key, value)"
                " VALUES ('test.first', 'one'), ('test.second', 'two')",
            )
            worker.run("env.registry.clear_all_caches(); env.registry.reset_changes()")
            worker.begin(f"""
get = env["ir.config_parameter"].get_param
{textwrap.dedent(script)}
cr.rollback()
env.registry.reset_changes()
""")
            said.append(worker.end())
        assert said[0] == said[1], what


def test_a_transaction_asks_once(redis, make_worker, lone_database):
    """As long as it only reads."""
    worker = make_worker(redis, lone_database)
    asked = worker.run("""
        get = env["ir.config_parameter"].get_param
        count = cr.sql_log_count
        for number in range(20):
            get(f"test.{number}")
            cr.execute("SELECT 1")
        result = cr.sql_log_count - count - 20
    """)
    assert asked <= 2


HOOK = """
def after_install(env):
    get = env["ir.config_parameter"].get_param
    assert not get("test.first")
    env.cr.execute("INSERT INTO ir_config_parameter (key, value) VALUES ('test.new', 'in SQL')")
    assert get("test.new") == "in SQL"
"""


def test_a_parameter_during_an_installation(redis, make_worker, lone_database, tmp_path):
    """A module's hook may write in SQL what it reads after that."""
    from odoo.tools import config

    addon = tmp_path / "addons/hooked"
    addon.mkdir(parents=True)
    (addon / "__init__.py").write_text(HOOK)
    (addon / "__manifest__.py").write_text(
        "{'name': 'hooked', 'license': 'LGPL-3', 'post_init_hook': 'after_install'}"
    )
    path = {"addons_path": f"{','.join(config['addons_path'])},{addon.parent}"}
    worker = make_worker(redis, lone_database, config=path)
    worker.run("""
        env["ir.module.module"].update_list()
        env["ir.module.module"].search([("name", "=", "hooked")]).button_immediate_install()
    """)
    assert worker.run("result = env['ir.config_parameter'].get_param('test.new')") == "in SQL"
