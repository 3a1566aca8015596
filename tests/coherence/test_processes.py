"""Processes over one database and one Redis: no lookup is stale, none sees what is not committed.

What they do is in ``process``: they change rights, rules, views, parameters, languages and
translations, commit or roll back, and check all they look up against what was signalled before.
"""

import contextlib
from collections import Counter

import pytest

from odoo.addons.redis_session_ormcache.tests.coherence.process import PLANTS, Board
from odoo.addons.redis_session_ormcache.tests.support.dose import dose
from stack.servers import Redis, Worker

PROCESSES = 4
READS = dose(25_000, 100_000)
IMPORT = "from odoo.addons.redis_session_ormcache.tests.coherence import process\n"


class Crew:
    """The processes, over a database of their own.

    :param board: the file that they share
    """

    def __init__(self, workers, redis, board):
        self.workers, self.redis, self.board = workers, redis, board

    def run(self, seed, reads, **options):
        """Let all loose; what they have seen that must not be seen, and what they did in all."""
        self.redis.cli("flushall")
        Board(self.board).restart()
        for number, worker in enumerate(self.workers):
            options |= {"path": str(self.board), "seed": seed + number, "reads": reads}
            worker.begin(f"{IMPORT}result = process.run(registry, **{options!r})")
        answers = [worker.end() for worker in self.workers]
        figures, done = Counter(), Counter()
        for answer in answers:
            figures.update(answer["figures"])
            done.update(answer["done"])
        figures["reads"] = Board(self.board).count(0)
        figures["seconds"] = max(answer["took"] for answer in answers)
        print(dict(figures), dict(done))
        return [answer["broken"] for answer in answers if answer["broken"]], figures, done


@pytest.fixture(scope="module")
def crew(tmp_path_factory, postgres, make_database):
    folder, database = tmp_path_factory.mktemp("crew"), make_database()
    with Redis(folder / "redis") as redis, contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(
                Worker(
                    folder / f"worker{number}",
                    postgres,
                    database=database,
                    config={"log_level": "warn", "log_handler": ":WARNING"},
                    redis={"url": redis.url, "session": False},
                )
            )
            for number in range(PROCESSES)
        ]
        workers[0].run(f"{IMPORT}process.prepare(env)")
        Board.make(folder / "board")
        yield Crew(workers, redis, folder / "board")


def test_no_lookup_is_stale_or_uncommitted(crew, seed):
    """Of all lookups in 4 processes none is older than promised, and none is of a rollback."""
    broken, figures, done = crew.run(seed=seed, reads=READS, seconds=300, reloads=1)
    assert not broken
    assert figures["reads"] >= READS
    assert figures["misses"] >= READS // 10  # of tier 1
    assert figures["found"] >= READS // 33  # in tier 2
    assert figures["published"] >= READS // 33
    assert sum(done[kind] for kind in done if "write" in kind or kind == "run_job") >= READS // 1000
    assert done["reloads"]


@pytest.mark.plant
@pytest.mark.parametrize("plant", PLANTS)
def test_broken_coherence_is_found(crew, seed, plant):
    """The same processes find out when the code is broken on purpose."""
    reloads = 3 if plant == "without_registry" else 0
    broken, _figures, _done = crew.run(
        seed=seed, reads=1_000_000, seconds=120, reloads=reloads, plant=plant
    )
    print(*broken, sep="\n")
    assert broken


# -- one after the other -------------------------------------------------------------------------

# What is looked up by id is computed of what is looked up by code, which is cached as well.
NAMES = "result = [lang.name for lang in env['res.lang']._get_active_by('{}').values()]"


@pytest.fixture
def languages(make_worker, own_redis, make_database):
    """Two processes over a database with one language, of which the first knows the name."""
    database = make_database()
    workers = [make_worker(own_redis, database) for _number in range(2)]
    workers[0].run("env['res.lang'].search([]).name = 'Before'")
    assert workers[0].run(NAMES.format("code")) == ["Before"]
    return workers


