"""Loaded server-wide by every process that bench/ormcache/run measures, with the addon and without.

Each response says which process gave it and how many queries that process has made so far, in all
its threads. `/probe/...` is answered in front of Odoo, so that asking warms no cache of Odoo's:
even `/web/health` would build the routing map.
"""

import contextlib
import json
import os
import socket
import time
import warnings
from collections import defaultdict

import odoo.http
import odoo.service.server
from odoo import sql_db
from odoo.modules.registry import Registry
from odoo.tools import config
from odoo.tools.cache import _COUNTERS

from . import slow_paths

PORTS = "ORMCACHE_PROBE_PORTS"  # "8001,8002": prefork workers listen on a port of their own each

_loaded = {}


def post_load():
    """Entry point named by the manifest."""
    # A fresh process logs those of Werkzeug 2.3 with tracebacks; other versions have none.
    warnings.filterwarnings("ignore", category=DeprecationWarning, message="'werkzeug")
    _time_the_registry()
    _answer_first()
    slow_paths.add_method()
    if os.environ.get(PORTS):
        _give_each_worker_a_port()


def status():
    """What this process has done so far."""
    return {
        "ready": bool(_loaded),
        "pid": os.getpid(),
        "queries": sql_db.sql_counter,
        "cpu": time.process_time(),
        **_loaded,
        "methods": _methods(),
        "shared": shared_counters(),
    }


def shared_counters():
    """Seconds that cached methods cost this process, and that values made elsewhere saved it.

    :return: `{"computed": seconds, "saved": seconds}`; None where there is no shared cache. Inner
        calls count twice in both
    """
    if "redis_session_ormcache" not in config["server_wide_modules"]:
        return None
    from odoo.addons.redis_session_ormcache.http_patch.ormcache_log import figures

    counters = [c for methods in figures().values() for _hits, c in methods.values()]
    computed = sum(counter.gen_time for counter in _COUNTERS.copy().values())
    return {"computed": computed, "saved": sum(counter.saved for counter in counters)}


def clear(database, *keys):
    """Empty caches of a database as a request would, which tells the other processes.

    :param keys: of which caches; none: of all
    """
    registry = Registry(database)
    if keys:
        registry.clear_cache(*keys)
    else:
        registry.clear_all_caches()
    registry.signal_changes()


def _methods():
    """Misses and seconds in the cached methods, as Odoo counts them: inner calls count twice."""
    methods = defaultdict(lambda: [0, 0.0])
    for (_database, method), counter in _COUNTERS.copy().items():
        methods[method.__qualname__][0] += counter.miss
        methods[method.__qualname__][1] += counter.gen_time
    return methods


def _memory():
    """Bytes of this process: its share of what is shared (pss), and its own alone (uss)."""
    sizes = {}
    with open("/proc/self/smaps_rollup") as lines:
        for line in lines:
            name, *words = line.split()
            if words[-1:] == ["kB"]:
                sizes[name] = int(words[0]) * 1024
    return {"pss": sizes["Pss:"], "uss": sizes["Private_Clean:"] + sizes["Private_Dirty:"]}


def _age():
    """Seconds since this process was started."""
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _time_the_registry():
    load = odoo.service.server.preload_registries

    def timed(names):
        start, queries = time.monotonic(), sql_db.sql_counter
        code = load(names)
        _loaded.update(
            start_seconds=_age(),
            registry_seconds=time.monotonic() - start,
            registry_queries=sql_db.sql_counter - queries,
        )
        return code

    odoo.service.server.preload_registries = timed


def _answer_first():
    serve = odoo.http.Application.__call__

    def call(application, environ, start_response):
        path = environ["PATH_INFO"]
        if path.startswith("/probe/"):
            return _answer(path, start_response)

        def start(code, headers, *args):
            seen = [("X-Worker", str(os.getpid())), ("X-Queries", str(sql_db.sql_counter))]
            return start_response(code, [*headers, *seen], *args)

        return serve(application, environ, start)

    odoo.http.Application.__call__ = call


def _answer(path, start_response):
    _, _, action, *words = path.split("/")
    if action == "clear":
        clear(*words)
    # What it weighs takes long to find out, and leaves the processor's caches to others.
    answer = {**status(), "memory": _memory()} if action == "weigh" else status()
    body = json.dumps(answer).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


def _give_each_worker_a_port():
    """A client can then keep to one worker, which it cannot on the port that all accept from."""
    start = odoo.service.server.WorkerHTTP.start

    def start_on_own_port(worker):
        worker.multi.socket = _listen([int(port) for port in os.environ[PORTS].split(",")])
        start(worker)

    odoo.service.server.WorkerHTTP.start = start_on_own_port


def _listen(ports):
    """Listen on the first port that no other worker has taken."""
    for port in ports:
        listener = socket.socket()
        with contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            listener.listen(64)
            return listener
        listener.close()
    raise OSError(f"all ports are taken: {ports}")
