"""Sentence encoders train as by sentence-transformers, and load there."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from peft import PeftModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.losses import (
    CosineSimilarityLoss,
    MultipleNegativesRankingLoss,
)
from tokenizers import Tokenizer
from transformers import AutoModel

from edgefuse.bundling.export import export
from edgefuse.compression.compress import compress
from edgefuse.tuning.ways import find_way
from edgefuse_devices.catalog import load_device
from edgefuse_devices.errors import InputError, ModelError, RunError
from edgefuse_export.tasks.registry import find_task
from edgefuse_runtime.bundle.bundle import Bundle, open_bundle, open_engine
from edgefuse_runtime.converting.convert import convert
from edgefuse_runtime.data.batching import Dataset, evaluation_batches
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.inference.predict import predict
from edgefuse_runtime.measuring.bench import plan_workload
from edgefuse_runtime.measuring.process import Ready, measure
from edgefuse_runtime.tasks.sentence_similarity import SentenceSimilarity
from edgefuse_runtime.tasks.text_ranking import RankedTuple
from edgefuse_runtime.training.finetune import finetune
from edgefuse_runtime.training.run import TrainingSettings
from tests.pico_models import TEXTS
from tests.shared import made_once
from tests.tuned_pico import pico

NAME = "sentence-similarity"
RANKED = [(text, f"{text} lamp", f"{text} music") for text in TEXTS]
SCORED = [(text, f"{text} lamp", number / 4) for number, text in enumerate(TEXTS)]


@cache
def exported(kind: str, tune: str = "full", **options: object) -> Bundle:
    """A bundle to read, made once."""
    name = "-".join([NAME, kind, tune, *map(str, options.values())])
    way = find_way(tune, {})
    task = find_task(NAME, options)
    board = load_device("rpi5")
    return open_bundle(
        made_once(name, lambda out: export(str(pico(kind)), out, device=board, task=task, tune=way))
    )


def rows_of(folder: Path, problem_type: str, *, negatives: bool = False) -> Path:
    if problem_type == "regression":
        rows = [dict(zip(("text", "text_pair", "score"), row, strict=True)) for row in SCORED]
    else:
        names = ("anchor", "positive", "negative")[: 3 if negatives else 2]
        rows = [dict(zip(names, row, strict=False)) for row in RANKED]
    file = folder / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def in_library(bundle: Bundle, folder: Path, **values: Any) -> SentenceTransformer:
    """A bundle's model as sentence-transformers loads it."""
    convert(bundle, values or bundle.trainable(), folder, to="transformers")
    return SentenceTransformer(str(folder), device="cpu").eval()


