"""Chats as a model was trained to read them: its chat template, in Jinja, and what it answers."""

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.cells import list_in
from edgefuse_runtime.data.rows import Row

if TYPE_CHECKING:
    from jinja2 import Template

CHAT_ROW = (
    'A row looks like {"messages": [{"role": "user", "content": "turn the lamp on"}, '
    '{"role": "assistant", "content": "light_on"}]}'
)

Message = Mapping[str, Any]
"""A message: `role`, `content`, and what else the template reads."""

_ANSWERS = "assistant"


class Part(NamedTuple):
    """A part of a chat's text.

    Attributes:
        text: The text.
        answers: Whether the model is to write it.
    """

    text: str
    answers: bool


class ChatTemplate(NamedTuple):
    """A chat template, and the names that it knows of special tokens.

    Attributes:
        source: The template, in Jinja as transformers has it.
        special_tokens: Texts of special tokens, by names such as `bos_token`.
        date: What `strftime_now` formats; None where templates are not to have it.
    """

    source: str
    special_tokens: Mapping[str, str]
    date: dt.date | None = None

    def prompt(self, messages: Sequence[Message], place: str) -> str:
        """The text after which the model answers.

        Args:
            messages: The chat up to the answer.
            place: File and line, as messages name it.

        Raises:
            DataError: The template refuses the messages.
        """
        return self._render(messages, place, answer=True)

    def parts(self, messages: Sequence[Message], place: str) -> list[Part]:
        """The text of a chat whose last message answers, cut where answers begin and end.

        An answer counts where the template writes the chat before it as it does when it asks for
        the answer; some templates leave out of older answers what they keep in the last one.

        Args:
            messages: The chat.
            place: File and line, as messages name it.

        Raises:
            DataError: The last message does not answer, or the template refuses the messages, or
                it does not write the last answer behind what asks for it.
        """
        if messages[-1].get("role") != _ANSWERS:
            raise DataError(
                f'{place} has "messages" whose last is none of the role {_ANSWERS}',
                "End the chat with the answer to learn",
            )
        whole, parts, end = self._render(messages, place), [], 0
        for index, message in enumerate(messages):
            if message.get("role") != _ANSWERS or not index:
                continue
            before = self.prompt(messages[:index], place)
            after = self._render(messages[: index + 1], place)
            if whole.startswith(after) and after.startswith(before) and len(before) >= end:
                parts += [Part(whole[end : len(before)], answers=False)]
                parts += [Part(whole[len(before) : len(after)], answers=True)]
                end = len(after)
        if end < len(whole):
            raise DataError(
                f"{place} cannot be cut into questions and answers: the model's chat template does "
                "not write the last answer behind what asks for it",
                'Write rows with "prompt" and "completion" instead',
            )
        return [part for part in parts if part.text]

    def _render(self, messages: Sequence[Message], place: str, *, answer: bool = False) -> str:
        try:
            return _compiled(self.source, self.date).render(
                messages=list(messages),
                tools=None,
                documents=None,
                add_generation_prompt=answer,
                **self.special_tokens,
            )
        except Exception as error:  # a template is a program, which may fail in any way
            reason = str(error) or type(error).__name__
            raise DataError(
                f'{place} has "messages" that the model\'s chat template refuses: {reason}',
                CHAT_ROW,
            ) from error


def messages_of(row: Row) -> list[Message]:
    """The chat of a row.

    Raises:
        DataError: It is no list of objects with a role (JSON, in a cell), or it is empty.
    """
    messages = list_in(row, "messages")
    if not isinstance(messages, list) or not messages:
        raise DataError(f'{row.place} has "messages" that are no list of them', CHAT_ROW)
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise DataError(f'{row.place} has a message without a "role"', CHAT_ROW)
    return messages


@cache
def _compiled(source: str, today: dt.date | None) -> "Template":
    """Compile a template in a sandbox, with what transformers gives to templates.

    Only `strftime_now` differs: it gives one date always, so that a run that is resumed on another
    day goes on with the same rows.

    Raises:
        jinja2.TemplateError: It is no Jinja.
    """
    # Few tasks need it, and it takes time.
    from jinja2 import TemplateError, nodes  # noqa: PLC0415
    from jinja2.exceptions import SecurityError  # noqa: PLC0415
    from jinja2.ext import Extension, loopcontrols  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415
    from jinja2.utils import Namespace  # noqa: PLC0415

    class Generation(Extension):
        """Reads `{% generation %}` around answers, which marks them and writes nothing."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    class PublicNamespace(Namespace):
        """A namespace without names that begin with an underscore, as Python's own do."""

        def __init__(*args: Any, **kwargs: Any) -> None:  # a name may be `self`
            own, *given = args
            values = dict(*given, **kwargs)
            for name in values:
                check_public(name)
            Namespace.__init__(own, values)

        def __setitem__(self, name: str, value: Any) -> None:
            check_public(name)
            super().__setitem__(name, value)

    def check_public(name: object) -> None:
        if str(name).startswith("_"):
            raise SecurityError(f"a namespace has no name such as {name}")

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = PublicNamespace
    if today is not None:
        midnight = dt.datetime.combine(today, dt.time())
        environment.globals["strftime_now"] = midnight.strftime
    return environment.from_string(source)


class _Dict:
    """Makes dictionaries, without what else the class of them has."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - transformers' signature
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    """JSON without the escapes of HTML that Jinja's own filter makes."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
