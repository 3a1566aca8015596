"""Settings: where they come from, and what is refused."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from redis.connection import parse_url

from odoo.addons.redis_session_ormcache import url as urls
from odoo.addons.redis_session_ormcache.config import Settings
from odoo.addons.redis_session_ormcache.exceptions import ConfigurationError


def settings_of(tmp_path, environ=None, section=None, text=None):
    rcfile = tmp_path / "odoo.conf"
    if section is not None:
        text = "[options]\nworkers = 2\n[redis]\n" + "".join(
            f"{name} = {value}\n" for name, value in section.items()
        )
    if text is not None:
        rcfile.write_text(text)
    return Settings.from_environment(environ or {}, rcfile)


def test_defaults(tmp_path):
    """Without any setting: a local Redis, prefix odoo, sessions on."""
    settings, notices = settings_of(tmp_path)
    assert settings == Settings()
    assert settings.url == "redis://localhost:6379/0"
    assert settings.session
    assert settings.session_anonymous_ttl is None
    assert not notices


def test_the_environment_comes_first(tmp_path):
    """A setting of the environment outranks the file; an empty one does not."""
    section = {"prefix": "file", "timeout": "1.5", "url": "redis://one"}
    environ = {"ODOO_REDIS_PREFIX": "env", "ODOO_REDIS_URL": ""}
    settings, _notices = settings_of(tmp_path, environ, section)
    assert (settings.prefix, settings.timeout, settings.url) == ("env", 1.5, "redis://one")


@pytest.mark.parametrize(
    "url",
    [
        "redis://h", "redis://h:1/15", "redis://:p%40%2F@h", "redis://u:p@h:6379/0",
        "rediss://u:p@h:6380/1?ssl_ca_certs=/ca.pem", "unix:///run/redis.sock",
        "unix://:p@/run/redis.sock?db=3", "redis://[::1]:6379/0",
        "redis+cluster://one,[::1]:7000,[fd00::2]",
    ],
)  # fmt: skip
def test_good_urls(tmp_path, url):
    """Every form that redis-py takes and that means one thing."""
    settings, _notices = settings_of(tmp_path, {"ODOO_REDIS_URL": url})
    assert settings.url == url


SAME = [
    ("REDIS://h", "redis://h"),
    ("valkey://u:p@h:1/2", "redis://u:p@h:1/2"),
    ("valkeys://h?ssl_cert_reqs=none", "rediss://h?ssl_cert_reqs=none"),
    ("redis+ssl://h", "rediss://h"),
    ("redis+tls://h", "rediss://h"),
    ("redis://h:6379/", "redis://h"),
    ("redis://h?db=1", "redis://h/1"),
    ("redis://h/1?db=1", "redis://h/1"),
    ("redis://h?username=u&password=p", "redis://u:p@h"),
    ("redis://u@h?password=p", "redis://u:p@h"),
    ("rediss://h?ssl_cert_reqs=CERT_NONE", "rediss://h?ssl_cert_reqs=none"),
    ("rediss://h?ssl_cert_reqs=CERT_OPTIONAL", "rediss://h?ssl_cert_reqs=optional"),
    ("rediss://h?ssl_cert_reqs=CERT_REQUIRED", "rediss://h?ssl_cert_reqs=required"),
    ("unix:/x", "unix:///x"),
    ("unix://u@/x?db=1&password=p", "unix://u:p@/x?db=1"),
    ("redis+socket://:p@/x?virtual_host=1", "unix://:p@/x?db=1"),
    ("redis-socket:///x?database=1", "unix:///x?db=1"),
    ("redis+unix:///x?db=1&user=u&pass=p", "unix://u:p@/x?db=1"),
    ("valkey+unix:///x", "unix:///x"),
    ("redis-sentinel://h,i/main/1", "redis+sentinel://h,i/main/1"),
    ("rediss-sentinel://h/main", "rediss+sentinel://h/main"),
    ("valkey+sentinel://h/main?db=1", "redis+sentinel://h/main/1"),
    ("valkeys-sentinel://h/main", "rediss+sentinel://h/main"),
    ("redis-sentinel://h,i/1?sentinelMasterId=main", "redis+sentinel://h,i/main/1"),
    ("redis-sentinel://h,i/1#main", "redis+sentinel://h,i/main/1"),
    ("redis-sentinel://:p@h:1,i:2?master=main", "redis+sentinel://:p@h:1,i:2/main"),
    (
        "redis-sentinel://h?sentinelServiceName=m&sentinelUsername=u&sentinelPassword=p",
        "redis+sentinel://h/m?sentinel_username=u&sentinel_password=p",
    ),
    ("redis+sentinel://h/main?sentinel_tls=True", "redis+sentinel://h/main?sentinel_tls=true"),
    ("redis-cluster://h,i", "redis+cluster://h,i"),
    ("valkeys+cluster://h?db=0", "rediss+cluster://h"),
]


@pytest.mark.parametrize(("text", "ours"), SAME)
def test_urls_of_other_libraries(text, ours):
    """What redis-py, valkey-py, Celery, Lettuce, asynq, fred, redis-rs and limits call the same."""
    assert replace(urls.parse(text), shown="") == replace(urls.parse(ours), shown="")


@pytest.mark.parametrize(
    "text",
    [
        "redis://h", "redis://u:p%40@h:1/", "redis://:p@h/2", "redis://h?db=3", "redis://u:@h",
        "redis://u@h?password=p", "rediss://h?username=u&password=p", "unix://u@/x?db=1&password=p",
    ],
)  # fmt: skip
def test_a_url_means_what_it_means_to_redis_py(text):
    """Of the forms that redis-py takes too."""
    url, theirs = urls.parse(text), parse_url(text)
    host, port = url.hosts[0] if url.hosts else (None, None)
    assert (url.username, url.password) == (theirs.get("username"), theirs.get("password"))
    assert url.database == theirs.get("db", 0)
    assert (url.path or None, host) == (theirs.get("path"), theirs.get("host"))
    assert port in (None, theirs.get("port", 6379))


WRONG = [
    ("url", "redis+sentinels://h/main", "scheme"),
    ("url", "sentinel://h:26379;sentinel://i:26379", "scheme"),
    ("url", "tcp://10.0.0.7:6379", "scheme"),
    ("url", "rediss+socket:///x", "scheme"),
    ("url", "redisss://h", "scheme"),
    ("url", "redis://h/1?db=2", "two databases"),
    ("url", "redis://h?db=s3cr", "database is not a number"),
    ("url", "redis://u:p@h?password=s3cr", "there twice"),
    ("url", "redis://u:p@h?username=s3cr", "there twice"),
    ("url", "redis://h?password=a&s3cr", "one of its options is unknown"),
    ("url", "redis://h?db=1&database=1", "twice"),
    ("url", "redis+sentinel://h/main/1?sentinelMasterId=main", "too many parts"),
    ("url", "redis+sentinel://h?sentinel_password=a#s3cr", "#"),
    ("url", "redis+sentinel://h/main#s3cr", "#"),
    ("url", "redis+sentinel://:a#s3cr@h/main", "#"),
    ("url", "redis://h?master=main", "'master' is unknown"),
    ("url", "redis+cluster://h?db=1", "no numbered databases"),
    ("url", "redis+cluster://[::s3]", "no IPv6 address"),
    ("url", "redis://s3cr@h", "user:@ for a user without a password"),
    ("url", "redis://@h", "password is missing"),
    ("url", "localhost:6379", "scheme"),
    ("url", "http://h", "scheme"),
    ("url", "redis://", "host"),
    ("url", "redis:///0", "host"),
    ("url", "redis://h:0", "port"),
    ("url", "redis://h:99999", "port"),
    ("url", "redis://h:port", "port"),
    ("url", "redis://:s3cr/t@h:6379", "percent-encode"),
    ("url", "redis://o:1/s3cr@h:6379", "percent-encode"),
    ("url", "redis+sentinel://o:1/s3cr@h/main", "percent-encode"),
    ("url", "redis+sentinel://o:1?s3cr@h/main", "percent-encode"),
    ("url", "redis://a..b", "host is none"),
    ("url", "unix:///" + "x" * 107, "too long"),
    ("url", "redis://one,two/0", "several hosts"),
    ("url", "redis://[::1/0", "brackets"),
    ("url", "redis://h\tost", "control character"),
    ("url", "redis://[cache]:6379", "no IPv6 address"),
    ("url", "redis://ca[che/0", "brackets"),
    ("url", "redis://s3cr\uff20host/0", "host is none"),
    ("url", "redis://h/0/1", "too many parts"),
    ("url", "redis+sentinel://h:26379", "service is missing"),
    ("url", "redis+sentinel://h,/main", "host is missing"),
    ("url", "redis+sentinel://h,i:x/main", "port"),
    ("url", "redis+sentinel://h/main?sentinel_username=s", "without a sentinel_password"),
    ("url", "redis+sentinel://h/main?sentinel_tls=maybe", "none of false, true"),
    ("url", "redis+sentinel://h/main?sentinel_password=a&s3cr", "one of its options is unknown"),
    ("url", "redis+sentinel://h/main?ssl_ca_certs=x", "no TLS"),
    ("url", "redis+sentinel://h/main?sentinel_tls=false&ssl_ca_certs=x", "no TLS"),
    ("url", "redis+cluster://h/1", "no numbered databases"),
    ("url", "redis+cluster://h?sentinel_password=s3cr", "'sentinel_password' is unknown"),
    ("url", "redis://h?ssl_ca_certs=x", "'ssl_ca_certs' is unknown"),
    ("url", "rediss://h?ssl_ca_certs=", "'ssl_ca_certs' is empty"),
    ("url", "rediss://h?ssl_ca_certs=a&ssl_ca_certs=b", "twice"),
    ("url", "rediss://h?ssl_cert_reqs=never", "none of none, optional, required"),
    ("url", "rediss://h?ssl_keyfile=x", "without an ssl_certfile"),
    ("url", "unix://host/path", "three slashes"),
    ("url", "redis://:s3cr#t@h:6379", "#"),
    ("url", "redis://user@h", "password is missing"),
    ("url", "redis://:@h", "password is missing"),
    ("url", "redis://h/one", "database"),
    ("url", "redis://h/-1", "database"),
    ("url", "redis://h?socket_timeout=5", "'socket_timeout' is unknown"),
    ("url", "unix://", "path"),
    ("prefix", "a b", "letters"),
    ("prefix", "{x}", "letters"),
    ("prefix", "a:*", "letters"),
    ("prefix", ":", "letters"),
    ("timeout", "-1", "0.05 to 60"),
    ("timeout", "0", "0.05 to 60"),
    ("timeout", "nan", "0.05 to 60"),
    ("timeout", "soon", "0.05 to 60"),
    ("session", "maybe", "true or false"),
    ("session_anonymous_ttl", "-1", "at least 1"),
    ("session_anonymous_ttl", "0", "at least 1"),
    ("session_anonymous_ttl", "1.5", "at least 1"),
    ("session_anonymous_ttl", "99999999999", "at least 1"),
    ("session_anonymous_ttl", "²", "at least 1"),
    ("session_url", "h", "scheme"),
    ("ormcache_url", "redis://:s3cr#t@h", "#"),
    ("ormcache", "perhaps", "true or false"),
    ("ormcache_max_bytes", "1000", "from 1048576"),
    ("ormcache_max_bytes", "64mb", "from 1048576"),
]


@pytest.mark.parametrize(("name", "value", "told"), WRONG)
@pytest.mark.parametrize("place", ["environment", "file"])
def test_a_wrong_setting_names_itself(tmp_path, place, name, value, told):
    """One line: which setting, where it stands, what is expected; never the password."""
    if place == "environment":
        environ, section, where = (
            {f"ODOO_REDIS_{name.upper()}": value},
            None,
            f"ODOO_REDIS_{name.upper()}",
        )
    else:
        environ, section, where = {}, {name: value}, f"[redis] {name} in "
    with pytest.raises(ConfigurationError) as error:
        settings_of(tmp_path, environ, section)
    message = str(error.value)
    assert where in message
    assert told in message
    assert "expected" in message
    assert "\n" not in message
    assert "s3cr" not in message


@pytest.mark.parametrize(
    ("environ", "section", "told"),
    [
        ({"ODOO_REDIS_SESION": "1"}, None, "ODOO_REDIS_SESION: unknown; expected one of"),
        ({}, {"ulr": "redis://h"}, "[redis] ulr in "),
        ({"ODOO_SESSION_REDIS_SENTINEL_HOST": "h"}, None, "ODOO_SESSION_REDIS_SENTINEL_HOST"),
    ],
)
def test_an_unknown_setting_stops(tmp_path, environ, section, told):
    """A name that is not understood is not passed over."""
    with pytest.raises(ConfigurationError) as error:
        settings_of(tmp_path, environ, section)
    assert told in str(error.value)


SERVICES = [  # whose variables begin as ours do, or as those of others that are understood
    "odoo-redis", "odoo-redis-master", "odoo-redis-session", "odoo-redis-url", "odoo-redis-service",
    "odoo-session-redis", "odoo-session-redis-url", "odoo-session-redis-sentinel", "redis-url",
]  # fmt: skip


def kubernetes(service):
    """What Kubernetes sets in each pod for a service; its first port has a name."""
    name, host = service.upper().replace("-", "_"), "10.0.0.7"
    found = {
        f"{name}_SERVICE_HOST": host,
        f"{name}_SERVICE_PORT": "6379",
        f"{name}_SERVICE_PORT_TCP_REDIS": "6379",
        f"{name}_PORT": f"tcp://{host}:6379",
    }
    for protocol, number in (("tcp", 6379), ("udp", 53), ("sctp", 9999)):
        port = f"{name}_PORT_{number}_{protocol.upper()}"
        found |= {
            port: f"{protocol}://{host}:{number}",
            f"{port}_PROTO": protocol,
            f"{port}_PORT": str(number),
            f"{port}_ADDR": host,
        }
    return found


def docker_link(container, alias):
    """What docker sets in a container with a link to another one."""
    name, host = alias.upper().replace("-", "_"), "172.17.0.2"
    port = f"{name}_PORT_6379_TCP"
    return {
        f"{name}_NAME": f"/{container}/{alias}",
        f"{name}_PORT": f"tcp://{host}:6379",
        port: f"tcp://{host}:6379",
        f"{port}_PROTO": "tcp",
        f"{port}_PORT": "6379",
        f"{port}_ADDR": host,
        f"{port}_START": f"tcp://{host}:6379",
        f"{port}_PORT_END": "6380",
        f"{name}_ENV_REDIS_VERSION": "7.0",
        f"{name}_ENV_REDIS_DOWNLOAD_URL": "http://download.redis.io/releases/redis-7.0.tar.gz",
    }


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_platform_sets_is_no_setting(tmp_path, service):
    """Of a service of Kubernetes, in both families of addresses, and of a link of docker."""
    pod, linked = kubernetes(service), docker_link("shop_odoo.1", service)
    sixth = {name: value.replace("10.0.0.7", "[fd00::7]") for name, value in pod.items()}
    numbered = docker_link("odoo", f"{service}_1")
    for environ in (pod, sixth, linked, linked | numbered):
        assert settings_of(tmp_path, environ) == (Settings(), [])
    environ = pod | linked | {"ODOO_REDIS_PREFIX": "shop"}
    assert settings_of(tmp_path, environ) == (Settings(prefix="shop"), [])


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ODOO_REDIS_PORT", "6380"),
        ("ODOO_REDIS_HOST", "10.0.0.7"),
        ("ODOO_REDIS_NAME", "main"),
        ("ODOO_REDIS_TIMEOUTS", "1"),
        ("ODOO_REDIS_SESSION_PORT", "6379"),
        ("ODOO_REDIS_PORT", "redis://10.0.0.7:6379"),
        ("ODOO_SESSION_REDIS_HOST", "redis"),
        ("ODOO_SESSION_REDIS_PORT", "6379"),
        ("ODOO_SESSION_REDIS_PASSWORD", "s3cr"),
        ("ODOO_SESSION_REDIS_SENTINEL_HOST", "redis"),
        ("ODOO_SESSION_REDIS_SENTINEL_PORT", "26379"),
        ("ODOO_SESSION_REDIS_SENTINEL_MASTER_NAME", "main"),
    ],
)
def test_what_nobody_but_an_administrator_sets_stops(tmp_path, variable, value):
    """It may be mistyped, or another addon's: what is expected is said."""
    pod = kubernetes("odoo-session-redis") | kubernetes("odoo-redis")
    with pytest.raises(ConfigurationError) as error:
        settings_of(tmp_path, pod | {variable: value})
    assert variable in str(error.value)
    assert "expected" in str(error.value)
    assert "ODOO_REDIS_URL" in str(error.value)
    assert "s3cr" not in str(error.value)


