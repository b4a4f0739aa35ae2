"""Question answering from export to conversion is what torch and plain transformers compute."""

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, PreTrainedModel

import edgefuse
from edgefuse.bundling.export import export
from edgefuse.tuning.ways import find_way
from edgefuse_devices.catalog import load_device
from edgefuse_devices.errors import DataError, InputError, ModelError
from edgefuse_export.tasks.question_answering import WantedQuestionAnswering
from edgefuse_export.tasks.registry import find_task
from edgefuse_runtime.bundle.bundle import Bundle, open_bundle, open_engine
from edgefuse_runtime.converting.convert import convert
from edgefuse_runtime.engines.engine import Tensors
from edgefuse_runtime.inference.evaluation import evaluate_model
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.tasks.answer_spans import LONGEST
from edgefuse_runtime.tasks.question_answering import AnswerOptions
from edgefuse_runtime.tasks.squad_metrics import exact_match, f1
from edgefuse_runtime.training.fit import fit
from edgefuse_runtime.training.run import TrainingSettings
from tests.pico_models import TEXTS
from tests.shared import made_once
from tests.tuned_pico import pico

LENGTH, STRIDE = 40, 9
BOARD = load_device("rpi5")
KINDS = ("shallow-bert", "shallow-roberta", "fused-shallow-distilbert")
RATE = 3e-3
SETTINGS = TrainingSettings(learning_rate=RATE, threads=1)


@cache
def rows() -> list[dict[str, Any]]:
    """Questions about all texts, of which one is answered by what stands in the middle."""
    made = []
    for index, text in enumerate(TEXTS):
        others = [*TEXTS[index + 1 :], *TEXTS[:index]]
        context = ". ".join([*others[: index % 4], text, *others[index % 4 :]][: 3 + index % 5])
        answer = " ".join(text.split()[2:])
        answers = [{"text": answer, "start": context.index(answer)}]
        question = " ".join(text.split()[:2])
        made.append({"context": context, "question": question, "answers": answers})
    return made


@cache
def data() -> Path:
    lines = "".join(f"{json.dumps(row)}\n" for row in rows())
    return made_once("questions.jsonl", lambda file: file.write_text(lines))


@cache
def exported(kind: str, tune: str = "full", **options: object) -> Bundle:
    way = find_way(tune, options)

    def make(output: Path) -> Bundle:
        return export(
            str(pico(kind)),
            output,
            device=BOARD,
            task=WantedQuestionAnswering(doc_stride=STRIDE),
            tune=way,
            batch_size=4,
            sequence_length=LENGTH,
        )

    return open_bundle(made_once(f"answers-{kind}-{tune}", make))


@cache
def trained(bundle: Bundle, steps: int = 10) -> Tensors:
    """What trains, after some steps on the rows."""
    engine = open_engine(bundle, threads=1)
    for feeds in batches(bundle, steps):
        engine.step(feeds, RATE)
    return {name: value.copy() for name, value in engine.parameters().items()}


def batches(bundle: Bundle, count: int) -> list[dict[str, np.ndarray]]:
    windows, task = bundle.read(data()).examples, bundle.manifest.task
    assert len(windows) > len(rows())  # some contexts are long
    rng = np.random.default_rng(0)
    return [
        task.collate(
            [windows[index] for index in rng.choice(len(windows), 4, replace=False)],
            padding_id=bundle.manifest.padding_id,
        )
        for _ in range(count)
    ]


def with_head(bundle: Bundle, kind: str) -> PreTrainedModel:
    """The model as torch has it, with the head that export made up."""
    model = edgefuse.from_pretrained(
        pico(kind), AutoModelForQuestionAnswering, num_labels=2, attn_implementation="eager"
    )
    with torch.no_grad():
        for name, value in bundle.trainable().items():
            model.get_parameter(name).copy_(torch.from_numpy(value))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_loss_logits_and_every_gradient_equal_torchs(kind: str) -> None:
    bundle = exported(kind)
    certificate = bundle.manifest.certificate
    assert certificate is not None
    assert certificate.gradients == len(bundle.manifest.parameters)
    assert certificate.loss_difference < 1e-5
    assert certificate.output_difference < 1e-5
    assert certificate.worst_gradient_error < 1e-4
    types = ["token_type_ids"] if kind == "shallow-bert" else []
    assert bundle.manifest.inputs == ["input_ids", "attention_mask", *types]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "fused" not in kind])
