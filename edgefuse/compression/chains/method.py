"""Matrix product operators as a method of compression.

`edgefuse compress --help` reads its options: what computes is imported when it is called.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgefuse.compression.chains.paper import NAME, PAPER
from edgefuse.compression.method import Method, Plan
from edgefuse_devices.options import option

if TYPE_CHECKING:
    from edgefuse.hub.source import ModelSource


@dataclass(frozen=True)
class Mpo(Method):
    """Matrices become chains of five tensors, of which a way of tuning trains the small ones.

    Attributes:
        matrices: Kinds of matrices, of `mlp`, `attention` and `embeddings`.
        bond: The largest bond to keep.
        budget: Part of the matrices' parameters to keep, all together, at the least error.
        max_error: The largest ‖W − MPO‖ / ‖W‖ of each matrix; 0 cuts nothing.
        share_central: Whether experts of a layer have one central tensor.
    """

    name = NAME
    summary = "any matrix as a chain of small tensors"
    paper = PAPER

    matrices: tuple[str, ...] = option(
        ("mlp", "attention"),
        help="mpo: which matrices, of mlp, attention and embeddings.",
        shown="mlp,attention",
    )
    bond: int | None = option(None, help="mpo: no bond above it.", shown="")
    budget: float | None = option(
        None, help="mpo: part of the matrices' parameters to keep, at the least error.", shown=""
    )
    max_error: float | None = option(
        None, help="mpo: relative error of each matrix at most; 0 loses nothing.", shown=""
    )
    share_central: bool = option(
        default=False,
        help="mpo: experts of a layer share a central tensor; squeeze refuses such models.",
        shown="",
    )

    def plan(self, source: "ModelSource", *, seed: int) -> Plan:  # noqa: ARG002 - nothing is drawn
        """Plan which matrices become chains, and how far bonds are cut."""
        from edgefuse.compression.chains.limit import Limit
        from edgefuse.compression.chains.mpo_plan import plan_mpo
        from edgefuse.mlps.matrices import parse_kinds

        return plan_mpo(
            source,
            kinds=parse_kinds(",".join(self.matrices)),
            limit=Limit(bond=self.bond, budget=self.budget, max_error=self.max_error),
            shares_central=self.share_central,
        )
