"""An encoder's graph with room for changes: what a linear module gives, plus what each row's own LoRA adds to it.

Each row of a run has a slot; its matrices are gathered from tables that stay where they are, and multiplied row by row.
So rows of different models share all of the base's work (the idea of S-LoRA, arXiv 2311.03285, and Punica, 2310.18547,
here with OpenVINO's own operations).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openvino import PartialShape, Type
from openvino import opset13 as ops

from feilun.errors import ArtifactError
from feilun.models.apart import Kind
from feilun.models.tables import places

LINEAR = "linear:"  # how the name of a linear module's product begins, in a base's graph
SLOT = "slot"  # the input that says which slot a row has, (N,), int64


def sizes_of(model: Any) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of the linear modules that can be changed, by name."""
    found = {}
    for operation in model.get_ops():
        name = operation.get_friendly_name()
        if name.startswith(LINEAR):
            inside, outside = (shape[-1] for shape in (_shape(operation.input(0)), _shape(operation.output(0))))
            found[name.removeprefix(LINEAR)] = (inside.get_length(), outside.get_length())
    return found


def with_room(model: Any, modules: Sequence[str]) -> Any:
    """The graph, changed in place: it has an input ``slot`` and tables (see ``tables.Table``), of whatever rank.

    Raises:
        ArtifactError: the base has no such module.
    """
    sizes = sizes_of(model)
    unknown = sorted(set(modules) - sizes.keys())
    if unknown:
        raise ArtifactError(f"the adapter is for another model: {', '.join(unknown[:3])}")
    kind = Kind(tuple(modules), 0)
    products = {
        operation.get_friendly_name().removeprefix(LINEAR): operation
        for operation in model.get_ops()
        if operation.get_friendly_name().startswith(LINEAR)
    }
    down, up = places(kind, sizes)
    slot = ops.parameter(PartialShape([-1]), Type.i64, name=SLOT)
    downs = {w: ops.parameter(PartialShape([-1, w, -1]), Type.f32, name=f"down_{w}") for w in down}
    ups = {w: ops.parameter(PartialShape([-1, -1, w]), Type.f32, name=f"up_{w}") for w in up}
    inputs = [slot, *downs.values(), *ups.values()]
    for parameter in inputs:
        parameter.output(0).get_tensor().set_names({parameter.get_friendly_name()})
    for module in modules:
        inside, outside = sizes[module]
        first = _own(downs[inside], slot, down[inside].index(module), len(down[inside]))
        second = _own(ups[outside], slot, up[outside].index(module), len(up[outside]))
        end = _end(products[module])
        readers = list(end.output(0).get_target_inputs())
        narrow = ops.matmul(products[module].input_value(0), first, False, False)
        changed = ops.add(end, ops.matmul(narrow, second, False, False))
        for reader in readers:
            reader.replace_source_output(changed.output(0))
    model.add_parameters(inputs)
    model.validate_nodes_and_infer_types()
    return model


def _own(table: Any, slot: Any, place: int, count: int) -> Any:
    """Each row's own matrix, (N, ., .)."""
    zero = ops.constant(0, Type.i64)
    index = ops.add(ops.multiply(slot, ops.constant(count, Type.i64)), ops.constant(place, Type.i64))
    return ops.gather(table, index, zero)


def _end(product: Any) -> Any:
    """The product, or the sum with its bias, which the engine makes one with it."""
    readers = list(product.output(0).get_target_inputs())
    node = readers[0].get_node() if len(readers) == 1 else product
    if node.get_type_name() == "Add" and len(_shape(node.output(0))) == len(_shape(product.output(0))):
        other = node.input_value(1 - readers[0].get_index()).get_node()
        if not _reads_inputs(other):
            return node
    return product


def _reads_inputs(node: Any) -> bool:
    """Whether a node is more than a constant, converted perhaps."""
    if node.get_type_name() == "Constant":
        return False
    return node.get_type_name() != "Convert" or _reads_inputs(node.input_value(0).get_node())


def _shape(port: Any) -> Any:
    return port.get_partial_shape()
