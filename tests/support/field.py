"""Addons of others, from PyPI, in databases and nodes of the tests."""

import subprocess
import tempfile
from pathlib import Path

from stack.provision import environment
from stack.servers import odoo_environment, write_conf


def field_addons(*programs):
    """Options of a node that finds them, with these programs on its PATH."""
    folder = environment.field_addons()
    config = {"addons_path": f"{environment.addons_path()},{folder / 'odoo/addons'}"}
    env = {"PYTHONPATH": f"{folder}:{environment.odoo_path()}"}
    if programs:
        folders = [str(environment.program_folder(name)) for name in programs]
        env["PATH"] = ":".join([*folders, odoo_environment({})["PATH"]])
    return {"config": config, "env": env}


def install(postgres, database, modules, options):
    """Install modules in a database; they are there, or what Odoo said is shown."""
    with tempfile.TemporaryDirectory() as folder:
        config = {**options["config"], "db_name": database}
        conf = write_conf(
            Path(folder, "odoo.conf"), postgres, folder, load="base,web", options=config
        )
        done = subprocess.run(
            [*environment.odoo_command(), "-c", conf, "-i", ",".join(modules),
             "--stop-after-init", "--no-http"],
            env=odoo_environment(options["env"]), capture_output=True, text=True, check=False,
        )  # fmt: skip
    query = "SELECT name FROM ir_module_module WHERE state = 'installed'"
    assert set(modules) <= set(postgres.sql(database, query).split()), done.stderr


def set_parameter(postgres, database, key, value):
    """A system parameter, in SQL: nothing runs on this database."""
    postgres.sql(
        database,
        f"INSERT INTO ir_config_parameter (key, value) VALUES ('{key}', '{value}')"
        f" ON CONFLICT (key) DO UPDATE SET value = '{value}'",
    )
