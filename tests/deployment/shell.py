"""``odoo shell``, as the pages of ``deploy/`` have one run their scripts."""

import subprocess

from stack.provision import environment
from stack.servers import odoo_environment, write_conf


def shell(folder, postgres, database, script):
    """``odoo shell -c ... -d ... --no-http < script``; what came of it.

    :param folder: where Odoo keeps its files
    """
    conf = write_conf(folder / "odoo.conf", postgres, folder, load="base,rpc,web")
    command = [*environment.odoo_command(), "shell", "-c", str(conf), "-d", database, "--no-http"]
    with script.open() as text:
        return subprocess.run(
            command,
            stdin=text,
            capture_output=True,
            text=True,
            env=odoo_environment({}),
            check=False,
        )
