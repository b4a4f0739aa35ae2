"""Rows of text generation: read, tokenized, cut, and measured."""

import json
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.tokenization import limit_length
from edgefuse_runtime.tasks.chat_template import ChatTemplate
from edgefuse_runtime.tasks.generation_metric import EvaluationOptions
from edgefuse_runtime.tasks.next_token import IGNORED, NextTokenMetric
from edgefuse_runtime.tasks.text_generation import TARGET, TextGeneration
from tests.pico_causal import CHAT_TEMPLATE, END, START, byte_tokenizer, causal_tokenizer

END_ID, START_ID = byte_tokenizer().token_to_id(END), byte_tokenizer().token_to_id(START)
TASK = TextGeneration(end_id=END_ID, stop_ids=[END_ID])
CHATS = TextGeneration(end_id=END_ID, stop_ids=[END_ID], chat_template=CHAT_TEMPLATE)
PROMPT, COMPLETION = "turn on the lamp", " it is on, très bien"


def read(folder: Path, *rows: object, task=TASK, length: int = 64, side="right", begins=False):
    file = folder / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    tokenizer = byte_tokenizer(begins=begins)
    limit_length(tokenizer, length, side)
    return list(task.read(file, tokenizer))


def asked(one: object, task=TASK, *, begins=False):
    tokenizer = byte_tokenizer(begins=begins)
    limit_length(tokenizer, 200, "right")
    (example,) = task.examples([one], tokenizer)
    return example


def ids(text: str) -> list[int]:
    return byte_tokenizer().encode(text, add_special_tokens=False).ids


def learned(example) -> list[int]:
    return example.token_ids[example.counted].tolist()


def test_all_of_a_text_is_learned_and_its_end(tmp_path: Path) -> None:
    (example,) = read(tmp_path, {"text": PROMPT})
    assert example.token_ids.tolist() == learned(example) == [*ids(PROMPT), END_ID]


def test_of_a_prompt_only_the_completion_is_learned_and_its_end(tmp_path: Path) -> None:
    (example,) = read(tmp_path, {"prompt": PROMPT, "completion": COMPLETION})
    assert example.token_ids.tolist() == [*ids(PROMPT + COMPLETION), END_ID]
    assert learned(example) == [*ids(COMPLETION), END_ID]
    assert example.prompt_length == len(ids(PROMPT))
    assert example.references == (COMPLETION,)


def test_what_stands_before_a_text_is_the_tokenizers_and_not_learned(tmp_path: Path) -> None:
    row = {"prompt": PROMPT, "completion": COMPLETION}
    (example,) = read(tmp_path, row, begins=True)
    assert example.token_ids.tolist() == [START_ID, *ids(PROMPT + COMPLETION), END_ID]
    assert learned(example) == [*ids(COMPLETION), END_ID]
    assert asked(PROMPT, begins=True).token_ids.tolist() == [START_ID, *ids(PROMPT)]


def test_a_text_that_ends_already_gets_no_second_end(tmp_path: Path) -> None:
    (example,) = read(tmp_path, {"text": PROMPT + END})
    assert example.token_ids.tolist() == [*ids(PROMPT), END_ID]


def test_a_prompt_is_read_as_it_will_be_asked_whatever_follows(tmp_path: Path) -> None:
    (joined,) = read(tmp_path, {"prompt": "the fi", "completion": "lm is good"})
    assert ids("the film is good")[: len(ids("the fi"))] != ids("the fi")  # a token reaches over
    question = asked("the fi").token_ids.tolist()
    assert joined.token_ids[: joined.prompt_length].tolist() == question


def test_the_end_counts_where_it_also_pads(tmp_path: Path) -> None:
    examples = read(tmp_path, {"text": PROMPT}, {"prompt": PROMPT, "completion": COMPLETION})
    feeds = TASK.collate(examples, padding_id=END_ID)
    ends = [len(example.token_ids) - 1 for example in examples]
    assert feeds[TARGET][[0, 1], ends].tolist() == [END_ID, END_ID]
    assert feeds["attention_mask"].sum(axis=1).tolist() == [end + 1 for end in ends]
    assert (feeds[TARGET][0, ends[0] + 1 :] == IGNORED).all()
    assert (feeds["input_ids"][0, ends[0] + 1 :] == END_ID).all()


