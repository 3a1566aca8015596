"""Whether this node has all attachments: where each is, and which files are not there.

    odoo shell -c /etc/odoo/odoo.conf -d production --no-http < deploy/attachments/check.py

Run it on each node. The exit code is 1 if a file is missing here: Odoo gives out an empty one then.
"""

import os
import sys

SHOWN = 20
_COUNT = (
    "SELECT count(*), coalesce(sum(file_size), 0) FROM ir_attachment WHERE type = 'binary' AND "
)


def check(env):
    """The names of files that are not there; prints what it found."""
    attachments = env["ir.attachment"]
    print(f"New attachments go to: {attachments._storage()}")
    for where, condition in (
        ("in the database", "store_fname IS NULL"),
        (f"in {attachments._filestore()}", "store_fname IS NOT NULL"),
    ):
        env.cr.execute(_COUNT + condition)
        number, size = env.cr.fetchone()
        print(f"{number:9,} attachments, {size / 1e6:9,.1f} MB, {where}")
    env.cr.execute("SELECT DISTINCT store_fname FROM ir_attachment WHERE store_fname IS NOT NULL")
    names = [name for (name,) in env.cr.fetchall()]
    missing = sorted(name for name in names if not os.path.isfile(attachments._full_path(name)))
    for name in missing[:SHOWN]:
        print(f"not there: {name}")
    print(f"{len(missing):,} of {len(names):,} files are not there")
    return missing


if "env" in globals():  # in a shell
    sys.exit(1 if check(env) else 0)  # noqa: F821
