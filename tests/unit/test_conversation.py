"""What a conversation keeps of what was said."""

from collections.abc import Iterator, Sequence
from io import BytesIO

import pytest

from edgefuse_devices.errors import DataError, InputError
from edgefuse_runtime.data.lines import lines_of
from edgefuse_runtime.tasks.chat_template import Message
from edgefuse_runtime.tasks.conversation import Conversation
from edgefuse_runtime.tasks.generation import GenerationOptions
from edgefuse_runtime.tasks.text_generation import TextGeneration


def counts(messages: Sequence[Message]) -> Iterator[str]:
    """Answers with the count of messages, in two pieces; refuses more than three."""
    if len(messages) > 3:
        raise DataError("too many messages", "Say less")
    return iter([f"{len(messages)}", " messages"])


SAID = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "1 messages"},
]


def test_an_answer_is_written_behind_all_that_was_said() -> None:
    conversation = Conversation(counts)
    assert list(conversation.answer("hello")) == ["1", " messages"]
    assert conversation.messages == SAID
    assert "".join(conversation.answer("stop")) == "3 messages"


def test_what_the_model_is_told_comes_first() -> None:
    conversation = Conversation(counts, system="be short")
    assert "".join(conversation.answer("hello")) == "2 messages"
    assert conversation.messages[0] == {"role": "system", "content": "be short"}


def test_an_answer_that_is_ended_is_kept_as_far_as_it_came() -> None:
    conversation = Conversation(counts)
    answer = conversation.answer("hello")
    assert next(answer) == "1"
    answer.close()
    assert conversation.messages == [SAID[0], {"role": "assistant", "content": "1"}]


def test_what_is_refused_was_not_said() -> None:
    conversation = Conversation(counts)
    list(conversation.answer("hello"))
    list(conversation.answer("hello"))
    said = [*conversation.messages]
    with pytest.raises(DataError, match="too many messages"):
        list(conversation.answer("hello"))
    assert conversation.messages == said


def test_a_model_without_a_chat_template_has_no_conversations() -> None:
    task = TextGeneration(end_id=0, stop_ids=[0])
    with pytest.raises(InputError, match="has no chat template"):
        task.conversation(None, GenerationOptions())


def test_lines_come_one_by_one_and_a_broken_one_is_named() -> None:
    lines = lines_of(BytesIO(b"\xef\xbb\xbfon\r\noff\n\xff\n"), "standard input")
    assert [next(lines).bare, next(lines).bare] == ["on", "off"]
    with pytest.raises(DataError, match="standard input:3 is not UTF-8"):
        next(lines)
