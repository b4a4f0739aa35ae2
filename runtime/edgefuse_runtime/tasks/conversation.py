"""A conversation: what was said is kept, and every answer is written behind all of it."""

from collections.abc import Callable, Generator, Iterator, Sequence

from edgefuse_runtime.tasks.chat_template import Message

Write = Callable[[Sequence[Message]], Iterator[str]]
"""A function that answers messages, and gives the answer piece by piece."""


class Conversation:
    """A conversation with a model.

    Attributes:
        messages: What was said, the first message first.
    """

    def __init__(self, write: Write, *, system: str = "") -> None:
        """Begin.

        Args:
            write: Function that answers messages.
            system: What the model is told before anything is said; empty for nothing.
        """
        self._write = write
        self.messages: list[Message] = []
        if system:
            self.messages.append({"role": "system", "content": system})

    def answer(self, text: str) -> Generator[str, None, None]:
        """Say something, and give the answer as it is made.

        Whoever asks for no more of it has heard what the model remembers to have said.

        Args:
            text: What is said.

        Raises:
            DataError: The conversation is too long for the model, or its chat template refuses it;
                what is said is not kept then.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        pieces, said = self._write(messages), ""
        try:
            for piece in pieces:
                said += piece
                yield piece
        finally:
            self.messages = [*messages, {"role": "assistant", "content": said}]
