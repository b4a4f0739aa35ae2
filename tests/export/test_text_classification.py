"""Pairs of texts, several labels and numbers: from a plain model to a converted one."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import peft
import pytest
import torch
import transformers
from tokenizers import Tokenizer

from edgefuse_devices.errors import DataError
from edgefuse_runtime import Predictor, open_bundle
from edgefuse_runtime.data.tokenization import tokenize_pairs
from edgefuse_runtime.tasks.text_classification import TextClassification
from tests.pico_models import TEXTS, pico_tokenizer

# peft 0.21 asks transformers 5.23 for it
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

Run = Callable[..., SimpleNamespace]

LENGTH = 14
LABELS = ["film", "home", "music"]
PAIRS = [(one, other) for one in TEXTS for other in TEXTS[::3]]
SETTINGS = ("--epochs", "2", "--batch-size", "8", "--learning-rate", "1e-3", "--threads", "1")


def words(text: str) -> set[str]:
    return set(text.split())


def likeness(one: str, other: str) -> float:
    return 5 * len(words(one) & words(other)) / len(words(one) | words(other))


def labels_of(text: str) -> list[str]:
    hints = {"film": {"film", "movie"}, "home": {"door", "lamp", "light"}, "music": {"music"}}
    return [label for label, own in hints.items() if words(text) & own]


@dataclass(frozen=True)
class Trained:
    """A folder with rows.jsonl, a bundle, and a run of it."""

    folder: Path
    conversions: dict[str, Path]

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def rows(self) -> Path:
        return self.folder / "rows.jsonl"


def trained(folder: Path, run: Run, model: Path, rows: list[dict], *options: str) -> Trained:
    """Export, finetune and convert, as people type it."""
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    sizes = ("--device", "rpi5", "--sequence-length", str(LENGTH), "--labels", file)
    commands = [
        ("export", model, folder / "bundle", *sizes, *options),
        ("finetune", folder / "bundle", folder / "run", "--train", file, *SETTINGS),
    ]
    formats = ["onnx", "transformers", *(["peft"] if "lora" in options else [])]
    conversions = {to: folder / to for to in formats}
    commands += [("convert", folder / "run", out, "--to", to) for to, out in conversions.items()]
    for command in commands:
        result = run(*command)
        assert result.code == 0, result.err
    return Trained(folder, conversions)


@pytest.fixture(scope="module")
def commands() -> Iterator[Run]:
    """The command line, for what a module shares."""
    with pytest.MonkeyPatch.context() as patch:
        from edgefuse.cli import main  # noqa: PLC0415

        def call(*arguments: object) -> SimpleNamespace:
            patch.setattr("sys.argv", ["edgefuse", *map(str, arguments)])
            with pytest.raises(SystemExit) as exit_:
                main()
            return SimpleNamespace(code=exit_.value.code or 0, err="")

        yield call


@pytest.fixture(scope="module")
def alike(pico_model: Callable[..., Path], commands: Run, tmp_path_factory) -> Trained:
    """A regression of pairs by LoRA: BERT, whose token types differ."""
    rows = [{"text": a, "text_pair": b, "score": likeness(a, b)} for a, b in PAIRS]
    options = ("--problem-type", "regression", "--tune", "lora")
    folder = tmp_path_factory.mktemp("alike")
    return trained(folder, commands, pico_model("bert"), rows, *options)


@pytest.fixture(scope="module")
def topics(pico_model: Callable[..., Path], commands: Run, tmp_path_factory) -> Trained:
    """Several labels a text: DistilBERT."""
    rows = [{"text": text, "label": labels_of(text)} for text in TEXTS * 3]
    folder = tmp_path_factory.mktemp("topics")
    options = ("--problem-type", "multi-label")
    return trained(folder, commands, pico_model("distilbert"), rows, *options)


def inputs_of(folder: Path, *texts: list[str]) -> dict[str, torch.Tensor]:
    """What plain transformers makes of texts or pairs."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    cut = {"truncation": True, "max_length": LENGTH}
    return dict(tokenizer(*texts, padding=True, return_tensors="pt", **cut))


