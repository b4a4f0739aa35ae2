"""Token classification from rows to converted models, against transformers and torch."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from peft import PeftModel
from tokenizers import Tokenizer

from edgefuse.bundling.export import export
from edgefuse.bundling.load import load
from edgefuse.bundling.source import find_origin
from edgefuse.demo import bare_onnx
from edgefuse.demo.slots import make_slot_splits
from edgefuse.hub.silence import silence_transformers
from edgefuse_devices.catalog import load_device
from edgefuse_devices.errors import InputError, ModelError
from edgefuse_export.silence import silence
from edgefuse_export.tasks.token_classification import WantedTokenClassification
from edgefuse_runtime import Predictor
from edgefuse_runtime.bundle.bundle import Bundle, open_bundle, open_engine
from edgefuse_runtime.converting.convert import convert
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.optimizers.adamw import AdamW
from edgefuse_runtime.optimizers.optimizer import decays
from tests.pico_models import TEXTS, pico_config, pico_tokenizer
from tests.shared import made_once
from tests.unit.test_words import KINDS, VOCABULARY

Run = Callable[..., SimpleNamespace]

PLAIN = [text for text in TEXTS if "," not in text]
SLOTS = ["O", "B-device", "I-device", "B-duration", "I-duration", "B-room", "I-room"]
SHAPE = {"batch_size": 4, "sequence_length": 32}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty commands with their slots: half as texts with entities, half as words with tags."""
    commands = make_slot_splits(seed=0, train=40, valid=0, test=0)["train"]
    return write(
        tmp_path_factory.mktemp("rows") / "train.jsonl",
        [*commands[:20], *map(as_words, commands[20:])],
    )


def as_words(row: Any) -> dict[str, list[str]]:
    """A row of words with tags, of one with entities."""
    tokens, tags = [], []
    for match in re.finditer(r"\w+|[^\w\s]", row["text"]):
        inside = [e for e in row["entities"] if e["start"] <= match.start() < e["end"]]
        tokens.append(match[0])
        tags.append(
            f"{'B' if inside[0]['start'] == match.start() else 'I'}-{inside[0]['label']}"
            if inside
            else "O"
        )
    return {"tokens": tokens, "tags": tags}


def save_model(folder: Path, kind: str) -> Path:
    """Save a pico model of one layer, RoBERTa's with a byte-level tokenizer."""
    config = pico_config(kind)
    config.num_hidden_layers = 1
    torch.manual_seed(0)
    with silence_transformers():
        if kind == "roberta":
            KINDS["RoBERTa"](folder)
            config.vocab_size = VOCABULARY
        else:
            pico_tokenizer(kind).save_pretrained(folder)
        transformers.AutoModel.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bundle_of(rows: Path) -> Callable[..., Bundle]:
    """`bundle_of("bert", "lora")` gives a bundle to read, made once."""

    def get(kind: str, tune: str = "full") -> Bundle:
        def make(output: Path) -> None:
            task = WantedTokenClassification(labels=rows)
            board = load_device("rpi5")
            model = made_once(f"tokens-{kind}", lambda folder: save_model(folder, kind))
            export(str(model), output, device=board, task=task, tune=tune, **SHAPE)

        return open_bundle(made_once(f"tokens-{kind}-{tune}", make))

    return get


@pytest.mark.parametrize(
    ("kind", "tune"), [("bert", "full"), ("roberta", "full"), ("llama", "lora"), ("gpt2", "head")]
)
def test_loss_logits_and_every_gradient_equal_torchs(
    kind: str, tune: str, bundle_of: Callable[..., Bundle]
) -> None:
    bundle = bundle_of(kind, tune)
    certificate = bundle.manifest.certificate
    assert certificate is not None
    assert certificate.loss_difference < 1e-5
    assert certificate.output_difference < 1e-5
    assert certificate.worst_gradient_error < 1e-3
    assert bundle.manifest.task.labels == SLOTS