def test_another_cursor_makes_no_transaction_outdated(languages):
    """A request whose own snapshot is as old as tier 1 goes on filling it."""
    misses = languages[0].run("""
        from odoo.tools.cache import _COUNTERS
        access = env["ir.model.access"]
        cr.execute("SELECT 1")
        with registry.cursor() as other:  # as another process does
            other.execute("INSERT INTO orm_signaling_stable DEFAULT VALUES")
        with registry.cursor() as cursor:
            env(cr=cursor)["res.lang"]._get_active_by("id")
        counter = _COUNTERS[registry.db_name, access._get_access_groups.__cache__.method]
        before = counter.miss
        for _time in range(10):
            access._get_access_groups("res.lang", "unlink")
        result = counter.miss - before
    """)
    assert misses == 1


def test_another_cursor_shares_nothing_old(languages):
    """A cursor that sees a newer state than tier 1 does not pass off what is there as new."""
    languages[0].run(f"""
        env["res.lang"]._get_active_by("code")
        with registry.cursor() as other:  # as another process does
            other.execute("UPDATE res_lang SET name = 'After' WHERE active")
            other.execute("INSERT INTO orm_signaling_stable DEFAULT VALUES")
        with registry.cursor() as cursor:
            {NAMES.format("id").replace("env[", "env(cr=cursor)[")}
    """)
    for worker in reversed(languages):
        assert worker.run(NAMES.format("id")) == ["After"]


@pytest.mark.parametrize("back", ["savepoint.rollback()", "cr.rollback()"])
@pytest.mark.parametrize(
    "change",
    [
        'env["res.lang"].search([]).name = "Rolled back"; env.flush_all()',
        """cr.execute("UPDATE res_lang SET name = 'Rolled back' WHERE active")""",
    ],
    ids=["invalidated", "not yet"],
)
def test_nothing_rolled_back_is_shared_later(languages, change, back):
    """What a transaction saw of its own change is gone with it, from tier 1 too."""
    languages[0].run(f"""
        savepoint = cr.savepoint()
        {change}
        env["res.lang"]._get_active_by("code")
        {back}
    """)
    for worker in languages:
        assert worker.run(NAMES.format("id")) == ["Before"]


def test_a_job_signals_whatever_registry_it_began_with(languages):
    """A job that finds the registry changed, and has it loaded again, signals its own changes."""
    signalled = languages[0].run("""
        cron = env["ir.cron"].search([], limit=1)
        script = env["ir.actions.server"].create({
            "name": "Rename",
            "model_id": env["ir.model"]._get_id("res.lang"),
            "state": "code",
            "code": "env['res.lang'].search([]).write({'name': 'After'})",
        })
        cr.commit()
        registry.signal_changes()
        with registry.cursor() as other:  # as another process does
            other.execute("INSERT INTO orm_signaling_registry DEFAULT VALUES")
        cr.execute("SELECT max(id) FROM orm_signaling_stable")
        before = cr.fetchone()
        cr.commit()
        cron._callback("Rename", script.id)
        cr.execute("SELECT max(id) FROM orm_signaling_stable")
        result = cr.fetchone() > before
    """)
    assert signalled


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("stable", 'env["res.lang"].search([]).name = "After"; env.flush_all()'),
        ("registry", "registry.registry_invalidated = True; env['res.lang']._get_active_by('id')"),
    ],
    ids=["cache", "registry"],
)
def test_an_early_signal_is_repeated_once(languages, table, change):
    """A job that signals before its commit signals after it, once, and shares again."""
    counts, is_ahead = languages[0].run(f"""
        def count():
            with registry.cursor() as other:
                other.execute("SELECT max(id) FROM orm_signaling_{table}")
                return other.fetchone()[0]
        {change}
        registry.signal_changes()
        registry.check_signaling()
        counts = [count()]
        for _time in range(3):
            cr.commit()
            counts.append(count())
            registry.check_signaling()
            env["res.lang"]._get_active_by("code")
        result = counts, registry._redis_shared.local.is_ahead("stable")
    """)
    first = counts[0]
    assert counts == [first, first + 1, first + 1, first + 1]
    assert not is_ahead


def test_a_query_after_a_commit_makes_nothing_old_valid(languages):
    """A callback that uses the cursor before the cache hears of the commit hides no change."""
    found = languages[0].run(f"""
        cr.postcommit.add(lambda: cr.execute("SELECT 1"))
        env["res.lang"].search([]).name = "After"
        env.flush_all()
        cr.commit()
        {NAMES.format("code")}
    """)
    assert found == ["After"]