def test_a_long_completion_is_cut_where_the_tokenizer_cuts(tmp_path: Path) -> None:
    row = {"prompt": PROMPT, "completion": COMPLETION}
    whole = [START_ID, *ids(PROMPT + COMPLETION), END_ID]
    length = len(ids(PROMPT)) + 4
    (right,) = read(tmp_path, row, length=length, begins=True)
    assert right.token_ids.tolist() == whole[:length]
    assert right.prompt_length == len(ids(PROMPT)) + 1
    (left,) = read(tmp_path, row, length=length, side="left", begins=True)
    assert left.token_ids.tolist() == [START_ID, *whole[-length + 1 :]]
    assert left.token_ids[left.prompt_length :].tolist() == learned(left)


def test_answers_of_a_chat_are_learned_and_what_ends_them(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": "it is on"},
        {"role": "user", "content": "stop the music"},
        {"role": "assistant", "content": " done "},
    ]
    (example,) = read(tmp_path, {"messages": messages}, task=CHATS, length=200)
    wrapped = causal_tokenizer(chats=True)
    assert example.token_ids.tolist() == wrapped.apply_chat_template(messages)["input_ids"]
    assert byte_tokenizer().decode(learned(example), skip_special_tokens=False) == (
        f"it is on{END}\ndone{END}\n"
    )
    expected = wrapped.apply_chat_template(messages[:4], add_generation_prompt=True)["input_ids"]
    assert example.token_ids[: example.prompt_length].tolist() == expected
    question = asked({"messages": messages[:4]}, CHATS)
    assert question.token_ids.tolist() == expected
    assert question.prompt == "stop the music"


@pytest.mark.parametrize(
    "template",
    [
        CHAT_TEMPLATE,
        "{% set d = dict(a=1) %}{% set self = namespace(d, self=2) %}{{ self.a }}{{ self.self }}",
        (
            "{{- bos_token }}{%- for m in messages if m.role != 'system' %}\n"
            "    {%- if loop.index > 3 %}{%- break %}{%- endif %}\n"
            "    {%- generation %}{{ m.content }}{%- endgeneration %}{{ m | tojson }}\n"
            "{%- endfor %}{% set ns = namespace(n=0) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}\n"
        ),
    ],
)
def test_a_template_gives_what_transformers_makes_of_it(template: str) -> None:
    messages = [
        {"role": "system", "content": "be <short> & “kind”"},
        {"role": "user", "content": "turn on\nthe lamp"},
    ]
    wrapped = causal_tokenizer()
    wrapped.chat_template = template
    ours = ChatTemplate(template, {"bos_token": START})
    theirs = wrapped.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, bos_token=START
    )
    assert ours.prompt(messages, "rows:1") == theirs


USER, ANSWER = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({}, '1 has no "text", "prompt" or "messages"'),
        ({"text": "a", "prompt": "b", "completion": "c"}, '1 has both "text" and "prompt"'),
        ({"text": " "}, '1 has an empty "text"'),
        ({"text": ["a"]}, '1 has a "text" that is no text'),
        ({"text": END}, "1 is one token, and there is none before it"),
        ({"prompt": "a"}, '1 has no "completion"'),
        ({"prompt": "a", "completion": ""}, '1 has an empty "completion"'),
        ({"prompt": "a", "references": "b"}, '1 has "references" that are not a list'),
        ({"prompt": "the door " * 30, "completion": "b"}, r"1 has a prompt of \d+ tokens, which"),
        ({"messages": []}, '1 has "messages" that are no list'),
        ({"messages": ["hello"]}, '1 has a message without a "role"'),
        ({"messages": [USER]}, "1 has .* none of the role assistant"),
        ({"messages": [ANSWER]}, "1 cannot be cut into questions and answers"),
    ],
)
def test_a_broken_row_is_refused_by_its_line(tmp_path: Path, row: object, complaint: str) -> None:
    with pytest.raises(DataError, match=rf"rows.jsonl:{complaint}"):
        read(tmp_path, row, task=CHATS)