KINDS = [
    ("shallow-bert", {"negatives": True}),
    ("shallow-llama", {}),
    ("shallow-bert", {"problem_type": "regression", "highest_score": 3.5, "pooling": "cls"}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_ten_steps_have_the_losses_of_sentence_transformers(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    bundle = exported(kind, **options)
    assert bundle.manifest.certificate is not None
    assert bundle.manifest.certificate.worst_gradient_error < 1e-3
    task = bundle.manifest.task
    data = rows_of(tmp_path, task.problem_type, negatives=task.negatives)
    dataset = bundle.read(data)
    library = in_library(bundle, tmp_path / "model")
    losses = {"ranking": MultipleNegativesRankingLoss, "regression": CosineSimilarityLoss}
    loss_of = losses[task.problem_type](library)
    engine = open_engine(bundle, threads=1)
    trained = [library[0].model.get_parameter(p.name) for p in bundle.manifest.parameters]
    settings = bundle.manifest.optimizer
    optimizer = torch.optim.AdamW(
        [
            {"params": [p], "weight_decay": settings.weight_decay if p.ndim > 1 else 0.0}
            for p in trained
        ],
        lr=1e-2,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
    )
    scored = task.problem_type == "regression"
    ours, theirs = [], []
    for step in range(10):
        chosen = [(step + index) % len(TEXTS) for index in range(4)]
        rows = [(SCORED if scored else RANKED)[index] for index in chosen]
        columns = list(zip(*rows, strict=True))[: 3 if task.negatives else 2]
        features = [library.preprocess(list(texts)) for texts in columns]
        labels = torch.tensor([row[2] / 3.5 for row in rows] if scored else [0.0])
        optimizer.zero_grad()
        loss = loss_of(features, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.max_gradient_norm)
        optimizer.step()
        theirs.append(loss.item())
        batch = [dataset.examples[index] for index in chosen]
        feeds = task.collate(batch, padding_id=bundle.manifest.padding_id)
        ours.append(engine.step(feeds, 1e-2).loss)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert ours[-1] < ours[0]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_converted_model_gives_the_same_vectors_elsewhere(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    bundle = exported(kind, **options)
    library = in_library(bundle, tmp_path / "model")
    model = InferenceModel(bundle, bundle.trainable(), threads=1)
    texts = [*TEXTS, " ".join(TEXTS * 5)]  # the last is cut
    expected = np.array([one.embedding for one in predict(bundle, model, texts)])
    np.testing.assert_allclose(library.encode(texts), expected, atol=1e-5)
    assert library.max_seq_length == bundle.manifest.sequence_length
    convert(bundle, bundle.trainable(), tmp_path / "onnx", to="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    tokenizer = Tokenizer.from_file(str(tmp_path / "onnx" / "tokenizer.json"))
    for text, vector in zip(texts, expected, strict=True):
        encoding = tokenizer.encode(text)
        feeds = {"input_ids": [encoding.ids], "attention_mask": [encoding.attention_mask]}
        (found,) = session.run(["sentence_embedding"], feeds)
        np.testing.assert_allclose(found[0], vector, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("tune", ["lora", "prefix"])
def test_peft_loads_what_trained_onto_the_encoder(tune: str, tmp_path: Path) -> None:
    bundle = exported("shallow-bert", tune)
    engine = open_engine(bundle, threads=1)
    dataset = bundle.read(rows_of(tmp_path, "ranking"))
    feeds = bundle.manifest.task.collate(dataset.examples, padding_id=0)
    losses = [engine.step(feeds, 1e-2).loss for _ in range(8)]
    assert losses[-1] < losses[0]
    values = engine.parameters()
    convert(bundle, values, tmp_path / "adapter", to="peft")
    base = AutoModel.from_pretrained(pico("shallow-bert"), attn_implementation="eager")
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    inputs = {name: torch.from_numpy(feeds[name]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        hidden = loaded(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    model = InferenceModel(bundle, values, threads=1)
    found = model.run(feeds)["sentence_embedding"]
    np.testing.assert_allclose(found, pooled.numpy(), atol=1e-5)
    before = InferenceModel(bundle, bundle.trainable(), threads=1).run(feeds)
    assert not np.allclose(found, before["sentence_embedding"], atol=1e-2)


def test_biases_of_an_encoder_without_head_train_but_for_those_of_a_pooler() -> None:
    bundle = exported("shallow-bert", "bitfit")
    assert bundle.manifest.certificate is not None
    assert bundle.manifest.certificate.worst_gradient_error < 1e-3
    assert not [p.name for p in bundle.manifest.parameters if "pooler" in p.name]


def test_there_is_no_head_to_train(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="BertModel has no head of its own"):
        export(
            str(pico("shallow-bert")),
            tmp_path / "bundle",
            device=load_device("rpi5"),
            task=find_task(NAME),
            tune="head",
        )


def test_a_pair_alone_says_nothing_of_what_matters(tmp_path: Path) -> None:
    way = find_way("child-d", {"child_data": rows_of(tmp_path, "ranking")})
    with pytest.raises(ModelError, match="a row alone teaches this task nothing"):
        export(
            str(pico("shallow-bert")),
            tmp_path / "bundle",
            device=load_device("rpi5"),
            task=find_task(NAME),
            tune=way,
        )


def test_a_compressed_encoder_keeps_its_pooling_and_trains(tmp_path: Path) -> None:
    modules = exported("shallow-bert", **KINDS[2][1]).path / "model"
    compress(str(modules_with_weights(modules, tmp_path / "plain")), tmp_path / "fused", ratio=0.25)
    bundle = export(
        str(tmp_path / "fused"),
        tmp_path / "bundle",
        device=load_device("rpi5"),
        task=find_task(NAME),
    )
    assert bundle.manifest.certificate is not None
    assert bundle.manifest.certificate.worst_gradient_error < 1e-3
    found = predict_one(bundle, "a great movie")
    library = SentenceTransformer(str(tmp_path / "fused"), device="cpu")
    np.testing.assert_allclose(library.encode("a great movie"), found, atol=1e-5)
    assert library[1].pooling_mode == "cls"


def modules_with_weights(modules: Path, folder: Path) -> Path:
    bundle = open_bundle(modules.parent)
    convert(bundle, bundle.trainable(), folder, to="transformers")
    return folder


def predict_one(bundle: Bundle, text: str) -> np.ndarray:
    model = InferenceModel(bundle, bundle.trainable(), threads=1)
    return np.array(predict(bundle, model, [text])[0].embedding)


def test_a_run_is_trained_measured_asked_and_timed_by_its_commands(
    tmp_path: Path, run: Any
) -> None:
    bundle, there = exported("shallow-bert", negatives=True), tmp_path / "run"
    data = rows_of(tmp_path, "ranking", negatives=True)
    train = ("--train", data, "--valid", data, "--epochs", 3, "--learning-rate", 1e-2)
    report = json.loads(run("finetune", bundle.path, there, *train, "--json").out)
    figures = json.loads(run("evaluate", there, data, "--json").out)["figures"]
    assert figures == pytest.approx(report["figures"])
    (asked,) = json.loads(run("predict", there, TEXTS[0], "--json").out)["predictions"]
    assert len(asked["embedding"]) == 16
    timed = run("bench", bundle.path, "--output", tmp_path / "report.json")
    assert timed.code == 0, timed.err


def test_the_nearest_texts_of_a_file_are_found(tmp_path: Path, run: Any) -> None:
    bundle = exported("shallow-bert", negatives=True)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join([*TEXTS, TEXTS[0]]))
    ask = ("predict", bundle.path, TEXTS[3], "--against", corpus, "--top", 3)
    shown = run(*ask).out.splitlines()
    assert shown[0] == TEXTS[3]
    assert shown[1] == f"  1.000\t{TEXTS[3]}"
    assert len(shown) == 4
    (found,) = json.loads(run(*ask, "--json").out)["predictions"]
    assert len(found["embedding"]) == 16
    assert found["nearest"][0]["cosine"] == pytest.approx(1, abs=1e-5)
    assert run("predict", bundle.path, "good").out.startswith("16 numbers: ")
    refused = run("predict", bundle.path, "good", "--against", corpus, "--top", 0)
    assert (refused.code, refused.err.count("--top 0 finds nothing")) == (2, 1)


def test_a_ranking_that_one_row_would_teach_nothing_is_refused_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, rows = TrainingSettings(batch_size=1), rows_of(tmp_path, "ranking")
    with pytest.raises(RunError, match=r"batch_size is 1, and .* fewer than 2 rows"):
        finetune(exported("shallow-bert", "lora"), tmp_path / "run", train=rows, settings=settings)
    monkeypatch.setattr("edgefuse_export.memory._SHARE_OF_MEMORY", 1e-9)
    for size, sentence in ((1, "--batch-size is 1, and"), (None, "even with 2 rows in a batch")):
        with pytest.raises(InputError, match=sentence):
            export(
                str(pico("shallow-bert")),
                tmp_path / "bundle",
                device=load_device("rpi5"),
                task=find_task(NAME, {}),
                batch_size=size,
            )


def test_the_tokens_of_all_texts_of_a_row_are_counted() -> None:
    bundle = exported("shallow-bert", "lora")
    workload = plan_workload(bundle, batch_size=2, sequence_length=8, threads=1)
    ready = next(measure(bundle.path, workload))
    assert isinstance(ready, Ready)
    assert ready.tokens_per_row == 16


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"problem_type": "rankin"}, "no problem type 'rankin'. Did you mean ranking"),
        ({"pooling": "max"}, "no pooling 'max'"),
        ({"problem_type": "regression", "negatives": True}, "--negatives is of rows with anchors"),
        ({"highest_score": 5.0}, "--highest-score is of rows with scores"),
        ({"problem_type": "regression", "highest_score": 0.0}, "give the score of texts that say"),
        ({"labels": "rows.jsonl"}, "--labels is no option of --task sentence-similarity"),
    ],
)
def test_options_that_do_not_hold_are_refused(
    options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"(?i){sentence}"):
        export(
            str(pico("shallow-bert")),
            tmp_path / "bundle",
            device=load_device("rpi5"),
            task=find_task(NAME, options),
        )


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"modules.json": "[{"}, "its modules.json is broken"),
        ({"modules.json": '["2_Dense"]'}, "its modules.json is broken"),
        ({"config_sentence_transformers.json": '{"prompts": [1]}'}, "transformers.json is broken"),
        ({"1_Pooling/config.json": None}, "its 1_Pooling/config.json is not there"),
        ({"1_Pooling/config.json": '{"pooling_mode": "max"}'}, "pools by max, and EdgeFuse by one"),
        (
            {"modules.json": '[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]'},
            "has a module Dense after its transformer",
        ),
    ],
)
def test_files_of_sentence_transformers_that_do_not_hold_are_refused(
    files: dict[str, str | None], sentence: str, tmp_path: Path
) -> None:
    modules_with_weights(exported("shallow-bert", **KINDS[2][1]).path / "model", tmp_path / "model")
    for name, content in files.items():
        file = tmp_path / "model" / name
        file.unlink() if content is None else file.write_text(content)
    with pytest.raises(ModelError, match=sentence):
        export(
            str(tmp_path / "model"),
            tmp_path / "bundle",
            device=load_device("rpi5"),
            task=find_task(NAME),
        )


