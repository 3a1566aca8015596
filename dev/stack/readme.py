"""Generate README.rst and static/description/index.html from readme/*.md.

dev/readme          write them
dev/readme --check  exit with 1 if they are not what the fragments say
"""

from __future__ import annotations

import ast
import sys

from .provision import environment

FRAGMENTS = {  # in OCA's order
    "DESCRIPTION": "",
    "INSTALL": "Installation",
    "CONFIGURE": "Configuration",
    "USAGE": "Usage",
    "ROADMAP": "Known issues / Roadmap",
    "HISTORY": "Changelog",
    "CONTRIBUTORS": "Contributors",
}


def readme() -> str:
    """README.rst."""
    import pypandoc

    root = environment.CHECKOUT
    title = ast.literal_eval((root / "__manifest__.py").read_text())["name"]
    parts = [f"{'=' * len(title)}\n{title}\n{'=' * len(title)}\n"]
    parts.append(".. Generated from readme/*.md by dev/readme: change those.\n")
    parts.append("|license|\n\n.. |license| replace:: License: LGPL-3 · Odoo 19.0\n")
    for name, heading in FRAGMENTS.items():
        text = (root / "readme" / f"{name}.md").read_text()
        rst = pypandoc.convert_text(
            text, "rst", format="gfm", extra_args=["--wrap=preserve", "--shift-heading-level-by=1"]
        )
        parts.append(f"{heading}\n{'=' * len(heading)}\n\n{rst}" if heading else rst)
    return "\n".join(parts)


def page(rst: str) -> str:
    """static/description/index.html, which Odoo shows in its list of apps."""
    from docutils.core import publish_string

    settings = {
        "report_level": 2,
        "halt_level": 2,
        "embed_stylesheet": False,
        "stylesheet_path": "",
        "xml_declaration": False,  # Odoo refuses a page with one, and with it the addon
    }
    html: str = publish_string(rst, writer_name="html", settings_overrides=settings).decode()
    return html.replace('src="static/description/', 'src="')  # Odoo looks beside the page


def main() -> int:
    root = environment.CHECKOUT
    rst = readme()
    generated = {root / "README.rst": rst, root / "static/description/index.html": page(rst)}
    if "--check" in sys.argv:
        stale = [path for path, text in generated.items() if path.read_text() != text]
        for path in stale:
            print(f"{path.relative_to(root)} is not what readme/ says: run dev/readme")
        return bool(stale)
    for path, text in generated.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
