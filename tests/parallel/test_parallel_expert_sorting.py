"""Tokens sorted by expert as one node: the same loss, by any number of rows, or refused where rows depend on others."""

import pytest
import torch
from torch.fx import GraphModule

from meshwright.errors import PlanError
from meshwright.parallel.expert import check_alone, folded, unfolded
from meshwright.parallel.program import capture_program
from meshwright.parallel.tensor import ByRow
from zoo import zoo_model


def _program():
    torch.manual_seed(0)
    model, loss, batch = zoo_model("mixtral").make()
    return capture_program(model, loss, batch), batch


def test_folded_and_unfolded_programs_give_the_same_loss():
    program, batch = _program()
    once, again = folded(program), unfolded(folded(program))
    pieces = [node.target for node in once.nodes if isinstance(node.target, ByRow)]
    assert [piece.rows.count(False) for piece in pieces] == [2, 2]
    assert not any("sort" in node.name and not isinstance(node.target, ByRow) for node in once.nodes)
    assert {node.name.split("_")[0] for node in again.nodes} == {node.name.split("_")[0] for node in program.nodes}
    for other in (once, again):
        torch.testing.assert_close(other(batch), program(batch), rtol=0, atol=0)


def test_some_of_the_tokens_give_some_of_the_outputs():
    program, _ = _program()
    node = next(node for node in folded(program).nodes if isinstance(node.target, ByRow))
    rows, arguments = node.target.rows, []
    for operand, has_rows in zip(node.args, rows, strict=True):
        value = operand.meta["val"]
        whole = torch.randn(*value.shape).double() if value.is_floating_point() else torch.randint(4, value.shape)
        arguments.append((whole, has_rows))
    whole = node.target(*(value for value, _ in arguments))
    first = node.target(*(value[: len(value) // 4] if has_rows else value for value, has_rows in arguments))
    torch.testing.assert_close(first, whole[: len(whole) // 4])


def test_rows_that_are_counted_for_something_else_are_not_sorted_apart():
    program, _ = _program()
    graph = program.graph_module.graph
    counts = next(node for node in graph.nodes if "histc" in node.name)
    output = next(node for node in graph.nodes if node.op == "output")
    with graph.inserting_before(output):
        fraction = graph.call_function(torch.ops.aten.sum.default, (counts,))
        fraction.meta.update(output.meta | {"val": counts.meta["val"].sum()})
        loss = output.args[0][0]
        changed = graph.call_function(torch.ops.aten.add.Tensor, (loss, fraction))
        changed.meta.update(loss.meta)
    output.args = ((changed, *output.args[0][1:]),)
    program.graph_module.recompile()
    assert isinstance(program.graph_module, GraphModule)
    with pytest.raises(PlanError, match=r"model\.layers\.0\.mlp\.experts cannot be sorted apart"):
        check_alone(program)
