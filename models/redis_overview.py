"""``redis.overview``: all that the page Settings > Technical > Redis shows and does.

An administrator sees and changes what is of this database: its sessions, its cache, its figures.
Nodes, and whether Redis answers, are of the whole.
"""

import contextlib
import logging
import time
from collections import Counter

from odoo import api, models
from odoo.exceptions import AccessError, UserError
from odoo.http import STORED_SESSION_BYTES, request
from odoo.tools.misc import formatLang

from ..exceptions import RedisUnavailableError, WrongTypeError
from ..http_patch import install
from ..http_patch.device_log import new_sessions
from ..operation.overview import (
    Verdict,
    by_method,
    by_step,
    hit_ratio,
    live,
    mean_latency,
    outages,
    verdict,
)
from ..ormcache import read_distrusted

_logger = logging.getLogger(__name__)

HOUR = 3600  # seconds
TOP = 10  # methods
MOST_USERS = 100  # listed, those who were active last


class RedisOverview(models.AbstractModel):
    _name = "redis.overview"
    _description = "Sessions and cache in Redis"

    # -- what the page shows -----------------------------------------------------------------------

    @api.model
    @api.readonly
    def read_overview(self, user_id=False):
        """All figures of the page, and the verdict, now.

        :param user_id: only this user's sessions are listed
        :return: a dict, in which "counters" is False where Redis does not tell
        """
        self._require_administrator()
        here = install.current()
        if not here or not here.books:
            return {"verdict": self._told(Verdict("danger", "off", {})), "counters": False}
        answers = self._answers(here)
        try:
            return self._overview(here, answers, user_id)
        except (RedisUnavailableError, WrongTypeError) as error:
            _logger.info("Redis does not tell what the page shows: %s", error)
            found = verdict(answers, [])
            if found.finding != "away":
                found = Verdict("warning", "unread", {})
            return {"verdict": self._told(found), "counters": False}

    def _overview(self, here, answers, user_id):
        books, database = here.books, self.env.cr.dbname
        now = books.now()
        processes = books.processes()
        alive = [process for process in processes if books.is_alive(process)]
        of_all, history = books.history(""), books.history(database)
        failed = [each for each in outages(of_all) if each["end"] > now - 24 * HOUR]
        last_hour = sum(each["answers_503"] for each in failed if each["end"] > now - HOUR)
        sums = Counter()
        for figures in history.values():
            sums.update(figures)
        figures = {
            figure: amount
            for figure, amount in books.figures().items()
            if figure.database == database
        }
        sessions = self._sessions(here)
        distrusted = (
            read_distrusted(here.remote, here.settings.prefix, database) if here.remote else ()
        )
        found = verdict(answers, alive, last_hour, database, distrusted)
        return {
            "verdict": self._told(found),
            "counters": {
                "users": len({session.uid for session in sessions}),
                "sessions": len(sessions),
                "hit_ratio": hit_ratio(sums) or False,
                "seconds_saved": sums["cache_seconds_saved"],
                "answers_503": sum(each["answers_503"] for each in failed),
            },
            "history": [
                [begin, *ratios] for begin, step in by_step(history) if (ratios := hit_ratio(step))
            ],
            "latency": [
                [begin, mean] for begin, step in by_step(of_all) if (mean := mean_latency(step))
            ],
            "nodes": self._nodes(books, processes, now),
            "methods": [
                {
                    "name": name,
                    "seconds": each["cache_seconds_saved"],
                    "found": each.get("cache_found", 0),
                }
                for name, each in by_method(figures)[:TOP]
            ],
            "users": self._users(sessions, now, user_id),
            "has_sessions": bool(here.sessions),
        }

    @staticmethod
    def _answers(here):
        """Seconds that the Redis of each half took to answer; None where it did not."""
        answers = {}
        for name, half in (("sessions", here.sessions), ("ormcache", here.remote)):
            if half:
                answers[name] = None
                with contextlib.suppress(RedisUnavailableError):
                    took = []
                    for _time in range(3):  # the first may open a connection
                        asked = time.monotonic()
                        half.server.execute("EXISTS", f"{here.settings.prefix}:nodes")
                        took.append(time.monotonic() - asked)
                    answers[name] = min(took)
        return answers

    def _nodes(self, books, processes, now):
        """A line for each role of each node, of those seen within a day."""
        database = self.env.cr.dbname
        found = {}
        for process in processes:
            line = found.setdefault(
                (process.host, process.role),
                {
                    "host": process.host, "role": process.role, "count": 0, "addon": process.addon,
                    "code": "", "started": process.started, "seen": 0,
                },
            )  # fmt: skip
            line["count"] += books.is_alive(process)
            line["code"] = process.fingerprints.get(database) or line["code"]
            line["started"] = min(line["started"], process.started)
            line["seen"] = max(line["seen"], process.seen)
        for line in found.values():
            line["up"] = max(0, now - line.pop("started"))
            line["idle"] = max(0, now - line.pop("seen"))
        return [found[key] for key in sorted(found)]

    def _users(self, sessions, now, user_id):
        """A line for each user with sessions, the last active one first."""
        counts, last = Counter(), {}
        for session in sessions:
            if not user_id or session.uid == user_id:
                counts[session.uid] += 1
                last.setdefault(session.uid, session.activity)  # the latest comes first
        shown = list(counts)[:MOST_USERS]
        asked = {*shown, user_id} if user_id else set(shown)
        users = self.env["res.users"].sudo().browse(asked).exists()  # of any company
        names = {user.id: (user.name, user.login) for user in users}
        return {
            "lines": [
                {
                    "id": uid,
                    "name": names.get(uid, (f"#{uid}",))[0],
                    "login": names.get(uid, ("", ""))[1],
                    "sessions": counts[uid],
                    "idle": max(0, now - last[uid]),
                }
                for uid in shown
            ],
            "more": len(counts) - len(shown),
            "only": names[user_id][0] if user_id in names else False,
        }

    def _sessions(self, here, user_id=None):
        """Live sessions of this database, the last active one first."""
        if not here or not here.sessions:
            return []
        seen = here.books.sessions(self.env.cr.dbname)
        if user_id is not None:
            seen = [session for session in seen if session.uid == user_id]
        return live(seen, here.sessions.get_missing_session_identifiers)

    def _session_count(self, user_id):
        """How many sessions a user has; 0 where Redis does not tell."""
        with contextlib.suppress(RedisUnavailableError, WrongTypeError):
            return len(self._sessions(install.current(), user_id))
        return 0

    def _told(self, found):
        """A verdict in the user's language."""
        values = found.values
        told = ", ".join(f"{host}: {value}" for host, value in values.get("told", {}).items())
        milliseconds = formatLang(self.env, values.get("seconds", 0) * 1000, digits=2)
        match found.finding:
            case "off":
                text = self.env._(
                    "This node does not use Redis: the addon is installed here, and is not in its "
                    "server_wide_modules, or both halves are switched off."
                )
            case "away" if "sessions" in values["halves"]:
                text = self.env._(
                    "Redis does not answer. Requests that need a session get HTTP 503 until it "
                    "does; nobody is logged out."
                )
            case "away":
                text = self.env._(
                    "The Redis of the cache does not answer. Each process uses its own cache until "
                    "it does."
                )
            case "unread":
                text = self.env._(
                    "Redis answers, but not to what this page asks. The log of this node says why."
                )
            case "server":
                text = self.env._(
                    "Nodes with a database of this name on different servers of PostgreSQL use the "
                    "same keys in Redis: %s. Give each installation its own prefix.",
                    told,
                )
            case "setting":
                text = self.env._(
                    "Nodes differ in the setting %(name)s: %(told)s. Set it alike on all of them, "
                    "and restart them.",
                    name=values["name"],
                    told=told,
                )
            case "unavailable":
                text = self.env._(
                    "Redis answers now, but within the last hour it did not: requests that got "
                    "HTTP 503: %s.",
                    values["count"],
                )
            case "addon":
                text = self.env._(
                    "Nodes run different versions of this addon: %s. Finish the deployment.", told
                )
            case "code":
                text = self.env._(
                    "Nodes run different code: %s. They do not share cached values until the "
                    "deployment is finished.",
                    told,
                )
            case "distrusted":
                text = self.env._(
                    "Values of %s in Redis were wrong, so each process computes them itself. The "
                    "method depends on more than its arguments.",
                    ", ".join(values["methods"]),
                )
            case "slow":
                text = self.env._(
                    "Redis is slow: it took %s ms to answer. One nearer to the nodes, or less "
                    "busy, would save more.",
                    milliseconds,
                )
            case "nothing":
                text = self.env._(
                    "Nothing counted yet: a node tells what it does every 10 seconds."
                )
            case _ if values["nodes"] == 1:
                text = self.env._("All well: one node, and Redis answers in %s ms.", milliseconds)
            case _:
                text = self.env._(
                    "All well: %(processes)s processes on %(nodes)s nodes, and Redis answers in "
                    "%(milliseconds)s ms.",
                    processes=values["processes"],
                    nodes=values["nodes"],
                    milliseconds=milliseconds,
                )
        return {"level": found.level, "finding": found.finding, "text": text}

    # -- what the page does ------------------------------------------------------------------------

    @api.model
    def log_out(self, user_id):
        """End all sessions of a user in this database, on all nodes, but the one that asks.

        :return: how many there were
        """
        self._require_administrator()
        here = install.current()
        own = request.session.sid[:STORED_SESSION_BYTES] if request and request.session else None
        try:
            found = {session.identifier for session in self._sessions(here, user_id)}
            if here and here.sessions:
                new = new_sessions(self.env.cr)
                found |= {session.identifier for session in new if session.uid == user_id}
                found -= {own, *here.sessions.get_missing_session_identifiers(found)}
                here.sessions.delete_from_identifiers(list(found))
        except (RedisUnavailableError, WrongTypeError) as error:
            raise UserError(self.env._("Redis does not answer: nobody was logged out.")) from error
        devices = self.env["res.device.log"].sudo()
        devices.search([("session_identifier", "in", list(found))]).revoked = True
        user = self.env["res.users"].browse(user_id).exists()
        if hasattr(user, "_bus_send"):  # a websocket looks for its session when it gets a message
            user._bus_send("redis_session_ormcache/logged_out", {})
        _logger.info(
            "User %d (%s) logged out user %d everywhere: %d sessions of %s",
            self.env.uid, self.env.user.login, user_id, len(found), self.env.cr.dbname,
        )  # fmt: skip
        return len(found)

    @api.model
    def purge(self):
        """Have all processes forget the cached values of this database; sessions stay."""
        self._require_administrator()
        self.env.registry.clear_all_caches()
        _logger.info(
            "User %d (%s) purged the cached values of %s",
            self.env.uid, self.env.user.login, self.env.cr.dbname,
        )  # fmt: skip

    def _require_administrator(self):
        if not self.env.is_system():
            raise AccessError(self.env._("This is for administrators of the system only."))
