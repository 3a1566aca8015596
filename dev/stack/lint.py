"""Check style, types, Odoo conventions and the generated files: `dev/lint`."""

import os
import subprocess
import sys
from pathlib import Path

from .provision import environment

TYPED_PACKAGES = [
    *(
        "codec",
        "commands",
        "connection",
        "http_patch",
        "migration",
        "operation",
        "ormcache",
        "sessions",
    ),
]
TYPED_MODULES = ["config", "exceptions", "keys", "old_url", "patience", "url"]


def main() -> int:
    """The number of checks that failed."""
    root, bin_folder = environment.CHECKOUT, environment.python().parent
    environment.addons_path()  # makes the link
    addons, project = environment.home() / "addons", root / "pyproject.toml"
    typed = [word for name in TYPED_PACKAGES for word in ("-p", f"{environment.ADDON}.{name}")]
    typed += [word for name in TYPED_MODULES for word in ("-m", f"{environment.ADDON}.{name}")]
    files = subprocess.run(["git", "ls-files"], cwd=root, stdout=subprocess.PIPE, check=True)
    paths = [path for path in files.stdout.decode().splitlines() if (root / path).is_file()]
    sources = [
        path
        for path in paths
        if path.endswith(".py") and not path.startswith(("bench/", "deploy/", "dev/", "tests/"))
    ]
    scripts = [p for p in paths if not Path(p).suffix and _is_python(root / p)]
    checks: dict[str, tuple[Path, list[str | Path]]] = {
        "ruff": (root, ["ruff", "check", ".", *scripts]),
        "format": (root, ["ruff", "format", "--check", ".", *scripts]),
        "mypy": (addons, ["mypy", "--config-file", project, *typed]),
        "mypy dev": (root / "dev", ["mypy", "--config-file", project, "-p", "stack"]),
        "pylint-odoo": (
            addons,
            [
                *("pylint", "--load-plugins=pylint_odoo", "--disable=all", "--enable=odoolint"),
                "--manifest-required-authors=redis_session_ormcache founders",
                *(f"{environment.ADDON}/{path}" for path in sources),
            ],
        ),
        "readme": (root, [root / "dev/readme", "--check"]),
    }
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    failed = []
    for name, (folder, (program, *arguments)) in checks.items():
        command = [bin_folder / program, *arguments]
        if subprocess.run(command, cwd=folder, env=variables, check=False).returncode:
            failed.append(name)
    print("lint:", f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return len(failed)


def _is_python(path: Path) -> bool:
    return path.read_bytes().startswith(b"#!/usr/bin/env python3\n")


if __name__ == "__main__":
    sys.exit(main())
