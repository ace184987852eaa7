"""The answer of Chat Completions, said to Codex as the event stream of Responses. No I/O.

`ChatAnswer.feed` takes the upstream's bytes as they come and returns Codex's; `finish` ends the answer. Text and reasoning
are passed on at once, tool calls when all is said: Codex starts them then. What arrives together is one delta.

What is wrong with an answer is raised as `UpstreamFailed`, by `finish` where it is empty or has no end. An answer that was cut off (`finish_reason` "length" or
"content_filter") is said as far as it goes, without its calls, which may be halves; `cut` tells why then.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import UpstreamFailed
from ..limits import MAX_MODEL_ANSWER_CHARACTERS
from ..model import new_id
from . import json_codec
from .chat import ChatDelta, ChatReader, Json
from .chat_calls import Calls
from .chat_request import ToolBook
from .openai import Usage, read_chat_usage

# What Responses calls the reasons for an answer that is not whole, and how they are told a person.
_CUT = {
    "length": ("max_output_tokens", "it is longer than the model or the upstream allows"),
    "content_filter": ("content_filter", "the upstream's content filter stopped it"),
}


class _Item:
    """A message or a piece of reasoning that is being said. What all its deltas share is encoded once."""

    def __init__(self, is_message: bool, index: int) -> None:
        self.is_message = is_message
        self._index = index
        self._said: list[str] = []
        self._item: Json = {"type": "reasoning", "id": new_id("rs"), "summary": []}
        self._kind = "response.reasoning_summary_text.delta"
        self._part: Json = {"summary_index": 0}
        if is_message:
            self._item = {"type": "message", "id": new_id("msg"), "role": "assistant", "content": []}
            self._kind = "response.output_text.delta"
            self._part = {"content_index": 0}
        place = {"type": self._kind, "item_id": self._item["id"], "output_index": index, **self._part}
        self._head = f"event: {self._kind}\ndata: ".encode() + json_codec.encode(place)[:-1] + b',"delta":'

    def begin(self) -> bytes:
        added = _event("response.output_item.added", output_index=self._index, item=self._item)
        if self.is_message:
            return added
        part = {"type": "summary_text", "text": ""}
        place = {"item_id": self._item["id"], "output_index": self._index, **self._part}
        return added + _event("response.reasoning_summary_part.added", **place, part=part)

    def say(self, text: str) -> bytes:
        self._said.append(text)
        return self._head + json_codec.encode(text) + b"}\n\n"

    def end(self) -> bytes:
        text = "".join(self._said)
        if self.is_message:
            whole = {"content": [{"type": "output_text", "text": text, "annotations": []}]}
        else:
            whole = {"summary": [{"type": "summary_text", "text": text}]}
        return _event("response.output_item.done", output_index=self._index, item={**self._item, **whole})


class ChatAnswer:
    """Translates one answer; `tools` are those of its request.

    `reasoning_field` is where the upstream has told its reasoning, `has_ended` after its `[DONE]`.
    """

    def __init__(self, tools: ToolBook) -> None:
        self.reasoning_field: str | None = None
        self.cut: UpstreamFailed | None = None
        self._tools = tools
        self._reader = ChatReader()
        self._id = new_id("resp")
        self._has_begun = False
        self._size = 0
        self._item: _Item | None = None
        self._items = 0
        # Space before the first word, which is said with it, or never.
        self._space: list[str] = []
        self._has_spoken = False
        self._calls = Calls()
        self._finish_reason: str | None = None
        self._usage: Json | None = None

    @property
    def has_ended(self) -> bool:
        return self._reader.is_done

    @property
    def usage(self) -> Usage | None:
        """What the upstream says that the answer has used."""
        if self._usage is None:
            return None
        usage = read_chat_usage(self._usage)
        total = usage["total_tokens"] or usage["input_tokens"] + usage["output_tokens"]
        return {**usage, "total_tokens": total}

    def feed(self, piece: bytes) -> bytes:
        """Take the answer's next bytes; return what Codex is to read, which may be nothing."""
        begin = b""
        if not self._has_begun:
            self._has_begun = True
            begin = _event("response.created", response={"id": self._id, "status": "in_progress"})
        return begin + self._say(self._reader.feed(piece))

    def finish(self) -> bytes:
        """Return the end of the answer for Codex; raise `UpstreamFailed` where it is none."""
        said = self._say(self._reader.end())
        reason = self._finish_reason
        if reason is None and not self._reader.is_done:
            raise UpstreamFailed("The upstream's answer broke off.", code="upstream_disconnected")
        if reason == "error":
            raise UpstreamFailed("The upstream's answer broke off by an error that it does not name.")
        said += self._end_item()
        if reason in _CUT:
            return said + self._end_cut(reason)
        self._calls.give_ids()
        # One without a name is no call.
        items = [self._tools.to_item(call.name, call.arguments, call.id) for call in self._calls if call.name]
        if not items and not self._has_spoken:
            raise UpstreamFailed("The upstream's answer is empty.")
        for item in items:
            said += _event("response.output_item.done", output_index=self._items, item=item)
            self._items += 1
        return said + self._end("response.completed", {"status": "completed"})

    def _end_cut(self, finish_reason: str) -> bytes:
        name, why = _CUT[finish_reason]
        self.cut = UpstreamFailed(f"The upstream's answer is cut off: {why}.", code="upstream_incomplete")
        return self._end(
            "response.incomplete", {"status": "incomplete", "incomplete_details": {"reason": name}}
        )

    def _end(self, kind: str, how: Json) -> bytes:
        response = {"id": self._id, **how}
        usage = self.usage
        if usage is not None:
            response["usage"] = {
                "input_tokens": usage["input_tokens"],
                "input_tokens_details": {"cached_tokens": usage["cached_input_tokens"]},
                "output_tokens": usage["output_tokens"],
                "output_tokens_details": {"reasoning_tokens": usage["reasoning_output_tokens"]},
                "total_tokens": usage["total_tokens"],
            }
        return _event(kind, response=response)

    def _say(self, deltas: Iterable[ChatDelta]) -> bytes:
        said: list[bytes] = []
        run: list[str] = []
        is_message = False
        for delta in deltas:
            self._measure(delta)
            if delta.takes_back:
                # What Codex was told cannot be taken back, but the answer is a message of its own.
                said += [self._write(is_message, "".join(run)) if run else b"", self._end_item()]
                run.clear()
                self._has_spoken = False
            for kind, text in ((False, delta.reasoning), (True, delta.text)):
                if not text:
                    continue
                if run and kind is not is_message:
                    said.append(self._write(is_message, "".join(run)))
                    run.clear()
                is_message = kind
                run.append(text)
            for piece in delta.calls:
                self._calls.add(piece)
            if delta.reasoning_field:
                self.reasoning_field = delta.reasoning_field
            self._finish_reason = delta.finish_reason or self._finish_reason
            self._usage = delta.usage or self._usage
        if run:
            said.append(self._write(is_message, "".join(run)))
        return b"".join(said)

    def _measure(self, delta: ChatDelta) -> None:
        """Raise `UpstreamFailed` when there is no end to an answer: Codex is told each item as a whole, too."""
        self._size += delta.size
        if self._size > MAX_MODEL_ANSWER_CHARACTERS:
            raise UpstreamFailed(
                f"The model's answer has more than {MAX_MODEL_ANSWER_CHARACTERS} characters.", passes=False
            )

    def _write(self, is_message: bool, text: str) -> bytes:
        if self._item is not None and self._item.is_message is is_message:
            return self._item.say(text)
        if not text.strip():
            if is_message:
                self._space.append(text)
            return b""
        if is_message:
            text = "".join([*self._space, text])
            self._space.clear()
        self._has_spoken = self._has_spoken or is_message
        ended = self._end_item()
        self._item = _Item(is_message, self._items)
        self._items += 1
        return ended + self._item.begin() + self._item.say(text)

    def _end_item(self) -> bytes:
        item, self._item = self._item, None
        return item.end() if item is not None else b""


def _event(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: ".encode() + json_codec.encode({"type": kind, **fields}) + b"\n\n"
