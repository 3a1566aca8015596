"""Any sequence of calls, made on Odoo's store and on ours at once, gives the same results."""

import itertools
import tempfile
from base64 import urlsafe_b64encode
from hashlib import sha512

import hypothesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from odoo.http import SESSION_DELETION_TIMER, STORED_SESSION_BYTES, FilesystemSessionStore, Session

from odoo.addons.redis_session_ormcache.tests.support.dose import dose

TIMES = ("create_time", "deletion_time")


def content(session):
    """A session without what the two stores cannot agree on: times."""
    return {k: v for k, v in session.items() if k not in TIMES}


def key_generator(seed):
    """The same series of valid keys for the same seed."""
    numbers = itertools.count()
    return lambda: urlsafe_b64encode(
        sha512(f"{seed} {next(numbers)}".encode()).digest()[:-1]
    ).decode()


def build(make_store, redis):
    """The state machine, on a server."""

    class BothStores(RuleBasedStateMachine):
        """Deletions of a sid that has siblings, and saves of what was deleted, are left out: ours
        ends a session with all its sids and for good, Odoo's does not (see test_store.py)."""

        pairs = Bundle("pairs")

        @initialize()
        def start(self):
            self.folder = tempfile.TemporaryDirectory()
            files = FilesystemSessionStore(
                self.folder.name, session_class=Session, renew_missing=True
            )
            ours = make_store(redis)
            self.stores = files, ours
            self.steps = itertools.count()
            self.sids: dict[str, None] = {}

        def teardown(self):
            self.folder.cleanup()

        @rule(target=pairs, value=st.integers())
        def new(self, value):
            sessions = [store.new() for store in self.stores]
            sid = sessions[0].sid
            for session in sessions:
                session.sid = sid
                session.update(db="prod", uid=None, create_time=0.0, value=value)
            self.save(sessions)
            return sessions

        @rule(pair=pairs, value=st.dictionaries(st.text(), st.floats(allow_nan=False) | st.text()))
        def change(self, pair, value):
            if self.is_live(pair):
                for session in pair:
                    session["value"] = value
                self.save(pair)

        @rule(target=pairs, pair=pairs)
        def read(self, pair):
            found = [
                store.get(session.sid) for store, session in zip(self.stores, pair, strict=True)
            ]
            assert found[0].is_new == found[1].is_new
            assert content(found[0]) == content(found[1])
            found[1].sid = found[0].sid  # a new one has a random sid
            return found

        @rule(pair=pairs)
        def rotate_softly(self, pair):
            if self.is_stored(pair):
                self.on_both(pair, lambda store, session: store.rotate(session, None, True))

        @rule(pair=pairs)
        def rotate_hard(self, pair):
            if self.is_live(pair) and self.is_alone(pair):
                self.on_both(pair, lambda store, session: store.rotate(session, None))

        @rule(pair=pairs)
        def delete(self, pair):
            if self.is_alone(pair):
                self.on_both(pair, lambda store, session: store.delete(session))

        @rule(pair=pairs)
        def delete_old_sessions(self, pair):
            if self.is_live(pair):
                for session in pair:
                    session["create_time"] -= SESSION_DELETION_TIMER + 1
                self.on_both(pair, lambda store, session: store.delete_old_sessions(session))

        @rule(pair=pairs)
        def revoke(self, pair):
            names = [pair[0].sid[:STORED_SESSION_BYTES]]
            self.on_both(pair, lambda store, session: store.delete_from_identifiers(names))

        @invariant()
        def same_sessions(self):
            if not hasattr(self, "stores"):
                return
            files, ours = self.stores
            names = {sid[:STORED_SESSION_BYTES] for sid in self.sids}
            missing = files.get_missing_session_identifiers(names)
            assert missing == ours.get_missing_session_identifiers(names)
            for sid in self.sids:
                one, two = files.get(sid), ours.get(sid)
                assert one.is_new == two.is_new
                assert content(one) == content(two)

        def save(self, pair):
            self.on_both(pair, lambda store, session: store.save(session))

        def on_both(self, pair, action):
            step = next(self.steps)
            for store, session in zip(self.stores, pair, strict=True):
                store.generate_key = key_generator(step)  # the same keys for both
                action(store, session)
            one, two = pair
            assert one.sid == two.sid
            assert content(one) == content(two)
            self.sids[one.sid] = None

        def stored(self, pair):
            return self.stores[0].get(pair[0].sid)

        def is_stored(self, pair):
            return not self.stored(pair).is_new

        def is_live(self, pair):
            return self.is_stored(pair) and not (
                {"next_sid"} & (set(self.stored(pair)) | set(pair[0]))
            )

        def is_alone(self, pair):
            name = pair[0].sid[:STORED_SESSION_BYTES]
            family = {sid for sid in self.sids if sid.startswith(name)}
            return not any(
                not self.stores[0].get(sid).is_new for sid in family if sid != pair[0].sid
            )

    return BothStores


def test_any_sequence_of_calls(make_store, redis, seed):
    """Random sequences of 30 calls."""
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        hypothesis.seed(seed)(build(make_store, redis)),
        settings=settings(
            max_examples=dose(40, 1_000),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