def converted(bundle: Bundle, output: Path) -> Any:
    """The bundle's model as plain transformers loads it."""
    convert(bundle, bundle.trainable(), output, to="transformers")
    auto = transformers.AutoModelForTokenClassification
    return auto.from_pretrained(output, attn_implementation="eager").eval()


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_ten_steps_have_the_losses_of_transformers(
    kind: str, bundle_of: Callable[..., Bundle], rows: Path, tmp_path: Path
) -> None:
    bundle = bundle_of(kind)
    task, examples = bundle.manifest.task, bundle.read(rows).examples
    model, settings = converted(bundle, tmp_path / "plain"), AdamW()
    groups = [
        {"params": [p], "weight_decay": settings.weight_decay if decays(p.ndim) else 0.0}
        for p in model.parameters()
    ]
    betas = (settings.beta1, settings.beta2)
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=betas, eps=settings.eps)
    engine = open_engine(bundle, threads=1)
    for step in range(10):
        batch = [examples[(4 * step + place) % len(examples)] for place in range(4)]
        feeds = task.collate(batch, padding_id=bundle.manifest.padding_id)
        optimizer.zero_grad()
        loss = model(**{name: torch.from_numpy(value) for name, value in feeds.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
        optimizer.step()
        assert engine.step(feeds, 1e-3).loss == pytest.approx(loss.item(), abs=1e-4)


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize(
    ("kind", "texts"), [("bert", [*TEXTS, "stop, it's 2023!"]), ("roberta", PLAIN)]
)
def test_entities_are_those_of_the_pipeline_of_transformers(
    kind: str, texts: list[str], bundle_of: Callable[..., Bundle], tmp_path: Path
) -> None:
    """RoBERTa's on texts without punctuation: the pipeline cuts words at spaces alone."""
    bundle = bundle_of(kind)
    model = converted(bundle, tmp_path / "plain")
    with silence_transformers():
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "plain")
    pipeline = transformers.TokenClassificationPipeline(
        model=model, tokenizer=tokenizer, aggregation_strategy="first", device="cpu"
    )
    found = Predictor(bundle.path).predict(texts)
    assert sum(len(prediction.entities) for prediction in found) > len(texts) / 2
    for text, prediction in zip(texts, found, strict=True):
        expected = [
            (one["entity_group"], one["start"], one["end"], pytest.approx(one["score"], rel=1e-4))
            for one in pipeline(text)
        ]
        assert [(e.label, e.start, e.end, e.score) for e in prediction.entities] == expected
        assert all(text[e.start : e.end] == e.text for e in prediction.entities)


def test_a_long_text_is_read_to_its_end(bundle_of: Callable[..., Bundle]) -> None:
    bundle = bundle_of("bert")
    text = " ".join(TEXTS)
    (prediction,) = Predictor(bundle.path).predict([text])
    assert [word.text for word in prediction.words] == text.split()
    (first,) = Predictor(bundle.path).predict([" ".join(text.split()[:20])])
    assert [w.tag for w in prediction.words[:20]] == [w.tag for w in first.words]


def test_words_that_came_as_a_list_are_tagged_one_by_one(bundle_of: Callable[..., Bundle]) -> None:
    bundle = bundle_of("bert")
    text = TEXTS[2]
    as_text, as_list = Predictor(bundle.path).predict([{"text": text}, {"tokens": text.split()}])
    assert as_text == as_list
    lines = str(as_text).splitlines()
    assert lines[0] == text
    assert len(lines) == 1 + len(as_text.entities)
    with pytest.raises(InputError, match=r'text:1 has no "text"'):
        Predictor(bundle.path).predict([{"tags": ["O"]}])


def test_a_bare_session_gives_the_same_logits(
    bundle_of: Callable[..., Bundle], rows: Path, tmp_path: Path
) -> None:
    bundle = bundle_of("roberta")
    convert(bundle, bundle.trainable(), tmp_path / "onnx", to="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    tokenizer = Tokenizer.from_file(str(tmp_path / "onnx" / "tokenizer.json"))
    (row,) = bundle.read(
        write(tmp_path / "row.jsonl", [{"tokens": ["turn", "it", "on"], "tags": ["O"] * 3}])
    ).examples
    encoding = tokenizer.encode(["turn", "it", "on"], is_pretokenized=True)
    assert encoding.ids == row.token_ids.tolist()
    ids = np.array([encoding.ids])
    (logits,) = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    model = InferenceModel(bundle, bundle.trainable(), threads=1)
    feeds = bundle.manifest.task.collate([row], padding_id=bundle.manifest.padding_id)
    np.testing.assert_allclose(logits, model.run(feeds)["logits"], atol=1e-5)


def test_an_adapter_gives_peft_the_same_logits(
    bundle_of: Callable[..., Bundle], rows: Path, tmp_path: Path
) -> None:
    bundle = bundle_of("llama", "lora")
    engine = open_engine(bundle, threads=1)
    examples = bundle.read(rows).examples[:4]
    feeds = bundle.manifest.task.collate(examples, padding_id=bundle.manifest.padding_id)
    for _ in range(5):
        engine.step(feeds, 1e-2)
    trained = engine.parameters()
    convert(bundle, trained, tmp_path / "peft", to="peft")
    base = made_once("tokens-llama", lambda folder: save_model(folder, "llama"))
    with silence_transformers(), silence():
        plain = transformers.AutoModelForTokenClassification.from_pretrained(
            base, num_labels=len(SLOTS), attn_implementation="eager"
        )
        model = PeftModel.from_pretrained(plain, tmp_path / "peft").eval()
    inputs = {name: torch.from_numpy(feeds[name]) for name in bundle.manifest.inputs}
    with torch.no_grad():
        logits = model(**inputs).logits.numpy()
    ours = InferenceModel(bundle, trained, threads=1).run(feeds)["logits"]
    real = feeds["attention_mask"] > 0
    np.testing.assert_allclose(ours[real], logits[real], atol=1e-4)


def save_head(folder: Path, names: list[str]) -> Path:
    config = pico_config("bert")
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    with silence_transformers():
        model = transformers.AutoModelForTokenClassification.from_config(config)
        model.save_pretrained(folder)
        pico_tokenizer("bert").save_pretrained(folder)
    return folder


def labels_for(model: Path, labels: Any, count: int | None = None) -> list[str]:
    wanted = WantedTokenClassification(labels=labels, num_labels=count)
    found: list[str] = load(find_origin(str(model), None), wanted, seed=0).task.task.labels
    return found


def test_a_head_that_the_model_brings_keeps_its_tags(rows: Path, tmp_path: Path) -> None:
    names = [*SLOTS[::-1], "B-scene", "I-scene"]
    model = save_head(tmp_path / "named", names)
    assert labels_for(model, None) == names
    assert labels_for(model, rows) == names  # rows have some of them
    with pytest.raises(ModelError, match=r"a head for 4 classes .*B-device"):
        labels_for(save_head(tmp_path / "other", ["O", "B-a", "I-a", "B-b"]), rows)
    nameless = save_head(tmp_path / "nameless", [f"LABEL_{index}" for index in range(7)])
    assert labels_for(nameless, None) == [str(index) for index in range(7)]
    (tmp_path / "tags.txt").write_text("\n".join(SLOTS))
    assert labels_for(nameless, tmp_path / "tags.txt") == SLOTS
    with pytest.raises(ModelError, match="others are given"):
        labels_for(nameless, rows)


def test_a_new_head_gets_the_tags_that_are_asked_for(rows: Path, tmp_path: Path) -> None:
    model = made_once("tokens-bert", lambda folder: save_model(folder, "bert"))
    assert labels_for(model, rows) == SLOTS
    assert labels_for(model, ["VERB", "NOUN"]) == ["VERB", "NOUN"]
    assert labels_for(model, None, 3) == ["0", "1", "2"]
    with pytest.raises(InputError, match="The classes are not known"):
        labels_for(model, None)


def test_the_whole_job_at_the_command_line(run: Run, rows: Path, tmp_path: Path) -> None:
    model = made_once("tokens-bert", lambda folder: save_model(folder, "bert"))
    bundle, trained = tmp_path / "bundle", tmp_path / "run"
    sizes = ("--batch-size", 4, "--sequence-length", 60)
    options = ("--task", "token-classification", "--device", "rpi5", "--labels", rows)
    assert run("export", model, bundle, *options, *sizes).code == 0
    data = ("--train", rows, "--valid", rows, "--epochs", 30, "--learning-rate", "2e-2")
    report = json.loads(run("finetune", bundle, trained, *data, "--json").out)
    assert report["figures"]["f1"] > 0.6
    evaluation = json.loads(run("evaluate", trained, rows, "--json").out)
    assert evaluation["figures"] == report["figures"]
    assert "F1 of entities" in run("evaluate", trained, rows).out
    assert run("bench", bundle, "--steps", 1, "--warmup", 1, "--json").code == 0
    result = run("evaluate", trained, write(tmp_path / "bad.jsonl", [{"text": "a", "label": "b"}]))
    assert result.code == 2
    assert 'bad.jsonl:1 has a "text" and no list of "entities"' in " ".join(result.err.split())

    marked = [json.loads(line) for line in rows.read_text().splitlines()[:20]]
    marked = [row for row in marked if len(row["text"]) < 55]  # as read whole
    file = write(tmp_path / "marked.jsonl", marked)
    figures = json.loads(run("evaluate", trained, file, "--json").out)["figures"]
    assert figures["unread_words"] == 0
    found = json.loads(run("predict", trained, "--file", file, "--json").out)["predictions"]
    expected, predicted = ([spans_of(row) for row in side] for side in (marked, found))
    both = sum(len(one & other) for one, other in zip(expected, predicted, strict=True))
    assert figures["recall"] == pytest.approx(both / sum(map(len, expected)))
    assert figures["precision"] == pytest.approx(both / sum(map(len, predicted)))
    assert run("convert", trained, tmp_path / "onnx", "--to", "onnx").code == 0
    assert bare_onnx.entity_f1(tmp_path / "onnx", file) == pytest.approx(figures["f1"])
    shown = run("predict", trained, "--file", file).out
    assert shown.count("\n\t") == sum(map(len, predicted))


def spans_of(row: Any) -> set[tuple[int, int, str]]:
    return {(entity["start"], entity["end"], entity["label"]) for entity in row["entities"]}
