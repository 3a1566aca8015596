"""Former stores: their URLs, and contents that are not what they should be."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from odoo.addons.redis_session_ormcache import old_url
from odoo.addons.redis_session_ormcache.codec.session import seal, unseal
from odoo.addons.redis_session_ormcache.config import Settings
from odoo.addons.redis_session_ormcache.exceptions import ConfigurationError
from odoo.addons.redis_session_ormcache.keys import session_place
from odoo.addons.redis_session_ormcache.migration.session import content

SECRET = "s3cret"
GOOD = [
    "file:///var/lib/odoo/sessions",
    "camptocamp+redis://host",
    f"camptocamp+rediss://user:{SECRET}@host:6380/2?prefix=a%20b&ssl_cert_reqs=none",
    "camptocamp+unix:///run/redis.sock?db=2&prefix=main",
    f"camptocamp+redis+sentinel://:{SECRET}@one,two/main/0",
    "mangono+redis+cluster://one,two?prefix=main",
    f"session_db+postgresql://odoo:{SECRET}@db:5432/sessions?sslmode=require",
    f"session_db+postgres:///sessions?password={SECRET}",
]
BAD = [
    ("/var/lib/odoo/sessions", "it names no store that is known"),
    ("file://sessions", "it has no absolute path"),
    ("redis://host", "it names no store that is known"),
    ("camptocamp+http://host", "its scheme is none of"),
    ("camptocamp+redis://host?prefix=", "its prefix is empty"),
    ("camptocamp+redis://host?prefix=a&prefix=b", "its prefix is empty, or there twice"),
    ("mangono+redis://host?prefix=a&speed=high", "option 'speed' is unknown"),
    (f"mangono+redis://:{SECRET}@{SECRET}@host/x", "its database is not a number"),
    ("session_db+mysql://host/sessions", "after session_db+ comes postgresql://"),
    (f"session_db+postgresql://odoo:{SECRET}/{SECRET}@db/sessions", "percent-encode"),
]


def settings_of(url):
    return Settings.from_environment({"ODOO_REDIS_OLD_SESSIONS": url})[0]


@pytest.mark.parametrize("url", GOOD)
def test_good_urls(url):
    """Each names a store, and is shown without its password."""
    settings = settings_of(url)
    assert settings.old_sessions == url
    for shown in (repr(settings), str(old_url.parse(url)), repr(old_url.parse(url))):
        assert SECRET not in shown
    assert old_url.parse(url).kind in repr(settings)


@pytest.mark.parametrize(("url", "why"), BAD)
def test_bad_urls(url, why):
    """Each stops the server with one line, which says why, without the password."""
    with pytest.raises(ConfigurationError) as caught:
        settings_of(url)
    told = str(caught.value)
    assert told.startswith("ODOO_REDIS_OLD_SESSIONS is wrong: ")
    assert why in told
    assert "\n" not in told
    assert SECRET not in told + old_url.masked(url)


def test_the_prefix_is_not_an_option_of_redis():
    """It is taken out of the URL, whose other options stay."""
    parsed = old_url.parse("camptocamp+rediss://h/1?ssl_cert_reqs=none&prefix=a%26b&db=1")
    assert (parsed.address, parsed.prefix) == ("rediss://h/1?ssl_cert_reqs=none&db=1", "a&b")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)
NAMES = st.sampled_from(["db", "uid", "next_sid", "deletion_time", "context"]) | st.text()


@given(st.dictionaries(NAMES, json_values).map(json.dumps) | json_values.map(json.dumps))
@example("[" * 100_000)
@example('{"a":' * 900 + "1" + "}" * 900)
@example('{"uid": ' + "9" * 5000 + "}")
@example('{"db": "\\ud800"}')
@example("")
def test_a_content_is_broken_or_can_be_stored(raw):
    """Whatever JSON another store holds, it is refused, or sealed and opened again."""
    data = content(raw)
    if data is None:
        return
    place = session_place("odoo", "A" * 84)
    opened = unseal(place, seal(place, SECRET, data, seen=1.0, ttl=1), lambda db: SECRET)
    assert json.dumps(opened.data) == json.dumps(data)


@given(st.binary())
@example(b"\xff\xfe")
@example(b'{"db": "a"}\0')
def test_bytes_are_broken_or_a_content(raw):
    """Bytes that are no JSON are no error."""
    assert content(raw) is None or isinstance(content(raw), dict)
