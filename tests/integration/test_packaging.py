"""Installed with pip, from a checkout in any folder, the addon is found and complete."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

from odoo.addons.redis_session_ormcache.connection import driver

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ast.literal_eval((ROOT / "__manifest__.py").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_one_version():
    """The manifest and the package agree."""
    assert MANIFEST["version"] == PROJECT["version"]
    assert re.fullmatch(r"19\.0\.\d+\.\d+\.\d+", MANIFEST["version"])


def test_the_same_dependencies():
    """Manifest and package ask for the same libraries in the same ranges."""
    packaged = {re.sub(r"\[.*\]", "", line) for line in PROJECT["dependencies"]}
    assert packaged == set(MANIFEST["external_dependencies"]["python"])


def test_the_same_versions():
    """And the code refuses the others."""
    wanted = {driver._wanted(package) for package in driver.VERSIONS}
    assert wanted < set(PROJECT["dependencies"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the checkout as git has it, from a folder with another name."""
    folder = tmp_path_factory.mktemp("wheel")
    checkout = folder / "some-other-name"
    files = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard", "-z"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w"]
        + [folder, checkout],
        check=True,
    )
    return next(folder.glob("*.whl"))


def test_the_wheel_is_the_addon(wheel, tmp_path):
    """It holds the addon under odoo.addons, without tests and tools, and Odoo finds it there."""
    shutil.unpack_archive(wheel, tmp_path, "zip")
    addon = tmp_path / "odoo/addons/redis_session_ormcache"
    for path in ROOT.rglob("*.py"):
        relative = path.relative_to(ROOT)
        others = {"tests", "dev", "bench", "deploy", ".dev", "build"}
        packaged = relative.parts[0] not in others
        assert (addon / relative).exists() == packaged, relative
    for folder in ("i18n", "static/description", "static/src", "views"):
        wanted = {path.name for path in (ROOT / folder).iterdir()}
        assert {path.name for path in (addon / folder).iterdir()} == wanted
    assert not (tmp_path / "odoo/__init__.py").exists()
    assert not (tmp_path / "odoo/addons/__init__.py").exists()
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from odoo.modules.module import Manifest, initialize_sys_path\n"
        "initialize_sys_path()\n"
        "manifest = Manifest.for_addon('redis_session_ormcache')\n"
        "import odoo.addons.redis_session_ormcache as addon\n"
        "print(manifest.path, addon.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.stdout.split()[-2:] == [str(addon), str(addon / "__init__.py")], done.stderr