def test_chats_are_refused_where_the_tokenizer_has_no_template(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:2 .* tokenizer has no chat template"):
        read(tmp_path, {"text": "a"}, {"messages": [USER, ANSWER]})


def test_a_template_refuses_in_a_sentence(tmp_path: Path) -> None:
    task = TextGeneration(
        end_id=END_ID, stop_ids=[END_ID], chat_template="{{ raise_exception('no system') }}"
    )
    with pytest.raises(DataError, match=r"rows.jsonl:1 .* chat template refuses: no system"):
        read(tmp_path, {"messages": [USER, ANSWER]}, task=task)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ namespace(__x=1) }}", "a namespace has no name such as __x"),
        ("{% set n = namespace() %}{% set n._x = 1 %}", "a namespace has no name such as _x"),
        ("{{ dict.__class__.mro }}", "access to attribute '__class__'"),
        ("{{ 1 // 0 }}", "integer division or modulo by zero"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "maximum recursion depth"),
        ("{% if %}", "Expected an expression"),
    ],
)
def test_a_template_that_fails_in_any_way_is_refused(template: str, reason: str) -> None:
    with pytest.raises(DataError, match=f"rows:1 .* chat template refuses: .*{reason}"):
        ChatTemplate(template, {}).prompt([USER], "rows:1")


def test_a_template_writes_the_date_of_the_export(tmp_path: Path) -> None:
    template = "{{ strftime_now('%d %b %Y %H:%M') if strftime_now is defined else 'none' }}"
    ours = ChatTemplate(template, {}, date(2024, 7, 26))
    assert ours.prompt([USER], "rows:1") == "26 Jul 2024 00:00"
    assert ChatTemplate(template, {}).prompt([USER], "rows:1") == "none"
    task = TextGeneration(end_id=0, stop_ids=[0], chat_template=template, date=ours.date)
    assert msgspec.json.decode(msgspec.json.encode(task), type=TextGeneration) == task


def test_cells_hold_chats_and_references(tmp_path: Path) -> None:
    rows = [{"messages": [USER, ANSWER]}, {"prompt": "a", "references": ["b", "c"]}]
    cells = [{name: v if v == "a" else json.dumps(v) for name, v in row.items()} for row in rows]
    for one, other in zip(
        read(tmp_path, *rows, task=CHATS), read(tmp_path, *cells, task=CHATS), strict=True
    ):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        assert one.references == other.references
    with pytest.raises(DataError, match=r'rows.jsonl:1 has "messages" of broken JSON'):
        read(tmp_path, {"messages": str([USER, ANSWER])}, task=CHATS)


def test_chats_without_room_are_refused_before_a_word_is_written(tmp_path: Path) -> None:
    fits = {"messages": [USER, ANSWER]}
    long = {"messages": [USER, ANSWER, {**USER, "content": "the door " * 30}, ANSWER]}
    examples = read(tmp_path, fits, long, task=CHATS, length=90)
    tokenizer = byte_tokenizer()
    limit_length(tokenizer, 90, "right")
    model = SimpleNamespace(tokenizer=tokenizer)
    metric = CHATS.prediction_metric(model, EvaluationOptions(generate=True))
    metric.check(examples[:1])
    with pytest.raises(DataError, match=r"rows.jsonl:2 is too long"):
        metric.check(examples)


def test_loss_and_perplexity_are_those_over_all_tokens_that_count() -> None:
    rng = np.random.default_rng(0)
    metric, sums, count = NextTokenMetric(), 0.0, 0
    for rows, tokens in ((3, 5), (2, 9)):
        logits = rng.normal(scale=4, size=(rows, tokens, 50)).astype(np.float32)
        targets = rng.integers(50, size=(rows, tokens))
        targets[rng.random(targets.shape) < 0.4] = IGNORED
        before = logits.copy()
        metric.update(logits, targets)
        assert np.array_equal(logits, before)
        sums += F.cross_entropy(
            torch.from_numpy(logits).double().flatten(0, 1),
            torch.from_numpy(targets).flatten(),
            reduction="sum",
        ).item()
        count += int((targets != IGNORED).sum())
    assert metric.result()["loss"] == pytest.approx(sums / count, rel=1e-6)
    assert metric.result()["perplexity"] == pytest.approx(np.exp(sums / count), rel=1e-5)
