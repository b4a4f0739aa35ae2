"""The commands that are printed as the next ones are for the task that a model is for."""

from pathlib import Path

import pytest
import transformers

from edgefuse.cli._next_export import next_export
from edgefuse_export.tasks.architecture import likely_task
from edgefuse_runtime.tagged import name_of


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("text-classification", "--labels train.jsonl"),
        ("token-classification", "--task token-classification --labels train.jsonl"),
        ("question-answering", "--task question-answering"),
    ],
)
def test_labels_are_named_where_a_task_has_them(task: str, options: str) -> None:
    command = f"edgefuse export m m-bundle --device rpi5 {options}"
    assert next_export(Path("m"), task) == command
    assert next_export(Path("m"), task, tune="mpo") == f"{command} --tune mpo"


@pytest.mark.parametrize(
    ("kind", "saved", "task"),
    [
        ("bert", "BertModel", "text-classification"),
        ("bert", "BertForMaskedLM", "text-classification"),
        ("bert", "BertForTokenClassification", "token-classification"),
        ("gpt2", "GPT2LMHeadModel", "text-generation"),
        ("llama", "LlamaForCausalLM", "text-generation"),
        ("llama", "LlamaModel", "text-classification"),
        ("t5", "T5Model", "text2text-generation"),
        ("bart", "BartForConditionalGeneration", "text2text-generation"),
        ("xlnet", "XLNetLMHeadModel", "text-classification"),
    ],
)
def test_a_model_is_likely_for_the_task_of_its_head(kind: str, saved: str, task: str) -> None:
    config = transformers.AutoConfig.for_model(kind, architectures=[saved])
    assert name_of(likely_task(config)) == task