def bare_onnx(folder: Path, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    wanted = [value.name for value in session.get_inputs()]
    return session.run(["logits"], {name: inputs[name].numpy() for name in wanted})[0]


def test_pairs_give_one_number_on_the_board_and_in_other_libraries(
    alike: Trained, pico_model: Callable[..., Path]
) -> None:
    task = open_bundle(alike.bundle).manifest.task
    kind = {"problem_type": "regression", "pairs": True, "token_types": True}
    assert task == TextClassification(labels=["score"], **kind)
    asked = [{"text": one, "text_pair": other} for one, other in PAIRS]
    board = [one.score for one in Predictor(alike.run).predict(asked)]
    one, other = map(list, zip(*PAIRS, strict=True))
    inputs = inputs_of(alike.conversions["transformers"], one, other)
    assert inputs["token_type_ids"].any()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        alike.conversions["transformers"]
    ).eval()
    assert model.config.problem_type == "regression"
    base = transformers.AutoModelForSequenceClassification.from_pretrained(
        pico_model("bert"), num_labels=1
    )
    adapted = peft.PeftModel.from_pretrained(base, alike.conversions["peft"]).eval()
    with torch.no_grad():
        plain, of_adapter = model(**inputs).logits, adapted(**inputs).logits
    assert np.std(board) > 0.02
    np.testing.assert_allclose(plain[:, 0], board, atol=1e-5)
    np.testing.assert_allclose(of_adapter[:, 0], board, atol=1e-5)
    onnx = bare_onnx(alike.conversions["onnx"], inputs)
    np.testing.assert_allclose(onnx[:, 0], board, atol=1e-5)


def test_the_loss_of_numbers_is_that_of_transformers(alike: Trained) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        alike.conversions["transformers"]
    ).eval()
    inputs = inputs_of(alike.conversions["transformers"], *map(list, zip(*PAIRS, strict=True)))
    scores = torch.tensor([likeness(*pair) for pair in PAIRS])
    with torch.no_grad():
        loss = model(**inputs, labels=scores).loss.item()
    figures = Predictor(alike.run).evaluate(alike.rows).figures
    assert figures["loss"] == pytest.approx(loss, rel=1e-4)
    assert list(figures) == ["pearson", "spearman", "mean_absolute_error", "loss"]


def test_several_labels_are_the_same_on_the_board_and_in_other_libraries(topics: Trained) -> None:
    predictions = Predictor(topics.run).predict(TEXTS)
    inputs = inputs_of(topics.conversions["transformers"], list(TEXTS))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        topics.conversions["transformers"]
    ).eval()
    assert model.config.problem_type == "multi_label_classification"
    assert model.config.id2label == dict(enumerate(LABELS))
    held = torch.tensor([[float(x in labels_of(text)) for x in LABELS] for text in TEXTS])
    with torch.no_grad():
        output = model(**inputs, labels=held)
    figures = Predictor(topics.run).evaluate(topics.rows).figures
    assert figures["loss"] == pytest.approx(output.loss.item(), rel=1e-4)
    onnx = bare_onnx(topics.conversions["onnx"], inputs)
    np.testing.assert_allclose(onnx, output.logits, atol=1e-4)
    for prediction, row in zip(predictions, output.logits.sigmoid().tolist(), strict=True):
        assert prediction.probabilities == pytest.approx(dict(zip(LABELS, row, strict=True)))
        assert prediction.labels == [x for x, p in zip(LABELS, row, strict=True) if p > 0.5]


def test_a_person_sees_labels_and_numbers(run: Run, alike: Trained, topics: Trained) -> None:
    row = json.dumps({"text": TEXTS[0], "text_pair": TEXTS[1]})
    result = run("predict", alike.run, row)
    score, *texts = result.out.strip().split("\t")
    assert texts == [TEXTS[0], TEXTS[1]]
    assert float(score) == pytest.approx(Predictor(alike.run).predict([row])[0].score, abs=1e-3)
    found = json.loads(run("predict", topics.run, TEXTS[0], "--json").out)["predictions"][0]
    result = run("predict", topics.run, TEXTS[0])
    shown = ", ".join(f"{x} {found['probabilities'][x]:.3f}" for x in found["labels"]) or "-"
    assert result.out == f"{shown}\t{TEXTS[0]}\n"


