"""Where attachments are: the scripts of ``deploy/attachments``, and a node without the files."""

from pathlib import Path

import pytest

from odoo.addons.redis_session_ormcache.tests.deployment.shell import shell
from stack.deployment import DEPLOY

FOLDER = DEPLOY / "attachments"
CONTENT = b"what somebody wrote" * 100
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA"
    "AABJRU5ErkJggg=="
)
MAKE = f"""
    env["ir.config_parameter"].set_param("ir_attachment.location", "file")
    made = env["ir.attachment"].create([
        {{"name": str(number), "raw": {CONTENT!r} + bytes([number])}} for number in range(5)
    ])
    env.ref("base.main_partner").image_1920 = "{PIXEL}"
    env.cr.commit()
    result = made.mapped(lambda each: [each.id, each._full_path(each.store_fname)])
"""
SET = 'env["ir.config_parameter"].set_param("ir_attachment.location", "{}")\nenv.cr.commit()'


@pytest.fixture
def node(make_worker, redis, lone_database, tmp_path):
    """A process of a node that has the files."""
    return make_worker(redis, lone_database, config={"data_dir": tmp_path / "data"})


@pytest.fixture
def run(postgres, lone_database, tmp_path):
    """Runs a script of the page on that node."""
    return lambda script: shell(tmp_path, postgres, lone_database, FOLDER / script)


def contents(node, made):
    return node.run(
        f"result = env['ir.attachment'].browse({[number for number, _path in made]})"
        ".mapped(lambda each: each.raw.decode('latin-1'))"
    )


def test_a_missing_file_is_found(node, run):
    """By its name, and the exit code."""
    made = node.run(MAKE)
    done = run("check.py")
    assert done.returncode == 0, done.stderr
    assert " 0 of " in f" {done.stdout.splitlines()[-1]}"
    lost = Path(made[2][1])
    lost.unlink()
    done = run("check.py")
    assert done.returncode == 1
    assert f"not there: {lost.parent.name}/{lost.name}" in done.stdout


def test_attachments_move_and_none_is_lost(node, run, tmp_path):
    """To the database and back; what has no file on this node stays as it is."""
    made = node.run(MAKE)
    before = contents(node, made)
    lost, away = Path(made[4][1]), tmp_path / "away"
    lost.rename(away)
    node.run(SET.format("db"))
    done = run("move.py")
    assert done.returncode == 1, done.stderr
    assert "1 were left" in done.stdout
    away.rename(lost)
    done = run("move.py")
    assert done.returncode == 0, done.stderr
    assert contents(node, made) == before
    left = "SELECT count(*) FROM ir_attachment WHERE store_fname IS NOT NULL"
    assert node.run(f"env.cr.execute('{left}')\nresult = env.cr.fetchone()[0]") == 0
    node.run(SET.format("file"))
    assert run("move.py").returncode == 0
    assert contents(node, made) == before


CALLS = {
    "web_search_read": "env['res.partner'].web_search_read([], {'name': {}, 'image_128': {}})",
    "web_read": "env.ref('base.main_partner').web_read({'name': {}, 'image_1920': {}})",
    "get_views": "env['res.partner'].get_views([[False, 'kanban'], [False, 'form']])",
    "name_search": "env['res.partner'].name_search('a')",
    "read": "env.ref('base.main_partner').read(['name', 'image_1920'])",
}
NEEDS_FILES = {"read"}


@pytest.mark.parametrize("call", CALLS)
def test_a_read_node_needs_no_files(node, make_worker, redis, lone_database, tmp_path, call):
    """The web client asks for the sizes of pictures only; a program may ask for one itself."""
    node.run(MAKE)
    bare = make_worker(redis, lone_database, config={"data_dir": tmp_path / "elsewhere"})
    context = {} if call == "read" else {"bin_size": True}
    code = f"result = repr({CALLS[call]})"
    answers = [worker.run(code, context=context) for worker in (node, bare)]
    assert (answers[0] != answers[1]) == (call in NEEDS_FILES)
