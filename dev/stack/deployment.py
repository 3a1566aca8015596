"""The deployment of `deploy/`, started from its own files on free ports of this machine::

    with Deployment(folder, postgres, redis.url, database="shop") as deployment:
        requests.get(deployment.nginx.url, verify=deployment.nginx.authority)

Addresses, folders and the database differ here: they are set by environment variables (Odoo), or
replaced in the text (nginx). A replacement that is not found is an error.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .provision import environment
from .servers import (
    NginxServer,
    PostgreSQL,
    Server,
    ServerError,
    free_port,
    listens,
    odoo_environment,
    start_all,
    stop_all,
    until,
)
from .servers.process import LOOPBACK, Together, answers_http
from .servers.tls import Certificates

if TYPE_CHECKING:
    from typing_extensions import Self

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ROLES, NGINX = DEPLOY / "roles", DEPLOY / "nginx"
HOST = "localhost"  # for odoo.example.com
CRONS, WORKERS = 1, 2


class Unit(Server):
    """A process, as systemd starts it from a unit of `deploy/roles`.

    :param unit: "odoo-web@" of instance "a", "odoo-cron" of none
    :param env: overrides what the unit and odoo.conf say
    """

    timeout = 120.0

    def __init__(
        self, unit: str, instance: str, folder: Path, env: Mapping[str, object], conf: Path
    ) -> None:
        super().__init__(unit + instance, folder)
        self.instance, self.conf = instance, conf
        self.service = self._settings(ROLES / f"{unit}.service")
        self.env = {name: str(value) for name, value in env.items()}
        self.http_port = int(self._variables().get("ODOO_HTTP_PORT", 0))
        self.gevent_port = int(self._variables().get("ODOO_GEVENT_PORT", 0))
        [seconds] = self.service["TimeoutStopSec"]
        self.grace = float(seconds)

    def command(self) -> list[str]:
        [line] = self.service["ExecStart"]
        program, *arguments = shlex.split(line)
        if program != "/usr/bin/odoo" or "--config=/etc/odoo/odoo.conf" not in arguments:
            raise ServerError(f"{self.name}: {line}")
        arguments.remove("--config=/etc/odoo/odoo.conf")
        return [*environment.odoo_command(), *arguments, f"--config={self.conf}"]

    def environment(self) -> dict[str, str]:
        return odoo_environment(self._variables())

    def ready(self) -> bool:
        if "gevent" in self.service["ExecStart"][0]:
            return listens(self.gevent_port)
        if self.http_port:
            return answers_http(f"{self.url}/web/health")
        return "Worker WorkerCron" in self.log.read_text(errors="replace")

    @property
    def url(self) -> str:
        """http://127.0.0.1:port"""
        return f"http://{LOOPBACK}:{self.http_port}"

    def reload(self) -> None:
        """`systemctl reload`."""
        [line] = self.service["ExecReload"]
        argv = [word.replace("$MAINPID", str(self.pid)) for word in shlex.split(line)]
        subprocess.run(argv, check=True)

    def _variables(self) -> dict[str, str]:
        words = [word for line in self.service.get("Environment", []) for word in shlex.split(line)]
        for path in self.service.get("EnvironmentFile", []):
            lines = (ROLES / Path(path).name).read_text().splitlines()
            words += [line for line in lines if line[:1] not in ("", "#")]
        variables = {name: value for name, _equals, value in (w.partition("=") for w in words)}
        return {**variables, **self.env}

    def _settings(self, path: Path) -> dict[str, list[str]]:
        """The section [Service]: a setting may be there several times."""
        found: dict[str, list[str]] = {}
        section = ""
        for line in path.read_text().splitlines():
            if line.startswith("["):
                section = line
            elif "=" in line and line[0] != "#" and section == "[Service]":
                name, _equals, value = line.partition("=")
                found.setdefault(name, []).append(value.replace("%i", self.instance))
        return found


class Balancer(NginxServer):
    """nginx with the files of `deploy/nginx`.

    :param addresses: of nodes: what stands in the files, and what it is here
    :param upstreams: the file that lists the nodes
    :param methods: the list of methods for the read nodes, if there are some
    """

    def __init__(
        self,
        folder: Path,
        addresses: Mapping[str, str],
        certificates: Certificates,
        *,
        upstreams: str = "upstreams.conf",
        methods: str | None = None,
    ) -> None:
        super().__init__(folder)
        self.port, self.plain_port = free_port(), free_port()
        self.addresses, self.certificates = dict(addresses), certificates
        self.upstreams, self.methods = upstreams, methods
        self.access_log = self.folder / "odoo.log"

    @property
    def url(self) -> str:
        """https://localhost:port"""
        return f"https://{HOST}:{self.port}"

    @property
    def authority(self) -> str:
        """The certificate of who signed its own: a file."""
        return f"{self.certificates.ca}.crt"

    def reload(self) -> None:
        """`systemctl reload nginx`: takes up changed files, and finishes what it has begun."""
        os.kill(self.pid, signal.SIGHUP)

    def write(self) -> Path:
        """Write nginx's files; the main one."""
        snippets = self.folder / "odoo"
        snippets.mkdir(exist_ok=True)
        replaced = {
            "/etc/nginx/odoo": str(snippets),
            "/var/cache/nginx": str(self.folder / "cache"),
            "/var/log/nginx": str(self.folder),
            "/var/lib/odoo/filestore": str(self.folder / "data/filestore"),
            "/usr/lib/python3/dist-packages/odoo": str(environment.odoo_path() / "odoo"),
            "/opt/odoo/addons": str(self.folder),
            "/etc/ssl/odoo/fullchain.pem": f"{self.certificates.server}.crt",
            "/etc/ssl/odoo/privkey.pem": f"{self.certificates.server}.key",
            "listen 443 ": f"listen {LOOPBACK}:{self.port} ",
            "listen 80 ": f"listen {LOOPBACK}:{self.plain_port} ",
            "https://odoo.example.com": self.url,
            "odoo.example.com": HOST,
        }
        odoo = substitute((NGINX / "odoo.conf").read_text(), replaced)
        (self.folder / "odoo.conf").write_text(odoo)
        for name in ("proxy.conf", "static.conf", "tls.conf"):
            shutil.copy(NGINX / name, snippets)
        upstreams = self._with_addresses(self.upstreams)
        if self.methods is not None:
            upstreams += self._with_addresses("read-split.conf")
            (snippets / "read-methods.map").write_text(self.methods)
        (snippets / "upstreams.conf").write_text(upstreams)
        (self.folder / "cache").mkdir(exist_ok=True)
        above = environment.binary("nginx").parents  # the root that it was unpacked in, or /
        types = next(path for each in above if (path := each / "etc/nginx/mime.types").exists())
        return self.write_main(f"""
    include "{types}";
    default_type application/octet-stream;
    sendfile on;
    include "{self.folder}/odoo.conf";""")

    def _with_addresses(self, name: str) -> str:
        text = (NGINX / name).read_text()
        used = {there: here for there, here in self.addresses.items() if there in text}
        return substitute(text, used)


