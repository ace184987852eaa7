"""What a model thinks and what it says, told apart in one text, whatever pieces it comes in."""

import pytest

from codex_bridge.protocol.thoughts import Split, ThoughtSplitter


def split(text: str, step: int | None = None) -> tuple[str, str]:
    """Return what is thought and what is said in a text."""
    splitter = ThoughtSplitter()
    thought = said = ""
    for at in range(0, len(text), step or max(1, len(text))):
        piece = text[at : at + step] if step else text
        found = splitter.feed(piece) or Split(said=piece)
        if found.takes_back:
            thought, said = thought + said, ""
        thought, said = thought + found.thought, said + found.said
    rest = splitter.end()
    return thought + rest.thought, said + rest.said


@pytest.mark.parametrize(
    ("text", "thought", "said"),
    [
        ("Hello", "", "Hello"),
        ("", "", ""),
        ("<think>Hm.</think>Hello", "Hm.", "Hello"),
        ("\n<think>\nHm.\n</think>\n\nHello", "\nHm.\n", "\nHello"),
        ("<think>Hm</thin</thinker></think>Hello", "Hm</thin</thinker>", "Hello"),
        ("<think>a</think>\n<think>b</think>Hello <think>c</think>", "ab", "Hello <think>c</think>"),
        ("<think></think>\n\nHello", "", "Hello"),
        # One that does not end.
        ("<think>Hm.", "Hm.", ""),
        ("<think>Hm.</thin", "Hm.</thin", ""),
        # No thoughts.
        ("<thin", "", "<thin"),
        ("<thing>", "", "<thing>"),
        ("Use <think> here.\n<think>x</think>", "", "Use <think> here.\n<think>x</think>"),
        ("It ends with </think>.\n </think>", "", "It ends with </think>.\n </think>"),
        ("Hello\n</thin", "", "Hello\n</thin"),
        # The begin is lost.
        ("Hm.\n</think>\nHello", "Hm.\n", "Hello"),
        ("Hm.\n<think>\n</think>Hello\n</think>", "Hm.\n<think>\n", "Hello\n</think>"),
        ("\n</think>\nHello\n</think>", "", "\nHello\n</think>"),
        # Code that has it, and thoughts that have code.
        ("So:\n```xml\n<think>\n</think>\n```\n", "", "So:\n```xml\n<think>\n</think>\n```\n"),
        ("```\n</think>\n```x\n</think>\n~~~\n</think>", "", "```\n</think>\n```x\n</think>\n~~~\n</think>"),
        (
            "~~~~ a\n~~~\n</think>\n  ~~~~~\nHm.\n</think>Hello",
            "~~~~ a\n~~~\n</think>\n  ~~~~~\nHm.\n",
            "Hello",
        ),
        ("A:\n```\nb\n```\n```c```\n</think>\nHello", "A:\n```\nb\n```\n```c```\n", "Hello"),
    ],
)
def test_a_text_is_split_in_any_pieces(text: str, thought: str, said: str) -> None:
    for step in (None, 1, 2, 3, 5, 8):
        assert split(text, step) == (thought, said), step


def test_only_what_may_be_a_mark_is_held_back() -> None:
    splitter = ThoughtSplitter()
    for piece, said in (
        ("Hel", "Hel"),
        ("lo\n", "lo\n"),
        ("<", ""),
        ("a>", "<a>"),
        ("\n<", "\n"),
        ("/b", "</b"),
    ):
        assert (splitter.feed(piece) or Split(said=piece)) == Split(said=said)
