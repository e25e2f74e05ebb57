"""What is behind a tensor of an ONNX graph? Constants, makers and users by name, and patterns to walk along.

A rewrite adds a node that makes the tensor which a pattern ends in, takes the old maker out, and leaves the rest of the
pattern to ``remove_unused``: what nobody uses any more goes, and what somebody does stays.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper


class Graph:
    """A model's graph, with look-ups that rewrites keep right.

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
        """A tensor's value, if it is the same in every run."""
        if name not in self._arrays:
            tensor = self._initializers.get(name)
            node = self.maker.get(name)
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
        """The node that makes a tensor, if it is of one of these types."""
        node = self.maker.get(name)
        return node if node is not None and node.op_type in op_types else None

    def consumers(self, name: str, *op_types: str) -> list[NodeProto]:
        """The nodes that a tensor goes into, of these types if any are named."""
        return [node for node in self._users[name] if not op_types or node.op_type in op_types]

    def single_consumer(self, name: str, *op_types: str) -> NodeProto | None:
        """The node of one of these types that alone a tensor goes into."""
        users = self._users[name]
        if len(users) != 1 or name in self.outputs or users[0].op_type not in op_types:
            return None
        return users[0]

    def other_input(self, node: NodeProto, name: str) -> str:
        """Of a node of two inputs, the one that is not this."""
        return node.input[1] if node.input[0] == name else node.input[0]

    def split_constant(self, node: NodeProto) -> tuple[str, np.ndarray] | None:
        """Of a node of two inputs, the one that varies and the value of the one that does not."""
        for varies, fixed in (node.input, reversed(node.input)):
            array = self.constant(fixed)
            if array is not None:
                return varies, array
        return None

    def add_constant(self, name: str, array: np.ndarray) -> str:
        """A new initializer; gives its name, which has a number if it was taken."""
        taken, number = name, 1
        while name in self._initializers or name in self.maker:
            name, number = f"{taken}.{number}", number + 1
        self._initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def add_node(self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", /, **attributes):
        """A new node; who has made its outputs until now does not any more."""
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
        """Write into the model what its outputs need, each node after those that it needs, and nothing else.

        Args:
            outputs: other names than the graph's.
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
