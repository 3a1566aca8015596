"""The content of the books, for people: pure, over the figures of :class:`~.books.Books`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from .books import REDIS_CALLS, REDIS_SECONDS, Figure, Process

MINUTE = 60  # seconds
STEP = 10  # minutes of a point of a chart
SLOW = 0.005  # seconds: an answer of a network nearby takes less


class _Listed(Protocol):
    @property
    def identifier(self) -> str: ...


T = TypeVar("T", bound=_Listed)


def live(sessions: Iterable[T], missing: Callable[[Iterable[str]], set[str]]) -> list[T]:
    """Those sessions that have not ended.

    :param missing: ``get_missing_session_identifiers`` of their store
    """
    found = list(sessions)
    ended = missing(session.identifier for session in found)
    return [session for session in found if session.identifier not in ended]


def by_method(figures: Mapping[Figure, float]) -> list[tuple[str, dict[str, float]]]:
    """The sums of each cached method by name, those first that saved most seconds.

    >>> by_method({Figure("cache_seconds_saved", "db", "a"): 1.0, Figure("requests"): 3.0,
    ...     Figure("cache_seconds_saved", "db", "b"): 2.0, Figure("cache_found", "db", "c"): 1.0})
    [('b', {'cache_seconds_saved': 2.0}), ('a', {'cache_seconds_saved': 1.0})]
    """
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for figure, amount in figures.items():
        if figure.method:
            sums[figure.method][figure.name] += amount
    saving = ((name, dict(each)) for name, each in sums.items() if each.get("cache_seconds_saved"))
    return sorted(saving, key=lambda item: -item[1]["cache_seconds_saved"])


def outages(history: Mapping[int, Mapping[str, float]]) -> list[dict[str, float]]:
    """When sessions were not available, and how many times. Minutes one after the other are one.

    :param history: of no database, by minute

    >>> failed, well = {"sessions_unavailable": 2.0}, {"requests": 1.0}
    >>> outages({1: failed, 2: failed, 4: well})
    [{'begin': 60, 'end': 180, 'answers_503': 4.0}]
    """
    found: list[dict[str, float]] = []
    for minute, sums in sorted(history.items()):
        count = sums.get("sessions_unavailable", 0)
        if not count:
            continue
        if found and found[-1]["end"] == minute * MINUTE:
            found[-1]["end"] += MINUTE
            found[-1]["answers_503"] += count
        else:
            begin = minute * MINUTE
            found.append({"begin": begin, "end": begin + MINUTE, "answers_503": count})
    return found


def by_step(history: Mapping[int, Mapping[str, float]]) -> list[tuple[int, Mapping[str, float]]]:
    """The sums of each ten minutes, after the second since the epoch at which these begin.

    >>> by_step({9: {"requests": 1.0}, 10: {"requests": 2.0}, 19: {"requests": 3.0}})
    [(0, {'requests': 1.0}), (600, {'requests': 5.0})]
    """
    steps: dict[int, dict[str, float]] = {}
    for minute, sums in history.items():
        step = steps.setdefault(minute // STEP * STEP * MINUTE, {})
        for name, amount in sums.items():
            step[name] = step.get(name, 0) + amount
    return sorted(steps.items())


def hit_ratio(sums: Mapping[str, float]) -> list[float] | None:
    """Lookups of cached values that the process had, and that it or Redis had, of all; or None.

    >>> hit_ratio({"cache_hits": 6, "cache_misses": 4, "cache_found": 3}), hit_ratio({})
    ([0.6, 0.9], None)
    """
    hits = sums.get("cache_hits", 0)
    if lookups := hits + sums.get("cache_misses", 0):
        return [hits / lookups, (hits + sums.get("cache_found", 0)) / lookups]
    return None


def mean_latency(sums: Mapping[str, float]) -> float | None:
    """Seconds that Redis took to answer, on average; None where no call was timed.

    >>> mean_latency({"redis_seconds": 0.5, "redis_calls": 1000}), mean_latency({})
    (0.0005, None)
    """
    if calls := sums.get(REDIS_CALLS):
        return sums.get(REDIS_SECONDS, 0) / calls
    return None


class Comparison(NamedTuple):
    """One thing that nodes should have alike, as each says it.

    :param kind: "setting", "addon" for its version, "code", "server" for that of PostgreSQL
    :param name: of the setting, or of the database that the code is for, or that is on the server
    :param said: all that is said
    :param told: the same by node, for people
    """

    kind: str
    name: str
    said: frozenset[str]
    told: Mapping[str, str]

    @property
    def is_alike(self) -> bool:
        """Whether all processes say the same."""
        return len(self.said) <= 1

    @classmethod
    def of(cls, kind: str, name: str, said: Iterable[tuple[str, Any]]) -> Comparison:
        """Of what each process says, after its host.

        >>> Comparison.of("addon", "", [("web1", 2), ("web2", 1), ("web1", 1)]).told
        {'web1': '1 and 2', 'web2': '1'}
        """
        by_host: dict[str, set[str]] = defaultdict(set)
        for host, value in said:
            by_host[host].add(str(value))
        told = {host: " and ".join(sorted(values)) for host, values in by_host.items()}
        return cls(kind, name, frozenset().union(*by_host.values()), told)


def compare(processes: Sequence[Process]) -> Iterator[Comparison]:
    """All that these processes should have alike."""
    for name in sorted({name for process in processes for name in process.settings}):
        said = [(process.host, process.settings.get(name)) for process in processes]
        yield Comparison.of("setting", name, said)
    yield Comparison.of("addon", "", [(process.host, process.addon) for process in processes])
    by_database: tuple[tuple[str, Callable[[Process], Mapping[str, str]]], ...] = (
        ("code", lambda process: process.fingerprints),
        ("server", lambda process: process.servers),
    )
    for kind, said_by in by_database:
        for name in sorted({name for process in processes for name in said_by(process)}):
            told = [
                (process.host, said_by(process)[name])
                for process in processes
                if name in said_by(process)
            ]
            yield Comparison.of(kind, name, told)


class Verdict(NamedTuple):
    """The one finding that matters most.

    :param level: "success", "info", "warning" or "danger"
    :param finding: "away", "server", "setting", "unavailable", "addon", "code", "distrusted",
        "slow", "nothing" or "well"
    :param values: what there is to say of it
    """

    level: str
    finding: str
    values: Mapping[str, Any]


def verdict(
    answers: Mapping[str, float | None],
    alive: Sequence[Process],
    answers_503: float = 0,
    database: str = "",
    distrusted: Collection[str] = (),
) -> Verdict:
    """Judge the whole: Redis first, then what logs people out, then what makes it slow.

    :param answers: seconds that the Redis of each half took to answer; None: it did not
    :param alive: processes
    :param answers_503: within the last hour
    :param database: whose code is compared; that of others is not this one's concern
    :param distrusted: methods that are not shared because a value was wrong

    >>> web1 = Process("web1", 1, "web", 0.0, "1", "19.0", {"db": "a"}, {"session": True})
    >>> web2 = Process("web2", 1, "web", 0.0, "1", "19.0", {"db": "b"}, {"session": True})
    >>> verdict({"sessions": 0.001, "ormcache": None}, [web1])
    Verdict(level='danger', finding='away', values={'halves': ['ormcache']})
    >>> verdict({"sessions": 0.001}, [web1, web2], answers_503=3, database="db")
    Verdict(level='warning', finding='unavailable', values={'count': 3})
    >>> verdict({"sessions": 0.001}, [web1, web2], database="db")
    Verdict(level='warning', finding='code', values={'told': {'web1': 'a', 'web2': 'b'}})
    >>> verdict({"sessions": 0.001}, [web1, web2], database="another")
    Verdict(level='success', finding='well', values={'processes': 2, 'nodes': 2, 'seconds': 0.001})
    >>> verdict({"sessions": 0.001}, [web1], distrusted=["a.b"])
    Verdict(level='warning', finding='distrusted', values={'methods': ['a.b']})
    >>> verdict({"sessions": 0.001}, []).finding, verdict({"sessions": 0.2}, [web1]).finding
    ('nothing', 'slow')
    """
    if away := sorted(half for half, seconds in answers.items() if seconds is None):
        return Verdict("danger", "away", {"halves": away})
    differing = {
        each.kind: each
        for each in compare(alive)
        if not each.is_alike and (each.kind in ("setting", "addon") or each.name == database)
    }
    if each := differing.get("server"):
        return Verdict("danger", "server", {"told": each.told})
    if each := differing.get("setting"):
        return Verdict("danger", "setting", {"name": each.name, "told": each.told})
    if answers_503:
        return Verdict("warning", "unavailable", {"count": int(answers_503)})
    for kind in ("addon", "code"):
        if each := differing.get(kind):
            return Verdict("warning", kind, {"told": each.told})
    if distrusted:
        return Verdict("warning", "distrusted", {"methods": sorted(distrusted)})
    slowest = max((seconds or 0.0 for seconds in answers.values()), default=0.0)
    if slowest > SLOW:
        return Verdict("warning", "slow", {"seconds": slowest})
    if not alive:
        return Verdict("info", "nothing", {})
    nodes = len({process.host for process in alive})
    values = {"processes": len(alive), "nodes": nodes, "seconds": slowest}
    return Verdict("success", "well", values)