def test_a_broken_file_stops(tmp_path):
    """A file that cannot be parsed is named."""
    with pytest.raises(ConfigurationError, match=r"odoo\.conf cannot be read"):
        settings_of(tmp_path, text="[redis]\nurl = a\nurl = b\n")


def test_names_of_other_addons_are_understood(tmp_path):
    """Who comes from session_redis keeps the settings, and is told the new names."""
    environ = {
        "ODOO_SESSION_REDIS": "1",
        "ODOO_SESSION_REDIS_URL": "redis://h:1/2",
        "ODOO_SESSION_REDIS_PREFIX": "shop",
        "ODOO_SESSION_REDIS_EXPIRATION": "86400",
        "ODOO_SESSION_REDIS_EXPIRATION_ANONYMOUS": "3600",
    }
    settings, notices = settings_of(tmp_path, environ)
    expected = Settings(url="redis://h:1/2", prefix="shop", session_anonymous_ttl=3600)
    assert settings == expected
    assert len(notices) == 5
    assert "sessions.max_inactivity_seconds" in " ".join(notices)
    settings, _notices = settings_of(tmp_path, environ | {"ODOO_REDIS_URL": "redis://own"})
    assert settings.url == "redis://own"


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:s3cret@h:1/0",
        "redis://:s3cret@h",
        "unix://:s3cret@/x",
        "rediss://u:s3%40cret@h",
        "redis://u:s3@cret@h",
        "redis://u:s3cret:s3cret@h",
        "redis://:s3/cret@h",
        "redis+sentinel://u:s3cret@h,i:1/main?sentinel_password=s3cret",
        "redis+cluster://u:s3cret@h,i:1",
        "unix://u@/x?password=s3cret",
        "redis:u:s3cret@h",
        "redis://s3cret@h",
        "redis://s3cret:@h",
    ],
)
def test_the_repr_has_no_password(url):
    """Settings may be logged."""
    assert "cret" not in repr(Settings(url=url)).replace("secret=", "")
    assert "***" in repr(Settings(url=url))
    assert "s3cret" not in repr(Settings(secret="s3cret" * 6))


