"""Prompts and completions on the board: tokens, batches and figures as transformers has them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.batching import Feeds
from edgefuse_runtime.data.tokenization import limit_length
from edgefuse_runtime.tasks.generation import GenerationOptions
from edgefuse_runtime.tasks.text2text_generation import Text2TextGeneration
from tests.pico_models import pico_model, pico_tokenizer

TASK = Text2TextGeneration(decoder_start_token_id=0, eos_token_ids=[3])
ROWS = (("turn on the lamp", "the lamp is on"), ("stop the music please", "good"))


def tokenizer(length: int = 12) -> Tokenizer:
    backend = pico_tokenizer().backend_tokenizer
    limit_length(backend, length, "right")
    return backend


def file_of(path: Path, *rows: dict[str, Any]) -> Path:
    file = path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return file_of(tmp_path, *({"prompt": p, "completion": c} for p, c in ROWS))


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_the_decoder_reads_what_transformers_makes_of_the_labels(kind: str, rows: Path) -> None:
    model = pico_model(kind, auto_class="AutoModelForSeq2SeqLM", layers=1)
    start = model.config.decoder_start_token_id
    task = Text2TextGeneration(decoder_start_token_id=start, eos_token_ids=[3])
    feeds = task.collate(list(task.read(rows, tokenizer())), padding_id=0)
    expected = model.prepare_decoder_input_ids_from_labels(torch.from_numpy(feeds["labels"]))
    assert feeds["decoder_input_ids"].tolist() == expected.tolist()
    assert feeds["labels"].tolist() == [
        pico_tokenizer()(ROWS[0][1])["input_ids"],
        [*pico_tokenizer()(ROWS[1][1])["input_ids"], -100, -100, -100],
    ]


def test_a_completion_that_is_cut_still_ends(rows: Path) -> None:
    task = Text2TextGeneration(decoder_start_token_id=0, eos_token_ids=[3], target_length=4)
    own = tokenizer(5)
    one, _ = task.read(rows, own)
    assert (len(one.prompt_ids), len(one.completion_ids)) == (5, 4)
    assert one.prompt_ids[-1] == one.completion_ids[-1] == 3
    assert own.truncation["max_length"] == 5
    assert one.token_ids.tolist() == [*one.prompt_ids, *one.completion_ids]


def test_the_loss_is_that_of_the_tokens_that_count(rows: Path) -> None:
    examples = list(TASK.read(rows, tokenizer()))
    generator, metric = np.random.default_rng(0), TASK.metric()
    for batch in ([examples[0]], [examples[1]]):
        feeds = TASK.collate(batch, padding_id=0)
        shape = (*feeds["labels"].shape, 100)
        metric.update(batch, feeds, {"logits": generator.normal(size=shape).astype(np.float32)})
    generator = np.random.default_rng(0)
    both = TASK.collate(examples, padding_id=0)
    labels = [row[row >= 0] for row in both["labels"]]
    scores = [generator.normal(size=(1, len(row), 100)).astype(np.float32)[0] for row in labels]
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(np.concatenate(scores)), torch.from_numpy(np.concatenate(labels))
    )
    assert metric.result()["loss"] == pytest.approx(expected.item(), abs=1e-5)


class Parrot:
    """Writes one token until it is told to end."""

    padding_id = 0

    def __init__(self, ends_at: Sequence[int]) -> None:
        self.tokenizer, self.ends_at = tokenizer(), list(ends_at)

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        read = feeds["decoder_input_ids"]
        logits = np.zeros((*read.shape, 100), np.float32)
        word = self.tokenizer.token_to_id("music")
        logits[:, :, word] = 1
        for row, end in enumerate(self.ends_at[-len(read) :]):
            logits[row, end - 1 :, 3] = 2
        return {"logits": logits}


def test_each_row_is_written_to_its_own_end() -> None:
    examples = TASK.examples(["stop", {"prompt": "play"}], tokenizer())
    written = TASK.predict(examples, Parrot([2, 4]), GenerationOptions(max_new_tokens=8))
    assert [one.text for one in written] == ["music", "music music music"]
    assert [one.prompt for one in written] == ["stop", "play"]


@pytest.mark.parametrize(
    ("bos", "eos", "text"),
    [(None, None, "music music music"), (None, 3, "music music"), (5, None, "{5} music music")],
)
def test_tokens_are_forced_as_generation_configs_ask(
    bos: int | None, eos: int | None, text: str
) -> None:
    task = Text2TextGeneration(
        decoder_start_token_id=0,
        eos_token_ids=[3],
        forced_bos_token_id=bos,
        forced_eos_token_id=eos,
    )
    (written,) = task.predict(
        task.examples(["stop"], tokenizer()), Parrot([99]), GenerationOptions(max_new_tokens=3)
    )
    assert written.text == text.replace("{5}", tokenizer().id_to_token(5))


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"prompt": "stop"}, ':1 has no "completion"'),
        ({"completion": "stop"}, ':1 has no "prompt"'),
        ({"prompt": "stop", "completion": " "}, ':1 has an empty "completion"'),
        ({"prompt": 5, "completion": "stop"}, '"prompt" that is no text'),
        ({"text": "stop", "label": "stop"}, ':1 has no "prompt"'),
    ],
)
def test_rows_without_both_texts_are_refused(
    row: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=sentence):
        list(TASK.read(file_of(tmp_path, row), tokenizer()))


def test_blank_prompts_are_refused() -> None:
    with pytest.raises(DataError, match='prompt:2 has an empty "prompt"'):
        TASK.examples(["stop", " "], tokenizer())
