"""Make static/description/*.png: the page Settings > Technical > Redis, light, dark, on a phone.

    dev/screenshots         write them; look at them before they are committed

Two prefork nodes serve some people, so what is shown is counted by them. The day before is made up,
since nobody waits for a day. Root is needed, to give the nodes names of their own.
"""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

from . import servers
from .provision import environment

DATABASE = "production"
FOLDER = environment.home() / "screenshots"
PICTURES = environment.CHECKOUT / "static/description"
DARK = "odoo-addon-web-dark-mode==19.0.1.0.0.6"
WIDE, PHONE, TALL = 1280, 390, 1340  # pixels: two widths, and the height of a phone's picture
INTERVAL = 10  # seconds between two refreshes of the page
PEOPLE = {
    "anita": "Anita Oliver",
    "joel": "Joel Willis",
    "marc": "Marc Demo",
    "mina": "Mina Kovács",
    "yue": "Yue Zhang",
}
MAKE_PEOPLE = f"""
for login, name in {PEOPLE!r}.items():
    env["res.users"].create({{"login": login, "password": login, "name": name}})
admin = env.ref("base.user_admin")
admin.name = "Mitchell Admin"
admin.tz = "Europe/Brussels"
"""
MAKE_UP_A_DAY = """
import math
import random
from odoo.addons.redis_session_ormcache.http_patch import install
from odoo.addons.redis_session_ormcache.operation.books import REDIS_CALLS, REDIS_SECONDS, Figure

chance = random.Random(7)
books, database = install.current().books, env.cr.dbname
now = books.now()
methods = {  # by the part of the time that they save
    "ir_asset.IrAsset._get_asset_paths": 0.36,
    "ir_qweb.IrQweb._generate_code_cached": 0.24,
    "ir_ui_view.IrUiView._get_view_cache": 0.2,
    "ir_rule.IrRule._compute_domain": 0.07,
    "ir_actions.IrActionsActions._get_bindings": 0.05,
    "ir_qweb.IrQweb._generate_asset_links_cache": 0.04,
    "ir_model.IrModelAccess._get_access_groups": 0.02,
    "ir_model.IrModelFields._get_fields_cached": 0.02,
}
for ago in range(24 * 60, 2, -5):
    books.now = lambda: now - 60 * ago
    busy = 0.25 + max(0, math.sin((24 * 60 - ago) / (24 * 60) * math.pi)) * chance.uniform(0.8, 1)
    lookups = int(9000 * busy)
    missed = lookups * (0.3 if ago in (905, 910, 915) else chance.uniform(0.02, 0.04) / busy**0.5)
    found = missed * chance.uniform(0.86, 0.95)
    amounts = {}
    for name, part in methods.items():
        method = f"odoo.addons.base.models.{name}"
        amounts |= {
            Figure("cache_hits", database, method): int((lookups - missed) * part),
            Figure("cache_misses", database, method): int(missed * part),
            Figure("cache_found", database, method): int(found * part),
            Figure("cache_seconds_saved", database, method): found * 0.007 * part * part,
        }
    calls, slower = int(200 * busy), chance.uniform(0, 0.0002) * busy
    amounts |= {
        Figure(REDIS_CALLS, "", "sessions HGETALL 0.0005"): calls,
        Figure(REDIS_SECONDS, "", "sessions HGETALL"): calls * (0.0003 + slower),
    }
    books.add("web1", amounts)
"""


class Node(servers.Odoo):
    """One whose host has its name."""

    def command(self) -> list[str]:
        script = f'hostname {self.name} && exec "$@"'
        return ["unshare", "--uts", "sh", "-c", script, "sh", *super().command()]


def main() -> int:
    """Start all, use it, and take the pictures."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    addons = [environment.addons_path(), str(environment.package(DARK) / "odoo/addons")]
    options: dict[str, Any] = {"addons_path": ",".join(addons)}
    with (
        servers.PostgreSQL(FOLDER / "postgresql") as postgres,
        servers.Redis(FOLDER / "redis") as redis,
        servers.Chromium(FOLDER / "chromium") as browser,
    ):
        postgres.dropdb(DATABASE)
        servers.init_database(postgres, DATABASE, ["web", "bus"])
        settings = {"url": redis.url}
        names = [environment.ADDON, "web_dark_mode"]
        servers.install(postgres, DATABASE, names, options)
        worker = servers.Worker(
            FOLDER / "worker", postgres, database=DATABASE, config=options, redis=settings
        )
        with worker:
            worker.run(MAKE_PEOPLE)
            worker.run(MAKE_UP_A_DAY)
        nodes = [
            Node(name, FOLDER / name, postgres, database=DATABASE, workers=2, redis=settings,
                 config={**options, "max_cron_threads": int(name == "web1")})
            for name in ("web1", "web2")
        ]  # fmt: skip
        addresses = [node.address for node in nodes]
        nginx = servers.Nginx(FOLDER / "nginx", nodes=addresses, websocket=nodes[0].websocket)
        servers.start_all(*nodes, nginx)
        try:
            use(nodes)
            take(browser, nginx.url)
        finally:
            servers.stop_all(*nodes, nginx)
    return 0


def use(nodes: list[Node]) -> None:
    """Have people log in here and there, and look around."""
    import requests

    for number, login in enumerate([*PEOPLE, "anita", "yue"]):
        with requests.Session() as http:
            http.trust_env = False
            account = {"db": DATABASE, "login": login, "password": login}
            node = nodes[number % 2]
            call: Any = {"jsonrpc": "2.0", "method": "call", "params": account}
            http.post(f"{node.url}/web/session/authenticate", json=call, timeout=60)
            for path in ("/odoo", "/web/webclient/load_menus", "/odoo/users"):
                for each in nodes:
                    http.get(each.url + path, timeout=60)


def take(browser: servers.Chromium, url: str) -> None:
    """The pictures, of the whole page each."""
    from PIL import Image

    tab = browser.tab(f"{url}/web/login", browser.profile())
    assert tab.login(DATABASE)
    for name, width, is_dark in (
        ("page", WIDE, False),
        ("page-dark", WIDE, True),
        ("page-phone", PHONE, False),
        ("page-phone-dark", PHONE, True),
    ):
        tab.call(
            "/web/dataset/call_kw",
            model="res.users", method="write", args=[[2], {"dark_mode": is_dark}], kwargs={},
        )  # fmt: skip
        tab.resize(width, 800)
        tab.open(f"{url}/odoo/redis")
        tab.until("document.querySelectorAll('[aria-labelledby=o_redis_nodes] tbody tr')[4]", 60)
        hidden = "document.querySelector('.o_content').scrollHeight - innerHeight"
        tab.resize(width, 800 + tab.evaluate(f"{hidden} + 120"))
        time.sleep(2 * INTERVAL)  # some points of the chart of answers
        path = PICTURES / f"{name}.png"
        tab.screenshot(path)
        picture = Image.open(path).convert("RGB")
        if width == PHONE:
            picture = picture.crop((0, 0, PHONE, TALL))
        picture = picture.quantize(200, dither=Image.Dither.NONE)
        picture.save(path, optimize=True)
        print(path, path.stat().st_size)


if __name__ == "__main__":
    sys.exit(main())
