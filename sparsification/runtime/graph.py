"""ONNX graph with look-ups by tensor name and pattern matching, for rewrites.

A rewrite adds a node that computes the last tensor of a pattern, in place of the node that computed it. The other nodes
of the pattern stay until ``remove_unused`` removes those whose outputs are not used any more.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

_COMMUTATIVE = {"Add", "Mul"}


class Op:
    """A node in a pattern for ``Graph.match``.

    Args:
        op_types: the node's type, or several types separated by "|".
        inputs: its first inputs, in order; of Add and Mul in any order. Either the pattern of the node that computes an
            input, or a name for any tensor; a name that occurs twice stands for the same tensor.
        name: name for the node's first output.
        attributes: values that attributes of the node must have.
    """

    def __init__(self, op_types: str, *inputs: "Op | str", name: str = "", **attributes: object):
        self.op_types = op_types.split("|")
        self.inputs, self.name, self.attributes = inputs, name, attributes


@dataclass(frozen=True)
class Match:
    """The part of a graph that a pattern matches; ``match["x"]`` is the tensor that the pattern calls "x"."""

    tensors: dict[str, str] = field(default_factory=dict)  # in the graph, by the pattern's names
    nodes: tuple[NodeProto, ...] = ()  # the last one of the graph comes first

    def __getitem__(self, name: str) -> str:
        return self.tensors[name]

    def bind(self, name: str, tensor: str) -> "Match | None":
        """The match with one more tensor; None if the name stands for another one already."""
        if self.tensors.get(name, tensor) != tensor:
            return None
        return Match(self.tensors | {name: tensor}, self.nodes)


class Graph:
    """A model's graph, with look-ups that stay correct during rewrites.

    Args:
        model: its graph is changed in place by ``remove_unused``.
    """

    def __init__(self, model: onnx.ModelProto):
        self.model = model
        self.inputs = [value.name for value in model.graph.input]
        self.outputs = [value.name for value in model.graph.output]
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._arrays: dict[str, np.ndarray] = {}
        self.maker = {name: node for node in model.graph.node for name in node.output}
        self._users: dict[str, list[NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in set(node.input):
                self._users[name].append(node)

    def constant(self, name: str) -> np.ndarray | None:
        """A tensor's value, if it is an initializer or the output of a Constant node; else None."""
        if name not in self._arrays:
            tensor = self._initializers.get(name)
            node = self.maker.get(name)
            if node is not None and node.op_type == "Identity":  # one of two equal weights, of PyTorch's exporters
                return self.constant(node.input[0])
            if tensor is None and node is not None and node.op_type == "Constant":
                tensor = next((a.t for a in node.attribute if a.name == "value"), None)
            if tensor is None:
                return None
            self._arrays[name] = numpy_helper.to_array(tensor)
        return self._arrays[name]

    def scalar(self, name: str) -> np.generic | None:
        """A constant of one element, in its own type."""
        array = self.constant(name)
        return array.ravel()[0] if array is not None and array.size == 1 else None

    def producer(self, name: str, *op_types: str) -> NodeProto | None:
        """The node that computes a tensor, if it is of one of these types; else None."""
        node = self.maker.get(name)
        return node if node is not None and node.op_type in op_types else None

    def consumers(self, name: str, *op_types: str) -> list[NodeProto]:
        """The nodes that a tensor is an input of, of these types if any are given."""
        return [node for node in self._users[name] if not op_types or node.op_type in op_types]

    def single_consumer(self, name: str, *op_types: str) -> NodeProto | None:
        """The only node that a tensor is an input of, if it is of one of these types and the tensor is no output."""
        users = self._users[name]
        if len(users) != 1 or name in self.outputs or users[0].op_type not in op_types:
            return None
        return users[0]

    def other_input(self, node: NodeProto, name: str) -> str:
        """The other one of a node's two inputs."""
        return node.input[1] if node.input[0] == name else node.input[0]

    def match(self, tensor: str, *patterns: Op) -> Match | None:
        """Match the subgraph that computes a tensor.

        Args:
            tensor: output of the pattern's last node.
            patterns: alternatives; the first one that matches is returned.
        """
        found = (match for pattern in patterns for match in self._matches(tensor, pattern, Match()))
        return next(found, None)

    def _matches(self, tensor: str, pattern: Op | str, match: Match) -> Iterator[Match]:
        if isinstance(pattern, str):
            bound = match.bind(pattern, tensor)
            if bound is not None:
                yield bound
            return
        node = self.producer(tensor, *pattern.op_types)
        if node is None or len(node.input) < len(pattern.inputs):
            return
        if any(attribute(node, key) != value for key, value in pattern.attributes.items()):
            return
        named = match.bind(pattern.name, tensor) if pattern.name else match
        if named is None:
            return
        orders = [list(node.input)]
        if node.op_type in _COMMUTATIVE and len(pattern.inputs) == 2:
            orders.append(orders[0][::-1])
        for order in orders:
            matches = [Match(named.tensors, (*named.nodes, node))]
            for used, inner in zip(order, pattern.inputs, strict=False):
                matches = [longer for shorter in matches for longer in self._matches(used, inner, shorter)]
            yield from matches

    def is_used_only_in(self, match: Match, *tensors: str) -> bool:
        """Whether these tensors, and those between the nodes of a match, are inputs of its nodes only."""
        inside = {id(node) for node in match.nodes}
        between = (name for node in match.nodes[1:] for name in node.output)
        return all(
            name not in self.outputs and all(id(user) in inside for user in self._users[name])
            for name in (*between, *tensors)
        )

    def add_constant(self, name: str, array: np.ndarray) -> str:
        """Add an initializer; returns its name, with a number appended if the given one exists already."""
        taken, number = name, 1
        while name in self._initializers or name in self.maker:
            name, number = f"{taken}.{number}", number + 1
        self._initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def add_node(self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", /, **attributes):
        """Add a node, which computes its outputs in place of the nodes that have computed them so far."""
        node = onnx.helper.make_node(op_type, inputs, outputs, name=f"{outputs[0]}/{op_type}", domain=domain)
        node.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in attributes.items())
        for name in outputs:
            old = self.maker.get(name)
            if old is not None:
                for used in set(old.input):
                    self._users[used] = [user for user in self._users[used] if user is not old]
            self.maker[name] = node
        for name in set(inputs):
            self._users[name].append(node)
        return node

    def remove_unused(self, outputs: Iterable[str] | None = None) -> None:
        """Write the nodes and initializers that the outputs depend on into the model, in topological order.

        Args:
            outputs: names of tensors, in place of the graph's outputs.
        """
        nodes: list[NodeProto] = []
        done: set[str] = set()
        # Depth first, without recursion: a deep model has thousands of nodes in a row.
        stack = [(name, False) for name in reversed(list(self.outputs if outputs is None else outputs))]
        while stack:
            name, entered = stack.pop()
            node = self.maker.get(name)
            if node is None or (name in done and not entered):
                continue
            if entered:
                nodes.append(node)
                continue
            done.update(node.output)
            stack.append((name, True))
            stack.extend((used, False) for used in reversed(node.input))
        graph = self.model.graph
        del graph.node[:]
        graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input} | set(self.outputs)
        kept = [tensor for name, tensor in self._initializers.items() if name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        del graph.value_info[:]


def attribute(node: NodeProto, name: str) -> object:
    """The value of a node's attribute; None if it is not set."""
    return next((onnx.helper.get_attribute_value(one) for one in node.attribute if one.name == name), None)
