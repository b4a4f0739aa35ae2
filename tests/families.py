"""The families of models that are exported for every task that they have a head for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PretrainedConfig

from edgefuse_devices.errors import ModelError
from edgefuse_devices.options import options_of
from edgefuse_export.tasks.registry import WANTED_TASKS, find_task
from edgefuse_export.tasks.task import ModelFacts, WantedTask
from edgefuse_runtime.tagged import name_of
from edgefuse_runtime.tasks.registry import TASKS
from tests.pico_models import pico_config


@dataclass(frozen=True, eq=False)
class Family:
    """A family of models.

    Attributes:
        title: What people call it.
        kind: The architecture, as `pico_model` takes it.
        layers: Count of layers, in which all kinds of layers occur that it has.
        beyond: Tasks that transformers has a head for and that cannot be exported, each with the
            reason.
    """

    title: str
    kind: str
    layers: int = 1
    beyond: Mapping[str, str] = field(default_factory=dict)

    @property
    def config(self) -> PretrainedConfig:
        """The configuration of its pico model."""
        return pico_config(self.kind)

    def refusal(self, task: type[Any]) -> str:
        """Why there is no such case; nothing where there is."""
        try:
            wanted(name_of(task)).of_model(ModelFacts(self.title, self.config))
        except ModelError as error:
            return error.problem
        return self.beyond.get(name_of(task), "")


FAMILIES = (
    Family("BERT", "bert"),
    Family("RoBERTa", "roberta"),
    Family("XLM-RoBERTa", "xlm-roberta"),
    Family("DistilBERT", "distilbert"),
    Family("ELECTRA", "electra"),
    Family("ALBERT", "albert", layers=2),
    Family("ModernBERT", "modernbert", layers=2),
    Family("DeBERTa", "deberta"),
    Family("DeBERTa-v2, v3", "deberta-v2"),
    Family("MPNet", "mpnet"),
    Family("GPT-2", "gpt2"),
    Family("OPT", "opt"),
    Family("GPT-NeoX", "gpt_neox"),
    Family("Llama, SmolLM2", "llama"),
    Family("Qwen2", "qwen2"),
    Family("Qwen3", "qwen3"),
    Family("Gemma", "gemma"),
    Family("Gemma 2", "gemma2", layers=2),
    Family("Gemma 3", "gemma3_text", layers=2),
    Family("Mistral", "mistral"),
    Family("Phi-3", "phi3"),
    Family("SmolLM3", "smollm3", layers=2),
    Family("OLMo2", "olmo2"),
    Family("Granite", "granite"),
    Family("Cohere", "cohere"),
    Family("Mixtral", "mixtral"),
    Family("Qwen2-MoE", "qwen2_moe", layers=2),
    Family("Qwen3-MoE", "qwen3_moe"),
    Family("OLMoE", "olmoe"),
    Family("T5", "t5"),
    Family("mT5", "mt5"),
    Family("Flan-T5", "t5-gated"),
    Family("BART", "bart"),
    Family("Switch", "switch_transformers", layers=2),
)


def cases() -> Iterator[tuple[Family, str]]:
    """Every family with every task that it is exported for."""
    for family in FAMILIES:
        for task in TASKS:
            if not family.refusal(task):
                yield family, name_of(task)


_WRITERS = ("gpt2", "llama", "phi3", "gemma3_text", "mixtral")
"""Builds of decoders: positions that are learned or turned, layers of two kinds, experts."""

_MLPS = ("albert", "gpt2", "llama", "phi3", "mixtral", "switch_transformers")
"""Builds of MLPs: shared, turned, gated, joined, experts in a stack, experts one by one."""


_ALIKE = (
    *("xlm-roberta", "electra", "mistral", "qwen3", "gemma", "smollm3", "granite", "cohere"),
    *("olmoe", "mt5"),
)
"""Families whose layers are built as those of another in the sample: RoBERTa's, Llama's, T5's …"""


def sample() -> Iterator[tuple[Family, str]]:
    """A family of each build with one of its tasks: generation, which takes longest, for few."""
    tasks: dict[Family, list[str]] = {}
    for family, task in cases():
        tasks.setdefault(family, []).append(task)
    built = [(family, names) for family, names in tasks.items() if family.kind not in _ALIKE]
    for turn, (family, names) in enumerate(built):
        others = [name for name in names if name != "text-generation"]
        writes = family.kind in _WRITERS or not others
        yield family, "text-generation" if writes else others[turn % len(others)]


def fused_sample() -> Iterator[Family]:
    """A family of each build of MLPs."""
    return (family for family in FAMILIES if family.kind in _MLPS)


def wanted(task: str) -> WantedTask:
    """A task with a new head of three classes, where it has classes."""
    return find_task(task, {"num_labels": 3} if has_classes(task) else {})


def has_classes(task: str) -> bool:
    """Whether a task's head has classes; other heads are the model's own."""
    (kind,) = (one for one in WANTED_TASKS if one.name == task)
    return any(option.name == "num_labels" for option in options_of(kind))
