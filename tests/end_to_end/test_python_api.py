"""The examples of the pages run as they stand there, and opened things do where paths do."""

import json
import re
import textwrap
from pathlib import Path

import pytest

import edgefuse
import edgefuse_runtime
from edgefuse.tuning.ways.lora import Lora
from edgefuse_devices.errors import InputError, OutputError
from tests.pico_models import save_pico_model

PAGE = Path(__file__).parents[2] / "docs" / "api.md"

pytestmark = pytest.mark.slow

ROWS = {"turn the lamp on": "light_on", "it is too dark": "light_on", "lights out": "light_off"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the page's example has run."""
    folder = tmp_path_factory.mktemp("api")
    save_pico_model(folder / "model", "bert")
    lines = "".join(json.dumps({"text": t, "label": label}) + "\n" for t, label in ROWS.items())
    for name in ("train.jsonl", "valid.jsonl"):
        (folder / name).write_text(lines)
    example = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(example[1], {})
    return folder


def test_the_pages_example_runs(folder):
    assert {path.name for path in folder.iterdir()} == {
        *("model", "train.jsonl", "valid.jsonl"),
        *("fused", "bundle", "run", "onnx-model"),
    }
    assert edgefuse_runtime.read_run(folder / "run").settings.epochs == 2


def test_the_example_without_edgefuse_runs(folder, monkeypatch, capsys):
    page = PAGE.with_name("finetune.md").read_text(encoding="utf-8")
    lines = re.search(r"((?:    .*\n|\n)*    session = .*\n(?:    .*\n)*)", page)[1]
    monkeypatch.chdir(folder)
    exec(textwrap.dedent(lines).replace('"model/', '"onnx-model/'), {})
    assert capsys.readouterr().out.strip() in ROWS.values()


def test_a_loaded_model_has_the_same_figures(folder):
    predictor = edgefuse_runtime.Predictor(folder / "run")
    seen = []
    evaluation = predictor.evaluate(
        folder / "valid.jsonl", on_progress=lambda *now: seen.append(now)
    )
    again = edgefuse_runtime.evaluate(folder / "run", folder / "valid.jsonl")
    assert evaluation.figures == again.figures
    assert seen[-1] == ("Evaluating", len(ROWS), len(ROWS))


def test_an_opened_bundle_is_taken_where_a_path_is(folder):
    bundle = edgefuse_runtime.open_bundle(str(folder / "bundle"))
    again = edgefuse_runtime.finetune(bundle, folder / "run", resume=True)
    assert again.bundle_id == bundle.id


def test_a_run_is_not_both_resumed_and_replaced(folder):
    with pytest.raises(OutputError, match="contradict"):
        edgefuse_runtime.finetune(folder / "bundle", folder / "run", resume=True, overwrite=True)


def test_options_are_texts_or_what_they_stand_for(folder, tmp_path):
    texts = str(folder / "valid.jsonl")
    plan = edgefuse.plan_compression(folder / "model", calibration=texts, ratio=0.5)
    same = edgefuse.plan_compression(folder / "model", calibration=Path(texts), ratio=0.5)
    assert plan.texts == same.texts
    chains = edgefuse.plan_compression(
        folder / "model", method="mpo", matrices="mlp, attention", bond=4
    )
    listed = edgefuse.plan_compression(
        folder / "model", method="mpo", matrices=["mlp", "attention"], bond=4
    )
    assert chains.needed_bytes == listed.needed_bytes


@pytest.mark.parametrize("name", ["lora_rank", "sequence_lenght"])
def test_options_beside_an_object_that_has_its_own_are_refused(name, folder, tmp_path):
    with pytest.raises(InputError, match=rf"{name} cannot be given beside Lora"):
        edgefuse.export(
            folder / "model", tmp_path / "b", device="rpi5", labels=2, tune=Lora(), **{name: 4}
        )


@pytest.mark.parametrize(
    ("labels", "match"), [(["only"], "1 classes"), (["a", "a"], "named twice"), (1, "1 classes")]
)
def test_classes_of_which_nothing_can_be_learnt_are_refused(labels, match, folder, tmp_path):
    with pytest.raises(InputError, match=match):
        edgefuse.export(folder / "model", tmp_path / "b", device="rpi5", labels=labels)


def test_counts_below_the_least_are_refused(folder):
    for given in ({"num_labels": 1}, {"batch_size": 0}):
        with pytest.raises(InputError, match="Give at least"):
            edgefuse.plan(folder / "model", device="rpi5", **given)
    with pytest.raises(InputError, match="--seed is -1"):
        edgefuse.compress(folder / "model", folder / "none", seed=-1)
    with pytest.raises(InputError, match=r"no format 'onx'.*Did you mean onnx"):
        edgefuse_runtime.convert(folder / "run", folder / "none", to="onx")


def test_a_dry_run_gives_the_record_as_far_as_it_is_known(folder, tmp_path):
    known = edgefuse.compress(folder / "model", tmp_path / "fused", ratio=0.5, dry_run=True)
    assert not (tmp_path / "fused").exists()
    record = edgefuse.compress(folder / "model", tmp_path / "fused", ratio=0.5)
    widths, planned = ([layer.width_after for layer in r.layers] for r in (record, known))
    assert widths == planned
    assert known.parameters_after == record.parameters_after


def test_nothing_to_train_on_is_said(folder, tmp_path):
    with pytest.raises(edgefuse.DataError, match="nothing to train on"):
        edgefuse_runtime.finetune(folder / "bundle", tmp_path / "run")


@pytest.mark.parametrize("labels", [1, 0])
def test_too_few_classes_are_refused(folder, tmp_path, labels):
    with pytest.raises(edgefuse.InputError, match="nothing to learn"):
        edgefuse.export(folder / "fused", tmp_path / "bundle", device="rpi5", labels=labels)