@given(
    st.sampled_from(["redis", "rediss", "unix", "redis+sentinel", "rediss+cluster", "http", ""]),
    st.text("abc:/?#[]@%,.=&0123456789é ", max_size=30),
)
def test_a_url_is_understood_or_refused(scheme, rest):
    """Whatever it is; and its password is in no message."""
    secret = "s3cr3t"
    for text in (f"{scheme}://{rest}", f"{scheme}://user:{secret}{rest}@host:1/0"):
        try:
            parsed = urls.parse(text)
            told = f"{parsed} {parsed!r}"
        except ValueError as error:
            told = str(error)
        assert secret not in told


@given(
    st.sampled_from(["redis://", "rediss+sentinel://", "unix://", "redis:", "redis:/", "x:", ""]),
    st.text("ab:/?#[]@%,.=&;é ", max_size=8),
    st.text("ab:/?#[]@%,.=&;é ", max_size=8),
    st.sampled_from(["h", "h:1/0", "/run/x", "h/main", "", "?db=1", "h@i"]),
)
@example("redis:", "u:", "", "h")
@example("", "", ":u", "h")
@example("redis://", "u:", "?x", "h")
@example("redis://", ":", "/?", "h")
@example("redis://", "", ":", "h")
def test_what_is_before_an_at_is_never_shown(scheme, before, after, address):
    """But the user of a good URL, which is told from its password."""
    secret = "s3cr3t"
    text = f"{scheme}{before}{secret}{after}@{address}"
    with contextlib.suppress(ValueError):
        parsed = urls.parse(text)
        assume(not (parsed.password and secret in (parsed.username or "")))
        assert secret not in f"{parsed} {parsed!r}"
    assert secret not in urls.masked(text)
    assert secret not in repr(Settings(url=text))
    told = ""
    try:
        Settings.from_environment({"ODOO_REDIS_URL": text})
    except ConfigurationError as error:
        told = str(error)
    assert secret not in told