def substitute(text: str, replaced: Mapping[str, str]) -> str:
    """Each of these texts replaced at once, the longest first; ServerError if one is not there."""
    if missing := [old for old in replaced if old not in text]:
        raise ServerError(f"not found: {missing}")
    if not replaced:
        return text
    pattern = "|".join(re.escape(old) for old in sorted(replaced, key=len, reverse=True))
    return re.sub(pattern, lambda match: replaced[match[0]], text)


class Deployment(Together):
    """Two web nodes, a cron node and two websocket processes behind nginx.

    :param redis_url: of both halves
    :param replica: PostgreSQL, for a read node
    :param methods: that the read node gets
    :param programs: that Odoo finds on its PATH
    :param env: more variables of each process
    """

    def __init__(
        self,
        folder: Path,
        postgres: PostgreSQL,
        redis_url: str,
        *,
        database: str,
        upstreams: str = "upstreams.conf",
        replica: PostgreSQL | None = None,
        methods: str | None = None,
        workers: int = WORKERS,
        programs: Sequence[str] = (),
        env: Mapping[str, object] | None = None,
    ) -> None:
        self.folder, self.database, self.postgres = Path(folder), database, postgres
        path = [
            environment.python().parent,  # a reload looks for Python there: see deploy/rolling
            *map(environment.program_folder, programs),
            os.environ.get("PATH", os.defpath),
        ]
        common = {
            "PGHOST": postgres.host,
            "PGPORT": postgres.port,
            "PGUSER": postgres.user,
            "PGDATABASE": database,
            "ODOO_DBFILTER": f"^{re.escape(database)}$",
            "ODOO_ADDONS_PATH": environment.addons_path(),
            "ODOO_DATA_DIR": self.folder / "data",
            "ODOO_HTTP_INTERFACE": LOOPBACK,
            "ODOO_WORKERS": workers,
            "ODOO_REDIS_URL": redis_url,
            "PATH": os.pathsep.join(map(str, path)),
            **(env or {}),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        conf = self.folder / "odoo.conf"
        shutil.copy(ROLES / "odoo.conf", conf)
        conf.chmod(0o600)

        def unit(name: str, instance: str = "", **variables: object) -> Unit:
            return Unit(name, instance, self.folder / (name + instance), common | variables, conf)

        def ports() -> dict[str, object]:
            return {"ODOO_HTTP_PORT": free_port(), "ODOO_GEVENT_PORT": free_port()}

        self.web = [unit("odoo-web@", instance, **ports()) for instance in ("a", "b")]
        self.cron = unit("odoo-cron", ODOO_MAX_CRON_THREADS=CRONS)
        self.websocket = [unit("odoo-websocket@", str(free_port())) for _ in range(2)]
        self.read: list[Unit] = []
        if replica:
            where = {"PGHOST_REPLICA": replica.host, "PGPORT_REPLICA": replica.port}
            self.read = [unit("odoo-read@", "a", **ports(), **where)]
        addresses = {
            "10.0.0.11:8069": self.address(self.web[0]),
            "10.0.0.12:8069": self.address(self.web[1]),
            "10.0.0.11:8072": f"{LOOPBACK}:{self.websocket[0].gevent_port}",
            "10.0.0.12:8072": f"{LOOPBACK}:{self.websocket[1].gevent_port}",
        }
        if self.read:
            addresses["10.0.0.13:8269"] = self.address(self.read[0])
        self.nginx = Balancer(
            self.folder / "nginx",
            addresses,
            Certificates(self.folder / "tls"),
            upstreams=upstreams,
            methods=methods,
        )

    @property
    def units(self) -> Sequence[Unit]:
        """All processes of Odoo."""
        return [*self.web, self.cron, *self.websocket, *self.read]

    @staticmethod
    def address(node: Unit) -> str:
        """host:port of a node's HTTP server."""
        return f"{LOOPBACK}:{node.http_port}"

    def start(self) -> Self:
        start_all(*self.units)
        self.nginx.start()
        return self

    def stop(self) -> None:
        stop_all(*self.units, self.nginx)

    def restart(self, node: Unit) -> None:
        """Stop a node, and start it with the code that is there now."""
        node.stop()
        until(lambda: not listens(node.http_port), f"the end of {node.name}")
        node.start()
