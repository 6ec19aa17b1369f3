"""The nodes of a cluster by shape: those it has, and those it can grow to."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

SCORER_CPUS = 0.001
"""Enough to keep one core of a GPU node free of decoding, and so little that Ray Data, which keeps cores for
actors that may come, keeps none."""
UNBOUNDED = 10**6
"""Nobody means so many nodes of a kind: Kubernetes has 2**31 - 1 where no maximum is set."""


class Node(NamedTuple):
    """The shape of a node."""

    cpus: float
    gpus: float

    @classmethod
    def of(cls, resources: Mapping[str, float]) -> "Node":
        return cls(float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))

    def num_scorers(self, gpus_each: float) -> int:
        """Scoring actors that its GPUs hold."""
        return int(self.gpus / gpus_each + 1e-6) if gpus_each else 0


@dataclass(frozen=True, slots=True)
class Capacity:
    """The nodes of a cluster by shape: those it has, and those at its largest, if it says so."""

    nodes: Counter[Node]
    largest: Counter[Node] | None = None
    """None where it does not say, or sets no bound."""

    def num_workers(self) -> int:
        """Decoding workers, one a core, that it holds at its largest, as far as we know."""
        return max(sum(int(node.cpus) * n for node, n in nodes.items()) for nodes in self._known())

    def num_scorers(self, gpus_each: float) -> int:
        """Scoring actors that it holds at its largest, as far as we know."""
        return max(
            sum(node.num_scorers(gpus_each) * n for node, n in nodes.items()) for nodes in self._known()
        )

    def scorer_cpus(self, gpus_each: float) -> float:
        """Share of a core that a scorer reserves: SCORER_CPUS, or 0 where decoding needs all."""
        known = {node for nodes in self._known() for node in nodes}
        scoring = [node for node in known if node.num_scorers(gpus_each)]
        decoding = any(node.cpus >= 1 and not node.gpus for node in known)
        return SCORER_CPUS if decoding and scoring and all(node.cpus >= 1 for node in scoring) else 0.0

    def num_decoders(self, gpus_each: float) -> int:
        """Cores that decode while others score on its GPUs."""
        share = self.scorer_cpus(gpus_each)
        return sum(int(node.cpus - share * node.num_scorers(gpus_each)) * n for node, n in self.nodes.items())

    def _known(self) -> list[Counter[Node]]:
        return [self.nodes, self.largest or Counter()]
