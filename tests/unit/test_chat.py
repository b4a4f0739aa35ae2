"""`edgefuse chat`: what is typed, what is shown, and what ends an answer or the conversation."""

import builtins
import signal
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

import edgefuse_runtime
from edgefuse_runtime.tasks.conversation import Conversation

Run = Callable[..., SimpleNamespace]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A model that counts to three, and presses Ctrl-C as often as a message says, after one.

    Gives what it was asked: the options, and then the messages of each answer.
    """
    seen: list[object] = []

    def write(messages: list[dict[str, str]]) -> Iterator[str]:
        seen.append([message["content"] for message in messages])
        yield "one"
        for _ in range(messages[-1]["content"].count("^C")):
            signal.raise_signal(signal.SIGINT)
        yield " two"
        yield " three"

    class Predictor:
        def __init__(self, *_: object, **__: object) -> None:
            """Load nothing."""

        def conversation(self, *, system: str, **options: object) -> Conversation:
            seen.append({name: value for name, value in options.items() if value is not None})
            return Conversation(write, system=system)

    monkeypatch.setattr(edgefuse_runtime, "Predictor", Predictor)
    return seen


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    def give(text: bytes) -> None:
        stdin = SimpleNamespace(isatty=lambda: False, buffer=iter(text.splitlines(keepends=True)))
        monkeypatch.setattr(sys, "stdin", stdin)

    return give


def test_lines_are_answered_until_the_input_ends(run: Run, asked: list, pipe: Callable) -> None:
    pipe(b"hello\n\n  \r\nstop")
    result = run("chat", "run", "--system", "be short", "--stop", "a", "--stop", " b,")
    assert (result.code, result.out, result.err) == (0, "one two three\none two three\n", "")
    assert asked == [
        {"stop": ["a", " b,"]},
        ["be short", "hello"],
        ["be short", "hello", "one two three", "stop"],
    ]


def test_exit_ends_the_conversation(run: Run, asked: list, pipe: Callable) -> None:
    pipe(b"hello\n/exit\nstop\n")
    assert run("chat", "run").out == "one two three\n"
    assert asked == [{}, ["hello"]]


def test_ctrl_c_ends_an_answer_which_is_kept_as_far_as_it_came(
    run: Run, asked: list, pipe: Callable
) -> None:
    pipe(b"^C\nhello\n")
    result = run("chat", "run")
    assert (result.code, result.out) == (0, "one two\none two three\n")
    assert asked[-1] == ["^C", "one two", "hello"]


def test_ctrl_c_twice_ends_the_program(run: Run, asked: list, pipe: Callable) -> None:
    pipe(b"^C^C\nhello\n")
    result = run("chat", "run")
    assert (result.code, result.out) == (130, "one")
    assert "interrupted" in result.err
    assert len(asked) == 2


def test_what_a_person_types_has_a_prompt_and_ends_with_ctrl_d(
    run: Run, asked: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = iter(["hello"])

    def read(prompt: str) -> str:
        assert prompt == "> "
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(builtins, "input", read)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    result = run("chat", "run")
    assert (result.code, result.out) == (0, "one two three\n\n")
    assert "Ctrl-D" in result.err
    assert asked == [{}, ["hello"]]
