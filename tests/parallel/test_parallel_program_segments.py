"""A program's blocks as modules: equal, checkpointed, compiled by block, and sharded."""

from functools import partial

import torch
from program_steps import step
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from meshwright.parallel.program import Program, capture_program, segment


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.linear = nn.Linear(8, 8)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor, mask: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        y = nn.functional.dropout(self.linear(self.norm(x)) * mask, 0.5)
        return x + y @ table.T @ table, y.mean()


class Model(nn.Module):
    """Two blocks and a shared third one called twice; the embedding is read by every block."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 8)
        self.layers = nn.ModuleList(Block() for _ in range(2))
        self.shared = Block()

    def forward(self, tokens: Tensor) -> Tensor:
        x, mask, means = self.embedding(tokens), (tokens > 0)[..., None], []
        for layer in (*self.layers, self.shared, self.shared):
            x, mean = layer(x, mask, self.embedding.weight)
            means.append(mean)
        return (x @ self.embedding.weight.T).square().mean() + sum(means)


BLOCKS = ("layers.0", "layers.1", "shared")


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch)


def segmented() -> tuple[Model, Program, Tensor]:
    torch.manual_seed(0)
    model, batch = Model(), torch.randint(5, (8, 4))
    return model, segment(capture_program(model, loss, batch), BLOCKS), batch


def test_every_call_of_a_block_is_a_child_with_its_own_parameters() -> None:
    model, program, batch = segmented()
    children = [str(node.target) for node in program.nodes if node.op == "call_module"]
    assert children == ["layers.0", "layers.1", "shared", "shared_call_1"]
    first = program.graph_module.get_submodule("layers.0")
    assert {name for name, _ in first.named_parameters()} == {
        "norm.weight", "norm.bias", "linear.weight", "linear.bias",
    }  # fmt: skip
    assert dict(program.graph_module.named_parameters()).keys() == dict(model.named_parameters()).keys()
    assert first.get_parameter("linear.weight") is model.layers[0].linear.weight
    torch.testing.assert_close(step(model, partial(program, batch)), step(model, partial(loss, model, batch)))


def test_a_checkpointed_child_computes_the_same() -> None:
    model, program, batch = segmented()
    expected = step(model, partial(program, batch))
    for name in ("layers.0", "layers.1"):
        child = program.graph_module.get_submodule(name)
        child.forward = partial(checkpoint, child.forward, use_reentrant=False)
    found = step(model, partial(program, batch))
    for name in ("layers.0", "layers.1"):
        assert float(found.pop(f"buffer {name}.calls")) == 2 * float(expected.pop(f"buffer {name}.calls"))
    torch.testing.assert_close(found, expected)


def sharded() -> list[dict[str, Tensor]]:
    model, program, batch = segmented()
    expected = step(model, partial(program, batch))
    for name in ("layers.0", "layers.1"):
        fully_shard(program.graph_module.get_submodule(name))
    fully_shard(program.graph_module)
    program.graph_module.zero_grad()
    torch.manual_seed(0)
    program(batch).backward()
    gradients = {
        f"gradient {name}": parameter.grad.full_tensor()
        for name, parameter in program.graph_module.named_parameters()
        if isinstance(parameter.grad, DTensor)
    }
    return [gradients, {name: value for name, value in expected.items() if name.startswith("gradient")}]


def test_sharded_children_compute_the_same(workers) -> None:
    for found, expected in workers(2).run(sharded):
        torch.testing.assert_close(found, expected)
