"""The files of ``deploy/``, as the programs that read them see them."""

import json
import re
import shutil
import subprocess

import pytest

from stack.deployment import DEPLOY, ROLES, Balancer
from stack.provision import environment
from stack.servers.tls import Certificates

UNITS = sorted(ROLES.glob("*.service"))
MOST_EXPOSURE = 2.0  # of 10; a service without hardening has 9.6
ADDRESSES = {"10.0.0.11:8069": "127.0.0.1:1", "10.0.0.12:8069": "127.0.0.1:2"}
OTHERS = {"10.0.0.11:8072": "127.0.0.1:3", "10.0.0.12:8072": "127.0.0.1:4"}
READ = {"10.0.0.13:8269": "127.0.0.1:5"}
# The host is the one of the certificate, since the default server refuses others; what the variable
# in proxy_pass holds is the name of an upstream, not one to resolve.
SKIPPED = ("host_spoofing", "missing_resolver")
METHODS = '"~^/web/dataset/call_kw/[^/]+/(?:read|search_read)$" odoo_read;\n'


@pytest.mark.parametrize("methods", [None, METHODS], ids=["alone", "split"])
@pytest.mark.parametrize("upstreams", ["upstreams.conf", "upstreams-ip_hash.conf"])
def test_nginx_takes_them(tmp_path, upstreams, methods):
    """``nginx -t`` and gixy have nothing to say."""
    addresses = {**ADDRESSES, **OTHERS, **(READ if methods else {})}
    certificates = Certificates(tmp_path / "tls")
    nginx = Balancer(
        tmp_path / "nginx", addresses, certificates, upstreams=upstreams, methods=methods
    )
    done = subprocess.run(
        [*nginx.program(), "-t"],
        capture_output=True,
        text=True,
        env=nginx.environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not re.search(r"\[(warn|error|emerg)\]", done.stderr), done.stderr
    gixy = environment.python().with_name("gixy")
    checked = subprocess.run(
        [gixy, "--format", "json", "--skips", ",".join(SKIPPED), nginx.write()],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert json.loads(checked.stdout) == []


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="this machine has no systemd")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_takes_them(tmp_path, unit):
    """``systemd-analyze verify`` has nothing to say, and the units are hardened."""
    program = tmp_path / "odoo"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    name = unit.name.replace("@", "@a")
    copy = tmp_path / name
    copy.write_text(unit.read_text().replace("/usr/bin/odoo", str(program)))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = [line for line in verified.stderr.splitlines() if name in line]
    assert said == []
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(copy)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    [level] = re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert float(level) <= MOST_EXPOSURE


def test_odoo_conf_is_what_size_says():
    """For the machine that odoo.conf names."""
    conf = (ROLES / "odoo.conf").read_text()
    cores, memory, users = re.search(r"for (\d+) cores, (\d+) GB and (\d+) users", conf).groups()
    done = _size("--cores", cores, "--memory", memory, "--users", users)
    assert done.returncode == 0
    lines = [line for line in done.stdout.splitlines() if line[0] != "#"]
    assert "\n".join(lines) in conf


def test_size_says_what_is_not_enough():
    """By its exit code, and with the number of machines."""
    done = _size("--cores", "2", "--memory", "4", "--users", "100")
    assert done.returncode == 1
    assert "NOT ENOUGH: 100 users need 4 such nodes." in done.stdout
    assert "workers = 5" in done.stdout


@pytest.mark.parametrize(
    "arguments", [["--cores", "0"], ["--cores", "two"], ["--memory", "0.5"], ["--users", "-1"]]
)
def test_size_refuses_what_makes_no_sense(arguments):
    """With one line that names it."""
    given = {"--cores": "2", "--memory": "4", "--users": "10", **dict([arguments])}
    done = _size(*[word for pair in given.items() for word in pair])
    assert done.returncode == 2
    assert arguments[0] in done.stderr.splitlines()[-1]


def _size(*arguments):
    return subprocess.run(
        [str(DEPLOY / "roles/size"), *arguments], capture_output=True, text=True, check=False
    )
