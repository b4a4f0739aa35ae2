"""A conversation: its messages are kept, and every answer is written behind all of them."""

from collections.abc import Callable, Generator, Iterator, Sequence

from edgefuse_runtime.tasks.chat_template import Message

Write = Callable[[Sequence[Message]], Iterator[str]]
"""A function that answers messages, and gives the answer piece by piece."""


class Conversation:
    """A conversation with a model.

    Attributes:
        messages: The messages until now, the first one first.
    """

    def __init__(self, write: Write, *, system: str = "") -> None:
        """Begin.

        Args:
            write: Function that answers messages.
            system: What the model is told before the first message; empty for nothing.
        """
        self._write = write
        self.messages: list[Message] = []
        if system:
            self.messages.append({"role": "system", "content": system})

    def answer(self, text: str) -> Generator[str, None, None]:
        """Send a message, and give the answer as it is made.

        An answer that is closed early is kept as far as it came.

        Args:
            text: The message.

        Raises:
            DataError: The conversation is too long for the model, or its chat template refuses it;
                the message is not kept then.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        pieces, written = self._write(messages), ""
        try:
            for piece in pieces:
                written += piece
                yield piece
        finally:
            self.messages = [*messages, {"role": "assistant", "content": written}]
