"""Move all attachments to where new ones go.

    odoo shell -c /etc/odoo/odoo.conf -d production --no-http < deploy/attachments/move.py

`ir_attachment.location` says where: set it to `db` or `file` first. It commits every 100
attachments, so it can be ended and run again while people work. An attachment whose file is not on
this node is left as it is, because Odoo would read it as empty; the exit code is 1 then.
"""

import os
import sys

BATCH = 100


def move(env):
    """How many could not be moved."""
    attachments = env["ir.attachment"].with_context(active_test=False)
    every = ["|", ("res_field", "=", False), ("res_field", "!=", False), ("type", "=", "binary")]
    ids = attachments.search(every + attachments._get_storage_domain(), order="id").ids
    left = 0
    for start in range(0, len(ids), BATCH):
        batch = attachments.browse(ids[start : start + BATCH]).exists()
        there = batch.filtered(is_there)
        left += len(batch) - len(there)
        there._migrate()
        env.cr.commit()
        env.invalidate_all()
        print(f"{min(start + BATCH, len(ids)):,} of {len(ids):,}", flush=True)
    if left:
        print(f"{left:,} were left: their files are not on this node")
    return left


def is_there(attachment):
    name = attachment.store_fname
    return not name or os.path.isfile(attachment._full_path(name))


if "env" in globals():  # in a shell
    sys.exit(1 if move(env) else 0)  # noqa: F821
