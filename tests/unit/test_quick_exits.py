"""Quick exits: how long the next start waits, when nothing is started any more, and what ends that."""

from codex_bridge.adapters.process import Program
from codex_bridge.limits import GIVE_UP_S, MAX_QUICK_EXITS, RESTART_BACKOFF_S
from codex_bridge.runtimes.quick_exits import QuickExits

ONE = Program("/bin/codex", (1, 2, 3, 4))
OTHER = Program("/bin/codex", (1, 2, 3, 5))


def given_up(at: float = 100.0) -> QuickExits:
    exits = QuickExits()
    for _ in range(MAX_QUICK_EXITS):
        exits.note(ONE, "it said no", at)
    return exits


def test_the_wait_doubles_until_there_is_no_other_try() -> None:
    exits = QuickExits()
    assert exits.wait_s(100.0) == 0
    for count in range(1, MAX_QUICK_EXITS):
        exits.note(ONE, "", 100.0)
        assert exits.wait_s(100.0) == RESTART_BACKOFF_S * 2 ** (count - 1)
        assert not exits.has_given_up(ONE, 100.0)
    exits.note(ONE, "", 100.0)
    assert exits.wait_s(100.0) == GIVE_UP_S
    assert exits.has_given_up(ONE, 100.0)


def test_what_has_been_waited_counts() -> None:
    exits = QuickExits()
    exits.note(ONE, "", 100.0)
    assert exits.wait_s(100.0 + RESTART_BACKOFF_S / 4) == RESTART_BACKOFF_S * 3 / 4
    assert exits.wait_s(200.0) == 0


def test_giving_up_ends_with_time_and_one_more_failure_is_enough() -> None:
    exits = given_up()
    assert not exits.has_given_up(ONE, 100.0 + GIVE_UP_S)
    exits.note(ONE, "", 300.0)
    assert exits.has_given_up(ONE, 300.0)


def test_giving_up_is_of_one_program() -> None:
    exits = given_up()
    assert not exits.has_given_up(OTHER, 100.0)
    exits.note(OTHER, "", 100.0)
    assert (exits.count, exits.wait_s(100.0)) == (1, RESTART_BACKOFF_S)


def test_a_healthy_one_makes_them_forgotten() -> None:
    exits = given_up()
    exits.forget()
    assert (exits.count, exits.wait_s(100.0), exits.has_given_up(ONE, 100.0)) == (0, 0, False)


def test_the_sentence_says_how_often_and_what_to_do() -> None:
    failure = given_up().failure(110.0)
    assert failure.code == "codex_unavailable"
    for word in (f"{MAX_QUICK_EXITS} times", f"{GIVE_UP_S - 10:.0f} s", "/bin/codex", "doctor", "it said no"):
        assert word in failure.message
