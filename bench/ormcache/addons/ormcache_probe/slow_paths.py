"""Work of the processes of `bench/ormcache/run --only slow-paths`, with the addon and without.

Each function runs in a transaction as a request does (`dev/stack/worker.py`). Costs are given as
`(seconds, queries)`.
"""

import pathlib
import statistics
import threading
import time

from odoo import tools
from odoo.addons.base.models.res_lang import ResLang

FAILING_ROWS = 9  # from ten on an import gives up
ITERATIONS = 10
LONGEST_PAUSE = 60  # seconds
GROUP = "project.group_project_manager"
LANGUAGE, PARTNER, USER = "en_US", 1, 2


@tools.ormcache()
def _slow_paths_note(self):
    """A cached method as another addon may have it: it reads a table of another model."""
    # Slow, so that asking Redis is worth it.
    self.env.cr.execute("SELECT ref, pg_sleep(0.005) FROM res_partner WHERE id = %s", [PARTNER])
    return self.env.cr.fetchone()[0]


def add_method():
    """Give a model that method; before registries are loaded."""
    ResLang._slow_paths_note = _slow_paths_note


# --- a transaction goes on with what it sees, while another thread has seen a signal


def _mail(env):
    values = {
        "author_user": env.user,
        "company": env.company,
        "email_notification_force_header": True,
        "message": env["mail.message"].new({"body": "Hello"}),
        "model_description": "Contact",
        "record": env["res.partner"].browse(PARTNER),
        "record_name": "A name",
        "signature": "",
        "subtitles": ["A subtitle"],
        "tracking_values": [],
        "website_url": "",
    }
    return lambda: env["ir.qweb"]._render("mail.mail_notification_layout", values)


def _rule(env):
    return lambda: env["ir.rule"]._compute_domain("res.partner")


ITERATED = {"template": (_mail, "templates"), "rule": (_rule, "default")}


def in_an_old_transaction(env, what):
    """Look a value up in each iteration, since another thread saw that it was invalidated.

    :return: of the first iteration, and the medians of the others
    """
    make, key = ITERATED[what]
    call = make(env)
    call()
    _while_signalled(env, key)
    first, *others = [_timed(env, call) for _ in range(1 + ITERATIONS)]
    return first, [statistics.median(column) for column in zip(*others, strict=True)]


def _while_signalled(env, key):
    """Stay in the transaction while another process signals and another thread checks that."""
    env.cr.execute("SELECT 1")  # it has its snapshot
    thread = threading.Thread(target=_signal_and_check, args=(env.registry, key))
    thread.start()
    thread.join()


def _signal_and_check(registry, key):
    with registry.cursor() as cr:  # what another process inserts
        cr.execute(f"INSERT INTO orm_signaling_{key} DEFAULT VALUES")
    with registry.cursor() as cr:  # what the next request does
        registry.check_signaling(cr)


# --- an import


def import_rows(env, key=None):
    """Import rows of which each fails in a savepoint, twice in one transaction.

    :param key: of caches that another process clears meanwhile, which another thread has seen
    :return: of a row the first time, and of one the second time
    """
    if key:
        _while_signalled(env, key)
    return [
        [number / FAILING_ROWS for number in _timed(env, lambda: _import(env))] for _ in range(2)
    ]


def _import(env):
    rows = [["", "A-1"]] * FAILING_ROWS
    found = env["product.template"].load(["name", "default_code"], rows)
    if found["ids"] or len(found["messages"]) < FAILING_ROWS:
        raise AssertionError(f"not each row fails: {found}")


# --- a value that a long transaction has claimed

CLAIMED = {
    "assets": lambda env: env["ir.qweb"]._get_asset_content("web.assets_backend"),
    "menus": lambda env: env["ir.ui.menu"]._visible_menu_ids(False),
}


def look_up(env, what):
    """Look one of `CLAIMED` up."""
    return _timed(env, lambda: CLAIMED[what](env))


def look_up_and_go_on(env, what, path):
    """The same; then be busy with other things in the same transaction."""
    look_up(env, what)
    _pause(path)


# --- which value is right


def set_member(env, member):
    """Put the user in a group, or take him out."""
    env["res.users"].browse(USER).write({"group_ids": [(4 if member else 3, env.ref(GROUP).id)]})


def is_member(env):
    """Whether the user is in that group."""
    return env["res.users"].browse(USER).has_group(GROUP)


def work_and_commit(env, path):
    """Commit and go on with the same cursor, as a shell or a long job does.

    :return: as `is_member`, which is looked up here for the first time
    """
    env["res.lang"]._get_active_by("code")
    env.cr.commit()
    _pause(path)
    return is_member(env)


TOLD = {
    "watched": lambda env: env["res.lang"]._get_active_by("code")[LANGUAGE]["name"],
    "other": lambda env: env["res.lang"]._slow_paths_note(),
}


def told(env, what):
    """A cached method's answer about a table that the addon watches, or of another one."""
    return TOLD[what](env)


def signal_too_early(env, what, text, path):
    """Change what `told` tells, and signal it some time before the commit."""
    if what == "watched":
        env["res.lang"]._lang_get(LANGUAGE).name = text
    else:
        env["res.partner"].browse(PARTNER).ref = text
        env.registry.clear_cache()
    env.flush_all()
    env.registry.signal_changes()
    _pause(path)


def clear_all(env):
    """Empty all caches; the end of the request tells the other processes."""
    env.registry.clear_all_caches()


def _timed(env, call):
    queries, start = env.cr.sql_log_count, time.perf_counter()
    call()
    return time.perf_counter() - start, env.cr.sql_log_count - queries


def _pause(path):
    """Make a file, and go on when it is gone."""
    place, end = pathlib.Path(path), time.monotonic() + LONGEST_PAUSE
    place.touch()
    while place.exists():
        if time.monotonic() > end:
            raise TimeoutError(path)
        time.sleep(0.005)
