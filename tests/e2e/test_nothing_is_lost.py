"""Random kills of the bridge and of Codex in the middle of turns: nothing that was acknowledged is lost or doubled.

`--kills 200` makes it a long run, `--seed` repeats one.
"""

import random
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from tests.conftest import BridgeFactory
from tests.support import processes
from tests.support.bridge import Bridge
from tests.support.clients import PATIENCE_S, Follower, Talker, insist
from tests.support.sse import LAST_EVENT, Event
from tests.support.upstream import Part, Request, Step, Stream, Upstream, run, say
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.codex, pytest.mark.smoke]

SESSIONS = 4
SLOTS = 2
WORDS = 12
# Of the kills, those that meet the bridge; the others meet Codex.
BRIDGES_SHARE = 0.6
# More of those in a row, and Codex is given up for a while: then no turn runs that a kill could meet.
MOST_IN_A_ROW = 3


def free_port() -> int:
    """Return a port that nobody is given by chance while the bridge is down, as those above 32768 are."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def at_a_models_pace(answer: Stream) -> Stream:
    """Write an answer piece by piece, so that a kill can meet it in the middle."""

    def steps() -> Iterator[Step]:
        for step in answer.steps():
            yield step
            time.sleep(0.02)

    return Stream(steps)


def play(request: Request) -> Stream:
    """Run a command, then answer the message in many deltas."""
    if not request.outputs:
        return run("echo working; sleep 0.1; echo done")
    parts: list[Part] = [f"word {number} on {request.user_text}. " for number in range(WORDS)]
    return at_a_models_pace(say(*parts))


class Storm:
    """A bridge that is killed and started again, always on the same port and the same directories."""

    def __init__(self, bridge: BridgeFactory, upstream: Upstream, dice: random.Random) -> None:
        self._bridge = bridge
        self._dice = dice
        # What a kill waits for: that a model is asked, that a message is sent, that one is acknowledged.
        self._moments: list[Callable[[], int]] = [
            lambda: len(upstream.requests),
            lambda: sum(talker.asked for talker in self.talkers),
            lambda: sum(len(talker.sent) for talker in self.talkers),
        ]
        self.port = free_port()
        self.killed: Counter[str] = Counter()
        self._in_a_row = 0
        self.one = self.start()
        self.talkers = [Talker(self.port, f"client-{number}") for number in range(SESSIONS)]

    def start(self) -> Bridge:
        return self._bridge(CODEX_BRIDGE_PORT=self.port, CODEX_MAX_CONCURRENT_TURNS=SLOTS)

    def kill_something(self) -> None:
        """Kill the bridge or a Codex while it works."""
        count = self._dice.choice(self._moments)
        before = count()
        wait_until(lambda: count() > before, "something under way", PATIENCE_S)
        # Not for anything to happen: the moment is to be a random one, and some of them soon after.
        time.sleep(self._dice.uniform(0, self._dice.choice((0, 0.05, 0.6))))
        if self._dice.random() < BRIDGES_SHARE or self._in_a_row == MOST_IN_A_ROW:
            self._in_a_row = 0
            processes.kill(self.one.pid)
            self.one.wait_exit()
            self.killed["bridge"] += 1
            self.one = self.start()
        else:
            children = self.one.codex_pids()
            if children:
                processes.kill(self._dice.choice(children))
                self.killed["codex"] += 1
                self._in_a_row += 1


def test_random_kills(bridge: BridgeFactory, upstream: Upstream, request: pytest.FixtureRequest) -> None:
    kills: int = request.config.getoption("--kills")
    seed: int = request.config.getoption("--seed") or random.randrange(1 << 32)
    print(f"--kills {kills} --seed {seed}")
    upstream.script = play
    storm = Storm(bridge, upstream, random.Random(seed))
    talkers = storm.talkers
    followers: list[Follower] = []
    try:
        for talker in talkers:
            talker.start()
            followers.append(Follower(storm.port, talker.session_id))
        while storm.killed.total() < kills:
            storm.kill_something()
        for talker in talkers:
            talker.finish()
    finally:
        for talker in talkers:
            talker.give_up()
        for follower in followers:
            follower.finish()
    print(f"killed {dict(storm.killed)}, sent {[len(talker.sent) for talker in talkers]}")
    for talker, follower in zip(talkers, followers, strict=True):
        check_stream(follower.connections)
        check_turns(talker, follower.events)
    check_sessions(storm.port, talkers)
    storm.one.stop()
    check_database(storm.one)

    storm.one = storm.start()
    check_sessions(storm.port, talkers)
    for talker in talkers:
        assert talker.create(0) == talker.session_id
        assert talker.repeat(talker.sent[-1]) == talker.sent[-1].turn_id
    check_sessions(storm.port, talkers)
    storm.one.stop()


def check_stream(connections: list[list[Event]]) -> None:
    """Within an epoch ids go on by one, over all connections; a new epoch begins with the whole session."""
    last: Event | None = None
    for events in connections:
        for place, event in enumerate(events):
            if event.name == LAST_EVENT:
                assert event is events[-1]
            elif event.name == "session.ready":
                assert place == 0, f"{event.id}: session.ready in the middle of a stream"
                assert last is None or event.epoch != last.epoch, f"{event.id}: begun anew without need"
                last = event
            else:
                assert last is not None, f"{event.id} came before session.ready"
                came = (event.epoch, event.seq)
                assert came == (last.epoch, last.seq + 1), f"{event.id} ({event.kind}) after {last.id}"
                last = event


def check_turns(talker: Talker, events: list[Event]) -> None:
    """No turn ends twice, none is another's, and what was told in pieces is what was told whole."""
    ends = Counter(event.data["turn_id"] for event in events if event.kind == "turn.completed")
    assert set(ends) <= {message.turn_id for message in talker.sent}
    assert set(ends.values()) <= {1}
    pieces: dict[tuple[str, str], list[str]] = {}
    for event in events:
        item = event.runtime.get("item", {})
        if event.kind == "item.started" and item["type"] == "agentMessage":
            pieces[event.epoch, item["id"]] = []
        elif event.kind == "item.agent_message.delta":
            pieces.get((event.epoch, event.runtime["item_id"]), []).append(event.runtime["delta"])
        elif event.kind == "item.completed" and item["type"] == "agentMessage":
            told = pieces.get((event.epoch, item["id"]))
            assert told is None or "".join(told) == item["text"], event.id