def test_an_encoder_and_decoder_is_no_sentence_encoder(pico_model: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be exported for sentence-similarity: t5 models"):
        export(
            str(pico_model("t5")),
            tmp_path / "bundle",
            device=load_device("rpi5"),
            task=find_task(NAME),
        )


def test_figures_are_sentence_transformers() -> None:
    """Random vectors; some anchors have several positives, some positives several anchors."""
    task = SentenceSimilarity()
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(60, 5)).astype(np.float32)
    examples = []
    positives = {anchor: {30 + int(n) for n in rng.integers(0, 30, 2)} for anchor in range(30)}
    for anchor, found in positives.items():
        for positive in sorted(found):
            ids = (np.array([anchor], np.int32), np.array([positive], np.int32))
            examples.append(RankedTuple((anchor, positive), ids, frozenset(found)))
    metric = task.metric()
    dataset = Dataset(examples)
    for rows in evaluation_batches(dataset.lengths, 7):
        batch = [examples[row] for row in rows]
        feeds = task.collate(batch, padding_id=0)
        outputs = {"sentence_embedding": vectors[feeds["input_ids"][:, 0]]}
        metric.update(batch, feeds, outputs)

    class Vectors(SentenceTransformer):
        def __init__(self) -> None:
            super().__init__(modules=[torch.nn.Identity()], device="cpu")

        def encode(self, texts: Sequence[str], **_: object) -> torch.Tensor:
            return torch.from_numpy(vectors[[int(text) for text in texts]])

        encode_query = encode_document = encode

    corpus = sorted(set.union(*positives.values()))
    evaluator = InformationRetrievalEvaluator(
        {str(anchor): str(anchor) for anchor in positives},
        {str(text): str(text) for text in corpus},
        {str(anchor): {str(text) for text in found} for anchor, found in positives.items()},
        mrr_at_k=[10],
        precision_recall_at_k=[1],
        write_csv=False,
    )
    expected = evaluator(Vectors())
    figures = metric.result()
    assert figures["recall_at_1"] == pytest.approx(expected["cosine_recall@1"])
    assert figures["mrr_at_10"] == pytest.approx(expected["cosine_mrr@10"])
    assert 0 < figures["recall_at_1"] < 1
