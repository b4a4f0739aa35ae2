"""Models that bring a head: the bundle's classes are the head's own."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from edgefuse.bundling.export import export
from edgefuse.hub.silence import silence_transformers
from edgefuse_devices.catalog import load_device
from edgefuse_export.tasks.text_classification import WantedTextClassification
from edgefuse_runtime import Predictor
from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.tasks.labels import read_labels
from tests.pico_models import TEXTS, pico_model, pico_tokenizer

WORDS = sorted({word for text in TEXTS for word in text.split()})


def save_head(folder: Path, names: list[str]) -> Path:
    """Save a pico BERT whose classes have these names, with rows.jsonl of what it predicts."""
    model, tokenizer = pico_model("bert", num_labels=len(names)), pico_tokenizer("bert")
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    texts = [f"{one} {other}" for one in WORDS for other in WORDS[::4]]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():  # a head for which every class is the likeliest of some texts
        model.classifier.bias.zero_()
        spread, mean = torch.std_mean(model(**inputs).logits, dim=0)
        model.classifier.weight.div_(spread[:, None])
        model.classifier.bias.copy_(-mean / spread)
        classes = model(**inputs).logits.argmax(dim=-1).tolist()
    assert len(set(classes)) == len(names)
    with silence_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    lines = [json.dumps({"text": t, "label": c}) for t, c in zip(texts, classes, strict=True)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder


def exported(model: Path, rows: Path, output: Path) -> Bundle:
    shape = {"batch_size": 4, "sequence_length": 16}
    board = load_device("rpi5")
    return export(
        str(model),
        output,
        device=board,
        task=WantedTextClassification(labels=read_labels(rows)),
        **shape,
    )


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    """A model of twelve classes without names, which cuts long texts on the left; its bundle."""
    folder = tmp_path_factory.mktemp("twelve")
    model = save_head(folder / "model", [f"LABEL_{index}" for index in range(12)])
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"truncation_side": "left"}))
    return model, exported(model, model / "rows.jsonl", folder / "bundle")


def test_a_long_text_is_cut_as_transformers_cuts_it(twelve: tuple[Path, Bundle]) -> None:
    folder, bundle = twelve
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [" ".join(WORDS[start::5] * 3) for start in range(5)]
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        expected = model.eval()(**inputs).logits.softmax(dim=-1)
    for prediction, row in zip(Predictor(bundle.path).predict(texts), expected, strict=True):
        assert prediction.label == str(int(row.argmax()))
        assert prediction.probability == pytest.approx(float(row.max()), rel=1e-4)


def test_numbers_of_rows_are_the_heads_indices(run, twelve: tuple[Path, Bundle]) -> None:
    model, bundle = twelve
    assert bundle.manifest.task.labels == [str(index) for index in range(12)]
    result = run("evaluate", bundle.path, model / "rows.jsonl", "--json")
    assert json.loads(result.out)["figures"]["accuracy"] == 1


def test_names_of_rows_are_the_heads_whatever_their_case(run, tmp_path: Path) -> None:
    names = ["POSITIVE", "NEGATIVE"]  # not as they are sorted
    model = save_head(tmp_path / "model", names)
    rows = tmp_path / "rows.jsonl"
    given = [json.loads(line) for line in (model / "rows.jsonl").read_text().splitlines()]
    lines = [json.dumps({**row, "label": names[row["label"]].lower()}) for row in given]
    rows.write_text("\n".join(lines))
    bundle = exported(model, rows, tmp_path / "bundle")
    assert bundle.manifest.task.labels == names
    result = run("evaluate", bundle.path, rows, "--json")
    assert json.loads(result.out)["figures"]["accuracy"] == 1
    result = run("predict", bundle.path, given[0]["text"])
    assert result.out.startswith(names[given[0]["label"]])


def test_a_new_head_has_its_own_problem_whatever_the_configuration_kept(tmp_path: Path) -> None:
    model = save_head(tmp_path / "model", ["a", "b"])
    path = model / "config.json"
    saved = json.loads(path.read_text()) | {
        "problem_type": "multi_label_classification",
        "architectures": ["BertModel"],
    }
    path.write_text(json.dumps(saved))
    bundle = exported(model, model / "rows.jsonl", tmp_path / "bundle")
    config = transformers.AutoConfig.from_pretrained(bundle.path / "model")
    assert config.problem_type == "single_label_classification"
