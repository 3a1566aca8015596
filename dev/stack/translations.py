"""Write i18n/redis_session_ormcache.pot with Odoo's own export, and the terms in its translations.

    dev/translations    write them; terms that are new are to be translated in i18n/*.po

Odoo looks for terms in all files of an addon's folder, so it is given a copy of what is packaged.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from . import servers
from .provision import environment

DATABASE = "translations"
TEMPLATE = environment.CHECKOUT / f"i18n/{environment.ADDON}.pot"
LEFT_OUT = ("bench/", "deploy/", "dev/", "tests/", "docs/")
_DATES = re.compile(r'^"(POT-Creation|PO-Revision)-Date: .*\n', re.MULTILINE)


def export(postgres: servers.PostgreSQL) -> str:
    """The terms of the checkout, as Odoo finds them; without dates."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=environment.CHECKOUT, stdout=subprocess.PIPE, check=True, text=True,
    ).stdout  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name in listed.splitlines():
            if not name.startswith(LEFT_OUT) and (environment.CHECKOUT / name).is_file():
                copy = Path(folder, environment.ADDON, name)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(environment.CHECKOUT / name, copy)
        found, options = Path(folder, "found.pot"), {"addons_path": folder}
        postgres.dropdb(DATABASE)
        servers.init_database(postgres, DATABASE, ["web"])
        servers.install(postgres, DATABASE, [environment.ADDON], options)
        words = ["i18n", "export", "-o", str(found), environment.ADDON]
        servers.run_command(postgres, DATABASE, words, options=options)
        postgres.dropdb(DATABASE)
        return _DATES.sub("", found.read_text())


def main() -> int:
    """Write the template, and merge it into the translations."""
    import polib

    with servers.PostgreSQL(environment.home() / "translations/postgresql") as postgres:
        TEMPLATE.write_text(export(postgres))
    template = polib.pofile(str(TEMPLATE))
    for path in sorted(TEMPLATE.parent.glob("*.po")):
        translation = polib.pofile(str(path), wrapwidth=78)
        translation.merge(template)
        for entry in translation.obsolete_entries():
            translation.remove(entry)
        translation.save()
        print(f"{path.name}: {len(translation.untranslated_entries())} terms to translate")
    return 0


if __name__ == "__main__":
    sys.exit(main())