def test_ten_steps_have_the_losses_of_transformers(kind: str) -> None:
    bundle = exported(kind)
    model, engine = with_head(bundle, kind), open_engine(bundle, threads=1)
    settings = bundle.manifest.optimizer
    parameters = {p.name: model.get_parameter(p.name) for p in bundle.manifest.parameters}
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [parameters[p.name]],
                "weight_decay": settings.weight_decay if p.decay else 0.0,
            }
            for p in bundle.manifest.parameters
        ],
        lr=RATE,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
    )
    losses = []
    ten = batches(bundle, 10)
    for feeds in ten:
        optimizer.zero_grad()
        loss = model(**{name: torch.from_numpy(value) for name, value in feeds.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), settings.max_gradient_norm)
        optimizer.step()
        losses.append(engine.step(feeds, RATE).loss)
        assert losses[-1] == pytest.approx(loss.item(), abs=1e-4)
    assert engine.step(ten[0], RATE).loss < losses[0]


def answer_of_transformers(folder: Path, row: dict[str, Any], run: Any) -> tuple[str, int, int]:
    """The best span of all windows that the tokenizer of a folder makes, by trying every one."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    windows = tokenizer(
        row["question"],
        row["context"],
        truncation="only_second",
        max_length=LENGTH,
        stride=STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding=True,
        return_tensors="pt",
    )
    windows.pop("overflow_to_sample_mapping")
    offsets = windows.pop("offset_mapping").tolist()
    start_logits, end_logits = run(windows)
    best = (-np.inf, 0, 0)
    for index, places in enumerate(offsets):
        context = [i for i, text in enumerate(windows.sequence_ids(index)) if text == 1]
        for first in context:
            for last in range(first, min(first + LONGEST, context[-1] + 1)):
                score = float(start_logits[index][first] + end_logits[index][last])
                best = max(best, (score, places[first][0], places[last][1]))
    _, start, end = best
    return row["context"][start:end], start, end


def asked() -> Sequence[dict[str, Any]]:
    return [{name: row[name] for name in ("question", "context")} for row in rows()]


def predicted(bundle: Bundle, values: Tensors) -> list[tuple[str, int, int]]:
    model, task = InferenceModel(bundle, values, threads=1), bundle.manifest.task
    examples = task.examples(asked(), model.tokenizer)
    answers = task.predict(examples, model, AnswerOptions())
    return [(one.answer, one.start, one.end) for one in answers]


@pytest.mark.parametrize("kind", ["shallow-bert", "shallow-roberta", "fused-shallow-distilbert"])
def test_plain_transformers_and_bare_onnxruntime_find_the_same_answers(
    kind: str, tmp_path: Path
) -> None:
    bundle = exported(kind)
    values = trained(bundle)
    expected = predicted(bundle, values)
    assert len(set(expected)) > 5

    convert(bundle, values, tmp_path / "plain", to="transformers")
    model = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "plain").eval()

    @torch.no_grad()
    def in_torch(windows: Any) -> tuple[np.ndarray, np.ndarray]:
        outputs = model(**windows)
        return outputs.start_logits.numpy(), outputs.end_logits.numpy()

    folder = tmp_path / "plain"
    assert [answer_of_transformers(folder, row, in_torch) for row in asked()] == expected

    about = convert(bundle, values, tmp_path / "onnx", to="onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))

    def in_onnxruntime(windows: Any) -> list[np.ndarray]:
        feeds = {name: windows[name].numpy() for name in about.inputs}
        return session.run(["start_logits", "end_logits"], feeds)

    assert [answer_of_transformers(folder, row, in_onnxruntime) for row in asked()] == expected


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.filterwarnings("ignore:Adapter 'default'")
def test_peft_loads_the_adapter_with_the_same_logits(tmp_path: Path) -> None:
    bundle = exported("shallow-bert", "lora", lora_rank=2)
    values = trained(bundle)
    convert(bundle, values, tmp_path / "adapter", to="peft")
    base = AutoModelForQuestionAnswering.from_pretrained(
        pico("shallow-bert"), num_labels=2, attn_implementation="eager"
    )
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    assert loaded.peft_config["default"].task_type == "QUESTION_ANS"
    # peft 0.21 hands token types to no model for answers; one without its wrapper takes them.
    merged = loaded.merge_and_unload().eval()
    (feeds,) = batches(bundle, 1)
    outputs = InferenceModel(bundle, values, threads=1).run(feeds)
    with torch.no_grad():
        inputs = {name: torch.from_numpy(feeds[name]) for name in bundle.manifest.inputs}
        expected = merged(**inputs)
    for name, output in outputs.items():
        np.testing.assert_allclose(output, expected[name].numpy(), atol=1e-5)


def test_figures_are_those_of_the_answers_whatever_batch_their_windows_are_in() -> None:
    bundle = exported("shallow-bert")
    values = trained(bundle, 30)
    model = InferenceModel(bundle, values, threads=1)
    evaluation = evaluate_model(bundle, model, bundle.read(data()))
    found = [text for text, _, _ in predicted(bundle, values)]
    right = [[answer["text"] for answer in row["answers"]] for row in rows()]
    for name, figure in (("f1", f1), ("exact_match", exact_match)):
        mean = np.mean([figure(one, answers) for one, answers in zip(found, right, strict=True)])
        assert evaluation.figures[name] == pytest.approx(mean)
    assert 0 < evaluation.figures["f1"] <= 1
    assert evaluation.rows == len(rows())


def test_a_model_learns_that_a_context_has_no_answer(tmp_path: Path) -> None:
    lines = [{**row, "answers": []} for row in rows()]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(DataError, match=r"rows.jsonl:1 has no answer"):
        exported("shallow-bert").read(file)
    bundle = export(
        str(pico("shallow-bert")),
        tmp_path / "bundle",
        device=BOARD,
        task=find_task("question-answering", {"unanswerable": True}),
        batch_size=4,
        sequence_length=LENGTH,
    )
    dataset = bundle.read(file)
    assert {window.span for window in dataset.examples} == {(0, 0)}
    learnt = fit(bundle, bundle.trainable(), dataset, steps=60, settings=SETTINGS)
    before, after = (
        evaluate_model(bundle, InferenceModel(bundle, values, threads=1), dataset).figures
        for values in (bundle.trainable(), learnt)
    )
    assert before["exact_match"] < after["exact_match"] == after["f1"] == 1


def test_the_command_line_goes_all_the_way(run: Any, tmp_path: Path) -> None:
    bundle = exported("shallow-bert")
    assert run("doctor", bundle.path).code == 0  # of two outputs
    settings = ("--epochs", 2, "--threads", 1, "--learning-rate", RATE)
    done = run(
        "finetune", bundle.path, tmp_path / "run", "--train", data(), "--valid", data(), *settings
    )
    assert done.code == 0, done.err
    shown = run("evaluate", tmp_path / "run", data())
    assert "F1" in shown.out
    assert "exact match" in shown.out
    figures = json.loads(run("evaluate", tmp_path / "run", data(), "--json").out)["figures"]
    assert list(figures) == ["f1", "exact_match"]

    row = asked()[3]
    line = run("predict", tmp_path / "run", json.dumps(row)).out
    answer, score, places, question = line.rstrip("\n").split("\t")
    start, end = map(int, places.split(":"))
    assert answer == row["context"][start:end]
    assert 0 < float(score) <= 1
    assert question == row["question"]

    context = tmp_path / "context.txt"
    context.write_text(row["context"])
    alone = run("predict", tmp_path / "run", row["question"], "--context", context)
    assert alone.out == line
    many = run("predict", tmp_path / "run", "--file", data(), "--json")
    predictions = json.loads(many.out)["predictions"]
    assert len(predictions) == len(rows())
    assert predictions[3]["answer"] == answer
    in_order = [one["question"] for one in predictions]
    assert in_order == [one["question"] for one in rows()]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["where"], "text:1 is a question without a context. Name the text .*--context FILE"),
        (["where", "--context", "absent.txt"], "absent.txt is not there"),
        (['{"question": "where"}'], 'text:1 has no "context"'),
        (["good " * 40, "--context", "{context}"], "text:1 has a question of 40 tokens"),
        (["where", "--context", "{blank}"], "blank.txt has no text"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    arguments: list[str], sentence: str, run: Any, tmp_path: Path
) -> None:
    (tmp_path / "context.txt").write_text("a good film")
    (tmp_path / "blank.txt").write_text("\n \n")
    names = {name: tmp_path / f"{name}.txt" for name in ("context", "blank")}
    given = [a if a.startswith('{"') else a.format(**names) for a in arguments]
    result = run("predict", exported("shallow-bert").path, *given)
    assert result.code == 2
    assert re.search(sentence, " ".join(result.err.split()))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("olmoe", "transformers has no model for answers of olmoe models"),
        ("t5", "t5 models have an encoder and a decoder"),
    ],
)
def test_families_without_the_head_are_refused(kind: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=reason):
        export(
            str(pico(kind)), tmp_path / "bundle", device=BOARD, task=find_task("question-answering")
        )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"doc_stride": 40}, "--doc-stride 40 is no less than the 40 tokens of a window"),
        ({"doc_stride": -1}, "--doc-stride is -1"),
        ({"num_labels": 3}, "--num-labels is no option of --task question-answering"),
    ],
)
def test_options_that_do_not_hold_are_refused(
    options: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        export(
            str(pico("shallow-bert")),
            tmp_path / "bundle",
            device=BOARD,
            task=find_task("question-answering", options),
            tune="head",
            sequence_length=LENGTH,
        )
    assert not (tmp_path / "bundle").exists()
