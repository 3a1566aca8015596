"""Addons of others, from PyPI, in databases and nodes of the tests."""

from stack.provision import environment
from stack.servers import odoo_environment


def field_addons(*programs):
    """Options of a node that finds them, with these programs on its PATH."""
    folder = environment.field_addons()
    config = {"addons_path": f"{environment.addons_path()},{folder / 'odoo/addons'}"}
    env = {"PYTHONPATH": f"{folder}:{environment.odoo_path()}"}
    if programs:
        folders = [str(environment.program_folder(name)) for name in programs]
        env["PATH"] = ":".join([*folders, odoo_environment({})["PATH"]])
    return {"config": config, "env": env}


def set_parameter(postgres, database, key, value):
    """A system parameter, in SQL: nothing runs on this database."""
    postgres.sql(
        database,
        f"INSERT INTO ir_config_parameter (key, value) VALUES ('{key}', '{value}')"
        f" ON CONFLICT (key) DO UPDATE SET value = '{value}'",
    )