def check_sessions(port: int, talkers: list[Talker]) -> None:
    """Every session is there once and at rest, with every acknowledged message once, in order."""
    made = sorted(session_id for talker in talkers for session_id in (talker.session_id, *talker.others))
    found: list[str] = []
    cursor = ""
    while cursor is not None:
        page = insist(port, "GET", f"/chat/sessions?limit=200{cursor and '&cursor='}{cursor}")
        assert page["total"] == len(made)
        found += [session["id"] for session in page["sessions"]]
        cursor = page["next_cursor"]
    assert sorted(found) == made
    load = insist(port, "GET", "/health")["bridge_load"]
    assert (load["active_turns"], load["pending_turns"]) == (0, 0)
    for talker in talkers:
        session = insist(port, "GET", f"/chat/sessions/{talker.session_id}")["session"]
        assert session["status"] in ("idle", "error"), session["status"]
        assert (session["active_turn_id"], session["running"]) == (None, False)
        assert session["pending_approval"] is None
        asked = [(each["text"], each["turn_id"]) for each in session["messages"] if each["role"] == "user"]
        assert asked == [(message.text, message.turn_id) for message in talker.sent]
        ids = [message["id"] for message in session["messages"]]
        assert len(set(ids)) == len(ids) == session["message_count"]
        answered = Counter(each["turn_id"] for each in session["messages"] if each["role"] == "assistant")
        assert set(answered) <= {message.turn_id for message in talker.sent}


def check_database(one: Bridge) -> None:
    path = one.directories.state / "bridge.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