def test_a_pair_where_one_text_is_read_is_refused_and_the_other_way_round(
    run: Run, alike: Trained, topics: Trained, tmp_path: Path
) -> None:
    for trained_, row, sentence in (
        (alike, {"text": "a film", "score": 1}, 'has no "text_pair", and the model reads pairs'),
        (topics, {"text": "a", "text_pair": "b", "label": []}, "the model reads single texts"),
    ):
        file = tmp_path / "rows.jsonl"
        file.write_text(json.dumps(row))
        for command in (
            ("evaluate", trained_.run, file),
            ("predict", trained_.run, "--file", file),
            ("finetune", trained_.bundle, tmp_path / "run", "--train", file),
        ):
            result = run(*command)
            assert result.code == 2
            assert sentence in result.err
    result = run("predict", alike.run, "a film")
    assert result.code == 2
    assert 'text:1 is a text alone, and the model reads "text" and "text_pair"' in result.err


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_pairs_are_cut_as_transformers_cuts_them(
    architecture: str, side: str, tmp_path: Path
) -> None:
    theirs = pico_tokenizer(architecture)
    theirs.truncation_side = side
    long = " ".join(TEXTS)
    pairs = [*PAIRS, (long, "a film"), ("a film", long), (long, TEXTS[0] + long)]
    file = tmp_path / "rows.jsonl"
    rows = [{"text": a, "text_pair": b, "label": 0} for a, b in pairs]
    file.write_text("\n".join(map(json.dumps, rows)))
    ours = Tokenizer.from_str(theirs.backend_tokenizer.to_str())
    ours.enable_truncation(LENGTH, direction=side)
    task = TextClassification(labels=["0", "1"], pairs=True, token_types=True)
    for (one, other), example in zip(pairs, task.read(file, ours), strict=True):
        expected = theirs(
            one, other, truncation=True, max_length=LENGTH, return_token_type_ids=True
        )
        assert example.token_ids.tolist() == expected["input_ids"]
        assert example.type_ids.tolist() == expected["token_type_ids"]


def test_a_length_without_room_for_two_texts_is_refused() -> None:
    tokenizer = pico_tokenizer("bert").backend_tokenizer
    tokenizer.enable_truncation(4)  # of which [CLS] and two [SEP] take three
    with pytest.raises(DataError, match=r"no room for two texts.* --sequence-length 5 or more"):
        tokenize_pairs(tokenizer, PAIRS)
    tokenizer.enable_truncation(5)
    assert {len(ids) for ids, _ in tokenize_pairs(tokenizer, PAIRS)} == {5}


def refused(run: Run, *arguments: object) -> str:
    result = run(*arguments)
    assert result.code == 2
    return " ".join(result.err.split())


def test_what_cannot_be_exported_is_refused_before_the_work(
    run: Run, pico_model: Callable[..., Path], alike: Trained, tmp_path: Path
) -> None:
    def rows(*lines: dict) -> Path:
        file = tmp_path / "rows.jsonl"
        file.write_text("\n".join(map(json.dumps, lines)))
        return file

    bert, output = pico_model("bert"), tmp_path / "bundle"
    command = ("export", bert, output, "--device", "rpi5")
    floats = rows({"text": "a", "label": 0.5}, {"text": "b", "label": 1.5})
    assert "--problem-type regression" in refused(run, *command, "--labels", floats)
    kind = ("--problem-type", "regression")
    assert "has no labels" in refused(run, *command, *kind, "--num-labels", "3")
    assert "Did you mean regression" in refused(run, *command, "--problem-type", "regresion")
    mixed = rows({"text": "a", "text_pair": "b", "label": 0}, {"text": "b", "label": 1})
    sentence = 'rows.jsonl:2 has no "text_pair", and other rows have one'
    assert sentence in refused(run, *command, "--labels", mixed)
    single = rows({"text": "a", "label": 0}, {"text": "b", "label": 1})
    sentence = 'rows.jsonl:1 has no "text_pair", and --pairs asks for it'
    assert sentence in refused(run, *command, "--labels", single, "--pairs")
    head = ("export", alike.conversions["transformers"], output, "--device", "rpi5")
    assert "which has no labels" in refused(run, *head, "--num-labels", "2")
    other = ("--problem-type", "single-label", "--num-labels", "2")
    assert "Export it with --problem-type regression" in refused(run, *head, *other)
    assert not output.exists()


def test_a_head_of_the_wanted_problem_goes_on(run: Run, alike: Trained, tmp_path: Path) -> None:
    kind = ("--pairs", "--sequence-length", str(LENGTH))
    model = alike.conversions["transformers"]
    result = run("export", model, tmp_path / "bundle", "--device", "rpi5", *kind, "--tune", "head")
    assert result.code == 0, result.err
    asked = [{"text": one, "text_pair": other} for one, other in PAIRS[:4]]
    scores = [
        [x.score for x in Predictor(p).predict(asked)] for p in (tmp_path / "bundle", alike.run)
    ]
    np.testing.assert_allclose(*scores, atol=1e-4)
