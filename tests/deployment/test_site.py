"""What people do on two web nodes, with a cron node and two websocket processes."""

import contextlib
import json
import re
import time

import pytest
import websocket

from odoo.addons.redis_session_ormcache.tests.deployment.person import Person
from stack.servers import until

PATIENCE = 30  # seconds
JOBS = 3


@pytest.fixture(autouse=True)
def no_errors(deployment):
    """No process logs an error or a traceback meanwhile."""
    sizes = {unit: unit.log.stat().st_size for unit in deployment.units}
    yield
    for unit, size in sizes.items():
        with unit.log.open(errors="replace") as log:
            log.seek(size)
            wrong = [line for line in log if re.search(r" (ERROR|CRITICAL) |^Traceback", line)]
        assert wrong == [], f"{unit.name}: {wrong}"


def lines(deployment):
    """Requests, as nginx logged them."""
    return deployment.nginx.access_log.read_text().splitlines()


def upstreams(logged):
    """Addresses that served these requests."""
    return {re.findall(r'"([^"]*)"', line)[3].split(", ")[-1] for line in logged}


def test_a_login_holds_on_every_node(deployment, admin):
    """Round robin is safe: requests go to both nodes, and both know who asks."""
    before = len(lines(deployment))
    for _ in range(10):
        assert admin.rpc("/web/session/get_session_info")["uid"] == 2
        page = admin.get("/odoo")
        assert page.status_code == 200
        assert "odoo.__session_info__" in page.text
    until(lambda: len(lines(deployment)) >= before + 20, "that nginx has logged all")
    assert upstreams(lines(deployment)[before:]) == set(map(deployment.address, deployment.web))


def test_the_cookie_is_for_https_only(deployment):
    """And neither scripts nor other sites are given it."""
    page = Person(deployment.nginx).get("/web/login")
    [cookie] = [cookie for cookie in page.cookies if cookie.name == "session_id"]
    assert cookie.secure
    assert {"HttpOnly", "SameSite"} <= set(cookie._rest)
    assert page.headers["Strict-Transport-Security"].startswith("max-age=31536000")


def test_plain_http_is_redirected(deployment):
    """With the path, to the name of the site."""
    import requests

    url = f"http://127.0.0.1:{deployment.nginx.plain_port}/odoo?debug=1"
    answer = requests.get(
        url, headers={"Host": "elsewhere.example"}, allow_redirects=False, timeout=9
    )
    assert answer.status_code == 301
    assert answer.headers["Location"] == f"{deployment.nginx.url}/odoo?debug=1"


def test_odoo_knows_the_address_of_the_browser(deployment, admin):
    """From nginx, whatever the browser itself forwards."""
    forged = {"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Host": "evil.example"}
    page = Person(deployment.nginx).get("/odoo", headers=forged)
    assert page.status_code == 303
    assert "evil" not in page.headers["Location"]
    admin.get("/odoo", headers=forged)
    for node in deployment.web:
        assert "1.2.3.4" not in node.log.read_text(errors="replace")


def test_an_attachment_goes_up_and_comes_down(deployment, admin):
    """What one node stored, the other one gives out."""
    content = b"what somebody wrote" * 1000
    uploaded = admin.post(
        "/web/binary/upload_attachment",
        data={"model": "res.partner", "id": "1", "csrf_token": admin.token()},
        files={"ufile": ("note.txt", content, "text/plain")},
    )
    [found] = json.loads(uploaded.text)
    for node in deployment.web:
        answer = admin.get(f"/web/content/{found['id']}?download=1", node=node)
        assert answer.content == content
    assert admin.get(f"/web/content/{found['id']}").content == content


def test_a_visitor_fills_a_cart(deployment, admin):
    """From whichever node each page comes."""
    product = admin.call("product.template", "create", {"name": "A chair", "is_published": True})
    [values] = admin.call("product.template", "read", [product], ["product_variant_id"])
    visitor = Person(deployment.nginx)
    for _ in range(2):
        assert visitor.get("/").status_code == 200
        assert "A chair" in visitor.get("/shop").text
    visitor.rpc(
        "/shop/cart/add",
        product_template_id=product,
        product_id=values["product_variant_id"][0],
        quantity=2,
    )
    for node in (*deployment.web, None):
        assert "A chair" in visitor.get("/shop/cart", node=node).text


def test_a_report_is_shown(admin):
    """As HTML."""
    page = admin.get("/report/html/web.preview_externalreport/1")
    assert page.status_code == 200, page.text[:500]
    assert "<main" in page.text or "article" in page.text


def test_a_report_is_printed(deployment, admin):
    """A node makes a session for the program that prints, which shows it to another one: the
    pages' pictures and styles come from there."""
    [node, other] = deployment.web
    admin.call("ir.config_parameter", "set_param", "report.url", other.url)
    before = other.log.stat().st_size
    page = admin.get("/report/pdf/web.preview_externalreport/1", node=node)
    assert page.status_code == 200, page.text[:2000]
    assert page.content.startswith(b"%PDF")
    assert len(page.content) > 10_000
    with other.log.open(errors="replace") as log:
        log.seek(before)
        assert re.search(r'"GET /web/\S+ HTTP/1.1" 200', log.read())


