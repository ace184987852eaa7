"""What a model is told, and what is left out of it, in which order."""

from typing import Any

import pytest

from codex_bridge.runtime import Utterance
from codex_bridge.runtimes.loop_conversation import Conversation

Json = dict[str, Any]


def made(rounds: int = 3, past: int = 4, size: int = 10_000) -> Conversation:
    """Return a conversation with `past` utterances and `rounds` steps, each of the given size."""
    history = tuple(Utterance(number % 2 == 0, f"past {number} " + "p" * size) for number in range(past))
    conversation = Conversation("the system", history, {"role": "user", "content": "the newest"})
    for number in range(rounds):
        call = {"id": str(number), "type": "function", "function": {"name": "read_file", "arguments": "{}"}}
        answer = {"role": "assistant", "content": None, "tool_calls": [call]}
        result = {"role": "tool", "tool_call_id": str(number), "content": f"result {number} " + "r" * size}
        conversation.add_answer(answer, [result])
    return conversation


def contents(conversation: Conversation) -> list[str]:
    return [str(message["content"])[:8].strip() for message in conversation.messages()]


def test_what_fits_stays_as_it_is() -> None:
    conversation = made()
    before = contents(conversation)
    assert not conversation.trim(conversation.size)
    assert contents(conversation) == before


def test_old_results_go_first_and_old_messages_then() -> None:
    conversation = made()
    assert conversation.trim(conversation.size - 1)
    assert contents(conversation)[1:] == [
        "past 0 p", "past 1 p", "past 2 p", "past 3 p", "the newe", "None", "[This re", "None", "result 1", "None", "result 2"
    ]  # fmt: skip
    assert conversation.trim(35_000)
    assert contents(conversation)[1:4] == ["past 2 p", "past 3 p", "the newe"]
    assert contents(conversation)[-1] == "result 2"


@pytest.mark.parametrize("budget", [0, 100, 5_000])
def test_the_system_the_newest_message_and_the_newest_step_stay(budget: int) -> None:
    conversation = made()
    conversation.add_user({"role": "user", "content": "and a steer"})
    assert conversation.trim(budget)
    messages = conversation.messages()
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool", "user"]
    assert [messages[0]["content"], messages[1]["content"], messages[4]["content"]] == [
        "the system", "the newest", "and a steer"
    ]  # fmt: skip
    assert len(messages[3]["content"]) < 2_100
    assert not conversation.trim(budget)


def test_each_result_still_has_its_call() -> None:
    whole = made(rounds=6).size
    for budget in range(0, whole, whole // 50):
        conversation = made(rounds=6)
        conversation.trim(budget)
        asked = {call["id"] for message in conversation.messages() for call in message.get("tool_calls", ())}
        told = {message["tool_call_id"] for message in conversation.messages() if message["role"] == "tool"}
        assert asked == told
        assert conversation.messages()[1]["role"] == "user"


def test_an_image_counts_as_what_it_costs() -> None:
    image: Json = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    text: Json = {"type": "text", "text": "Look"}
    assert Conversation("", (), {"role": "user", "content": [text, image]}).size < 10_000
