"""Which cached methods are shared, and what is worth asking Redis for. Pure: no I/O, no Odoo."""

import inspect
import re
from collections.abc import Callable
from typing import Any

# Methods that stay local, whichever model or addon defines them; docs/ormcache.md says why.
SECRET = "it holds a secret"
LIVE = "it holds live objects of a process"
SIDE_EFFECT = "it is cached for what it does, not for what it returns"
ASKED = "its addon keeps it local"
NAMELESS = "its name does not tell it from others"
OWN_STATE = "it tells of a process or of a moment, not of the database"
NO_QUERY = "it takes no query, and less time than looking in Redis"
OWN_ORDER = "its key has the order of a set, which differs between processes"
ANYBODY = "its key is whatever a visitor asks for"
BUSY = "it is computed from tables that change all the time"
EDITED = "its callers edit the values they get"
BEYOND_KEY = "it depends on the request in more than its key says"

LOCAL_METHODS = {
    # The key holds the password or API key; the value says that it was right.
    "_check_uid_passwd": SECRET,
    "_compute_session_token": SECRET,
    # database.secret, OAuth client secrets, VAPID key...
    "_get_param": SECRET,
    # Users' defaults of any field.
    "_get_model_defaults": SECRET,
    "_get_field_column_fallbacks": SECRET,
    "_crypt_context": LIVE,
    "routing_map": LIVE,
    "url_rewrite": LIVE,
    "_rewrite_len": LIVE,
    "_get_working_hours": LIVE,
    "get_static_routes": LIVE,
    "_clear_preload_views_cache_if_needed": SIDE_EFFECT,
    "_table_has_rows": OWN_STATE,
    "_call_apps": OWN_STATE,
    "_get_industry_categories_from_apps": OWN_STATE,
    "_get_transifex_projects": OWN_STATE,
    "_get_first_possible_variant_id": BUSY,
    "_get_variant_id_for_combination": BUSY,
    "_get_installed_addons_list": OWN_STATE,
    "_track_get_fields": NO_QUERY,
    "_self_accessible_fields": NO_QUERY,
    "_portal_accessible_fields": NO_QUERY,
    "_topological_sort": OWN_ORDER,
    # The path and the host of a request: of any number, for anybody.
    "_get_page_info": ANYBODY,
    "_get_current_website_id": ANYBODY,
    # website's takes base's and sets actions in it, which everybody of the process sees after that.
    "load_menus_root": EDITED,
    # The browser's language, for a user whose own is not installed.
    "context_get": BEYOND_KEY,
}
# Methods whose values depend on the request in more than their key says: on the current website, on
# the kind of page, on the debug mode. So it is in core; shared, it would reach further than there.
REQUEST_METHODS = {
    "_compute_domain",
    "_generate_code_cached",
    "_get_frontend",
    "_get_response_cached",
    "_get_view_cache",
    "load_menus",
}
# Methods whose values hold paths of files, or their dates.
PLACE_METHODS = {
    "_generate_asset_links_cache",
    "_get_asset_paths",
    "_get_response_cached",
}
# Another addon's method or parameter with such a name is taken for a secret.
_sounds_secret = re.compile(
    r"passw(or)?d|secret|token|credential|api_?key|private_?key|(^|_)(pwd|sid|otp|totp|pin)($|_)"
).search

_FEW = 5  # computations, before a method's own figures are believed
UNKNOWN = 0.005  # seconds that a method may take of which nothing is known


_kept_local: set[Callable[..., Any]] = set()


def keep_local(method: Callable[..., Any]) -> None:
    """Never share the values of a cached method.

    :param method: as decorated with ``ormcache``: ``MyModel._my_method``. To be called before the
        method is: when its module is imported, or in a ``post_load``
    """
    _kept_local.add(inspect.unwrap(method))


def reason_to_stay_local(method: Callable[..., Any]) -> str | None:
    """Why a cached method's values are not shared; None: they are.

    >>> def _get_param(self, key): pass
    >>> def _login(self, api_key): pass
    >>> def _get_bindings(self, model_name): pass
    >>> [reason_to_stay_local(m) for m in (_get_param, _login, _get_bindings)]
    ['it holds a secret', 'it holds a secret', None]
    >>> reason_to_stay_local(lambda self: 1)
    'its name does not tell it from others'
    """
    name = getattr(method, "__name__", "")
    if "<" in method.__qualname__:
        return NAMELESS
    if method in _kept_local:
        return ASKED
    if name in LOCAL_METHODS:
        return LOCAL_METHODS[name]
    if any(map(_sounds_secret, (name, *inspect.signature(method).parameters))):
        return SECRET
    return None