def test_rows_are_imported(admin):
    """A file goes to one node, the import to another."""
    wizard = admin.call("base_import.import", "create", {"res_model": "res.partner"})
    rows = "\n".join(["name,email", *(f"Person {n},p{n}@example.com" for n in range(50))])
    answer = admin.post(
        "/base_import/set_file",
        data={"id": wizard, "csrf_token": admin.token()},
        files={"ufile": ("people.csv", rows, "text/csv")},
    )
    assert answer.json() == {"result": True}
    options = {"quoting": '"', "separator": ",", "has_headers": True, "encoding": "utf-8"}
    fields = ["name", "email"]
    done = admin.call("base_import.import", "execute_import", [wizard], fields, fields, options)
    assert len(done["ids"]) == 50, done


def make_user(admin, name):
    """An internal user, who has logged in by way of nginx; the id, too."""
    login = f"{name} {time.time()}"
    group = reference(admin, "group_user")
    values = {"name": name, "login": login, "password": login, "group_ids": [[6, 0, [group]]]}
    uid = admin.call("res.users", "create", values)
    person = Person(admin.nginx)
    person.login(login, login)
    return person, uid


def reference(admin, name):
    """The id of a record of the module `base`."""
    return admin.call("ir.model.data", "check_object_reference", "base", name)[1]


def test_a_notification_reaches_another_node(deployment, admin):
    """Two people talk, each on a node; the websockets are in processes of their own."""
    marc, _uid = make_user(admin, "Marc")
    one, other = deployment.web
    partner = marc.rpc("/web/session/get_session_info")["partner_id"]
    values = {"name": "Talk", "channel_partner_ids": [[4, partner]]}
    channel = admin.call("discuss.channel", "create", values, node=one)
    connections = [person.websocket() for person in (admin, marc)]
    hears(connections[1], "nothing", seconds=2)  # it has subscribed by then
    text = {"body": "Hello Marc", "message_type": "comment", "subtype_xmlid": "mail.mt_comment"}
    admin.call("discuss.channel", "message_post", [channel], node=other, **text)
    assert hears(connections[1], "Hello Marc")
    for connection in connections:
        connection.shutdown()


def hears(connection, text, seconds=PATIENCE):
    """Whether a text comes over a websocket."""
    deadline = time.monotonic() + seconds
    connection.settimeout(1)
    while time.monotonic() < deadline:
        with contextlib.suppress(websocket.WebSocketTimeoutException):
            if text in str(connection.recv()):
                return True
    return False


def test_a_job_runs_once(deployment, admin):
    """On the cron node."""
    admin.call("ir.config_parameter", "set_param", "test.runs", "0")
    [model] = admin.call("ir.model", "search", [["model", "=", "ir.config_parameter"]])
    count = "UPDATE ir_config_parameter SET value = value::int + 1 WHERE key = 'test.runs'"
    values = {
        "name": "Count",
        "model_id": model,
        "state": "code",
        "code": f'model.env.cr.execute("{count}")',
        "interval_number": 1,
        "interval_type": "days",
        "nextcall": "2020-01-01 00:00:00",
    }
    for _ in range(JOBS):
        admin.call("ir.cron", "create", values)

    def runs():
        query = "SELECT value FROM ir_config_parameter WHERE key = 'test.runs'"
        return int(deployment.postgres.sql(deployment.database, query))

    until(lambda: runs() >= JOBS, "that each job has run", 90)
    time.sleep(3)
    assert runs() == JOBS


def test_an_access_right_is_seen_on_the_other_node(deployment, admin):
    """At the next request, given or taken."""
    one, other = deployment.web
    paul, uid = make_user(admin, "Paul")
    system = reference(admin, "group_system")
    for node in deployment.web:
        assert paul.call("res.users", "has_group", [uid], "base.group_system", node=node) is False
    for wanted, command in ((True, 4), (False, 3)) * 2:
        admin.call("res.users", "write", [uid], {"group_ids": [[command, system]]}, node=one)
        found = paul.call("res.users", "has_group", [uid], "base.group_system", node=other)
        assert found is wanted


def test_a_translation_is_seen_on_the_other_node(deployment, admin):
    """At the next request."""
    one, other = deployment.web
    [language] = admin.call("res.lang", "search", [["code", "=", "en_US"]])
    for name in ("English of one", "English (US)"):
        admin.call("res.lang", "write", [language], {"name": name}, node=one)
        assert ["en_US", name] in admin.call("res.lang", "get_installed", node=other)


def test_a_module_that_one_node_installs_is_there_on_the_other(deployment, admin):
    """Its model, its menu, and its routes."""
    one, other = deployment.web
    menus = admin.get("/web/webclient/load_menus", node=other).text
    assert "contacts.menu_contacts" not in menus
    admin.install("contacts", node=one)
    assert "contacts.menu_contacts" in admin.get("/web/webclient/load_menus", node=other).text
