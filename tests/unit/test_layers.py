"""What may import what, and whether the examples in docstrings are true."""

import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from stack.provision.environment import ADDON as NAME
from stack.provision.environment import home

ADDON = f"odoo.addons.{NAME}"
ROOT = Path(__file__).parents[2]

# A module may import from its own layer and those before it.
LAYERS = [
    {"exceptions"},
    {"config", "keys", "old_url", "patience", "url"},
    {"connection", "codec"},
    {"migration"},
    {"sessions", "ormcache", "operation"},
    {"http_patch"},
    {"commands", "models"},
]
WITHOUT_ODOO = {
    "exceptions",
    "config",
    "keys",
    "old_url",
    "patience",
    "url",
    "connection",
    "codec",
    "migration",
    "ormcache",
    "operation",
}


@pytest.mark.parametrize(
    "name",
    [
        "keys",
        "old_url",
        "url",
        "migration.session",
        "connection.breaker",
        "connection.latency",
        "codec.value",
        "commands.context",
        "commands.doctor",
        "http_patch.code_listing",
        "http_patch.cursor",
        "operation.overview",
        "ormcache.generation",
        "ormcache.layers",
        "ormcache.policy",
        "ormcache.shared",
        "ormcache.transaction",
        "ormcache.tables",
    ],
)
def test_doctests(name):
    """The examples in the docstrings are true."""
    result = doctest.testmod(importlib.import_module(f"{ADDON}.{name}"))
    assert result.attempted
    assert not result.failed


def imports():
    """(file, layer of that file, what it imports) for all of the addon's modules."""
    layers = {name for layer in LAYERS for name in layer}
    for path in [p for name in layers for p in (ROOT / name).rglob("*.py")] + [
        p for p in ROOT.glob("*.py") if p.stem in layers
    ]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield path, parts[0], alias.name.split(".")
            elif isinstance(node, ast.ImportFrom):
                module = (node.module or "").split(".") if node.module else []
                if node.level:
                    base = list(parts[: len(parts) - node.level])
                    for alias in node.names:
                        yield path, parts[0], ["", *base, *module, alias.name]
                else:
                    yield path, parts[0], module


def test_the_package_imports_nothing_but_the_standard_library():
    """A failure in an import would not stop the server; ``post_load`` imports the rest."""
    code = f"""
import sys, odoo.addons
odoo.addons.__path__.append({str(home() / "addons")!r})
before = set(sys.modules)
import {ADDON}
print(*set(sys.modules) - before)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split() if not name.startswith(ADDON)}
    assert loaded <= set(sys.stdlib_module_names)
    assert f"{ADDON}.http_patch" in done.stdout.split()
    assert f"{ADDON}.models" not in done.stdout.split()


def test_imports_point_down():
    """No layer imports one above it."""
    order = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    seen = 0
    for path, layer, target in imports():
        if target[0] == "" and target[1] in order:
            seen += 1
            assert order[target[1]] <= order[layer], f"{path} imports {'.'.join(target[1:])}"
    assert seen > 10


def test_only_connection_imports_redis():
    """redis-py can be replaced in one package."""
    users = {layer for _path, layer, target in imports() if target[0] in ("redis", "hiredis")}
    assert users == {"connection"}


def test_the_lower_layers_know_nothing_of_odoo():
    """They can be read, and used, without Odoo."""
    users = {layer for _path, layer, target in imports() if target[0] == "odoo"}
    assert users
    assert not users & WITHOUT_ODOO