def method_name(function: Callable[..., Any]) -> str:
    """Module and qualified name of a cached method: the same in every process."""
    return f"{function.__module__}.{function.__qualname__}"


class Method:
    """A cached method, and what this process learned of it.

    :param name: module and qualified name, the same in every process
    :param file: the path of the file that defines it
    :param local: why its values are not shared; None: they are
    :param of_request: whether they depend on the request in more than their key says
    :param holds_places: whether they hold paths of files, or their dates
    :param language: which of its arguments is a language; None: none is
    :ivar is_shareable: whether one of its values could be shared
    """

    __slots__ = (
        "_computed",
        "_cost",
        "_refused",
        "file",
        "holds_places",
        "is_shareable",
        "language",
        "local",
        "name",
        "of_request",
    )

    def __init__(self, method: Callable[..., Any]) -> None:
        self.name = method_name(method)
        self.file = inspect.unwrap(method).__code__.co_filename
        self.of_request = getattr(method, "__name__", "") in REQUEST_METHODS
        self.holds_places = getattr(method, "__name__", "") in PLACE_METHODS
        parameters = list(inspect.signature(method).parameters)
        self.language = parameters.index("lang") if "lang" in parameters else None
        self.local = reason_to_stay_local(method)
        self._computed = 0
        self._cost = 0.0
        self._refused = 0
        self.is_shareable = False

    def computed(self, seconds: float) -> None:
        """Take note of what one value took to compute, here or elsewhere."""
        self._computed += 1
        self._cost += seconds

    def refuse(self, why: str) -> None:
        """Take note of a value that could not be shared; after a few, none is tried.

        Not if one could be: anybody can ask for a template that is not there, whose value cannot.
        """
        self._refused += 1
        if self._refused >= _FEW and not self.is_shareable:
            self.local = f"its values cannot be shared: {why}"

    @property
    def mean_cost(self) -> float | None:
        """Seconds; None until there are enough to tell."""
        return self._cost / self._computed if self._computed >= _FEW else None


class Budget:
    """Seconds that may go on asking one Redis for single values.

    Asking takes a round trip and pays only while other processes compute the same. So a process
    asks at the expense of what sharing saves: what it finds, and what others wanted of that which
    it published, earn what they take to compute. Without such gains little is left: a far Redis
    costs next to nothing, and a near one is asked enough to meet others.

    >>> budget = Budget()
    >>> far, near = 0.010, 0.0002
    >>> budget.allows(0.005, far), budget.allows(0.005, near), budget.allows(0.0001, near)
    (False, True, False)
    >>> for _ in range(20):
    ...     budget.spend(near)
    >>> budget.allows(0.005, near), budget.allows(0.020, near)
    (False, True)
    >>> budget.earn(0.005)
    >>> budget.allows(0.005, near), budget.allows(0.020, far), budget.allows(0.600, far)
    (True, False, True)
    """

    _RESERVE = 0.004  # seconds that may be spent in vain after each change
    _MOST = 0.200  # seconds that may be spent in vain after many gains
    _SHARE = 0.02  # of what computing a value takes: nobody feels more

    def __init__(self) -> None:
        self._left = self._RESERVE

    def renew(self) -> None:
        """Something has changed: nobody knows yet whether others compute the same."""
        self._left = max(self._left, self._RESERVE)

    def allows(self, cost: float | None, round_trip: float) -> bool:
        """Whether to ask for a value.

        :param cost: seconds that computing it takes; None: not known
        :param round_trip: seconds that asking takes
        """
        cost = UNKNOWN if cost is None else cost
        return round_trip < cost and round_trip <= max(self._left, self._SHARE * cost)

    def spend(self, seconds: float) -> None:
        """It asked in vain."""
        self._left = max(0.0, self._left - seconds)

    def earn(self, cost: float) -> None:
        """A value was shared that takes so many seconds to compute."""
        self._left = min(self._MOST, self._left + cost)
