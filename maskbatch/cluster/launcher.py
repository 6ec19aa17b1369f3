"""The node types of a Ray cluster launcher file, and what each costs an hour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from maskbatch.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeType:
    """One of `available_node_types`; its nodes include the head."""

    name: str
    instance: str | None
    """Its InstanceType, where the provider has one."""
    num_cpus: int
    num_gpus: int
    min_nodes: int
    max_nodes: int


def read_nodes(path: Path) -> list[NodeType]:
    """The node types of a cluster file. Raises UsageError where a size or bound is missing."""
    where = f"--cluster {path}"
    try:
        cluster = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{where}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    types = cluster.get("available_node_types") if isinstance(cluster, dict) else None
    if not isinstance(types, dict) or not types:
        raise UsageError(f"{where}: no available_node_types; a file of Ray's cluster launcher expected")
    head = cluster.get("head_node_type")
    if head not in list(types):  # of a list, `head` need not be hashable
        known = ", ".join(map(str, types))
        raise UsageError(f"{where}: head_node_type {head!r}, one of its types expected: {known}")
    nodes = [_parse_type(where, str(name), values, is_head=name == head) for name, values in types.items()]
    if not any(node.num_cpus * node.max_nodes for node in nodes):
        raise UsageError(f"{where}: its nodes have no CPU between them; nothing could decode")
    workers = sum(node.max_nodes for node in nodes) - 1
    most = _parse_count(where, {"max_workers": workers, **cluster}, "max_workers")
    if most < workers:
        message = f"its max_workers {most} is less than the {workers} of its node types together"
        raise UsageError(f"{where}: {message}; lower theirs, so that it is known which of them start")
    return nodes


def _parse_type(where: str, name: str, values: Any, *, is_head: bool) -> NodeType:
    where = f"{where}: node type {name}"
    values = values if isinstance(values, dict) else {}
    resources = values.get("resources")
    if not isinstance(resources, dict) or "CPU" not in resources:
        remedy = "write what a node has, as resources: {CPU: 16, GPU: 1}"
        raise UsageError(f"{where} has no resources; {remedy}")
    if "max_workers" not in values and not is_head:
        raise UsageError(f"{where} has no max_workers; write how many nodes there may be")
    config = values.get("node_config")
    instance = config.get("InstanceType") if isinstance(config, dict) else None
    node = NodeType(
        name=name,
        instance=str(instance) if instance else None,
        num_cpus=_parse_count(where, resources, "CPU"),
        num_gpus=_parse_count(where, resources, "GPU"),
        min_nodes=_parse_count(where, values, "min_workers") + is_head,
        max_nodes=_parse_count(where, values, "max_workers") + is_head,
    )
    if node.min_nodes > node.max_nodes:
        raise UsageError(f"{where}: min_workers is more than max_workers; swap them")
    return node


def _parse_count(where: str, values: Mapping[str, Any], name: str) -> int:
    value = values.get(name, 0)
    if type(value) is not int or value < 0:
        raise UsageError(f"{where}: {name} {value!r}, a whole number of 0 or more expected")
    return value


def read_prices(given: Sequence[str], nodes: Sequence[NodeType]) -> dict[str, float]:
    """Price of an hour by node type's name, from `TYPE=PER_HOUR`. Raises UsageError for an unknown TYPE."""
    prices: dict[str, float] = {}
    for text in given:
        name, _, number = text.rpartition("=")
        matching = [node.name for node in nodes if name in (node.name, node.instance)]
        if not matching:
            known = ", ".join(dict.fromkeys(n for node in nodes for n in (node.name, node.instance) if n))
            raise UsageError(f"--price {text}: TYPE=PER_HOUR expected, TYPE one of {known}")
        prices.update(dict.fromkeys(matching, _parse_price(text, number)))
    return prices


def _parse_price(text: str, number: str) -> float:
    try:
        price = float(number)
    except ValueError:
        price = -1.0
    if not (isfinite(price) and price >= 0):
        raise UsageError(f"--price {text}: {number!r} is no price; a number expected, as cpu=0.71")
    return price
