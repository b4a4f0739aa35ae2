"""What training will hold in memory, from the graphs that an export would write."""

from edgefuse.bundling.engine import find_engine
from edgefuse_export.source import Source
from edgefuse_runtime.training.memory_plan import LIBRARIES, MemoryPlan, Needs


def predict_memory(
    source: Source, engine: str, *, rows: int, tokens: int, budget: int
) -> MemoryPlan:
    """Predict what a fine-tuning of a model holds, whatever its data are.

    The graphs are made and measured; nothing is written and nothing computed. As many layers keep
    their insides as the budget has room for. Every row of an embedding is taken to train: where
    fewer tokens occur, it is less.

    Args:
        source: The model, and how it trains. Its tensors may be all zeros.
        engine: Name of the engine.
        rows: Rows whose gradients are computed at once.
        tokens: Tokens in each of them.
        budget: Bytes that training may take.

    Raises:
        ModelError: The model cannot be traced or differentiated.
    """
    export = find_engine(engine)
    graphs = export.graphs(source)
    shapes = [source.tensors[name].shape for name in graphs.trainable]
    needs = Needs(export.spec(graphs), source.optimizer, graphs.footprint(), shapes)
    least = LIBRARIES + needs.least(rows, tokens, in_parts=False)
    return needs.filled(least, rows, tokens, budget=budget)
