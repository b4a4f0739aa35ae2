"""The benchmark of language models: its rows, its ratios, and what it watches."""

import json
import time

import numpy as np
from tokenizers import Tokenizer

from benchmarks import language_model, lora_training, smollm2


def test_texts_to_train_on_have_exactly_so_many_tokens(tmp_path, data_directory, models_directory):
    model = models_directory / "tiny-llama"
    file = smollm2.write_rows(tmp_path / "rows.jsonl", str(model), count=12, tokens=32)
    texts = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    assert [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)] == [31] * 12
    assert len(set(texts)) == 12


def test_a_step_is_compared_by_its_median_without_the_first():
    def side(factor):
        seconds = [90.0, *(factor * second for second in (1.0, 2.0, 30.0))]
        return {"seconds": seconds, "rss_mib": 100 * factor, "anonymous_mib": 10 * factor}

    measured = {"edgefuse": [side(1), side(2)], "pytorch": [side(4), side(4)]}
    figures = language_model._against(measured, "edgefuse", "pytorch")
    assert figures["time_ratio"] == figures["rss_ratio"] == (1 / 4 + 2 / 4) / 2
    assert (figures["seconds"], figures["peer_seconds"]) == (3.0, 8.0)
    assert figures["anonymous_mib"] == 15


def test_losses_are_compared_over_more_steps_than_are_timed():
    counts = []
    train = language_model._longer_first(lambda count: counts.append(count) or {}, 50, 8)
    for _ in range(3):
        train()
    assert counts == [50, 8, 8]


def test_the_peak_of_what_is_no_files_is_seen_though_it_is_gone_at_the_end():
    with lora_training._peaks() as peaks:
        before = lora_training.memory.anonymous() / 2**20
        held = np.ones(64 * 2**20, np.uint8)
        time.sleep(0.2)
        del held
    assert before + 60 < peaks["anonymous_mib"] <= peaks["rss_mib"] + 1


def test_every_way_of_keeping_weights_is_trained_and_written_with():
    cases = {*language_model.CASES}
    assert {"lora-4x256", "lora-4x256-roomy", "lora-1x1024", "e2e-lora", "generate"} <= cases
    for base in ("int8", "int4"):
        assert {f"lora-{base}-4x256", f"generate-{base}"} <= cases
