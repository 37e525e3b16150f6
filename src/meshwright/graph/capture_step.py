"""One training step of a copy of a model, watched: loss, backward, and what they leave."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from meshwright.errors import CaptureError, LossError
from meshwright.graph.capture_batch import batch_bytes, batch_size, leaves
from meshwright.graph.capture_lifetimes import Ledger
from meshwright.graph.capture_recorder import Recorder, sums_once, watched
from meshwright.graph.capture_recording import Recording
from meshwright.graph.capture_replay import BlockRunner

LossFunction = Callable[[nn.Module, Any], Any]


def record_step(
    model: nn.Module,
    loss: LossFunction,
    batch: Any,
    *,
    groups: Sequence[Sequence[str]] = (),
    mode: FakeTensorMode | None = None,
) -> Recording:
    """Runs forward and backward once and writes down what they did.

    Args:
        model: a copy that belongs to the capture; its gradients are lost.
        loss: the user's.
        batch: for this copy: fake where the model is.
        groups: paths of equal modules, to be captured once.
        mode: the mode that the copy was made in; None where it is real.

    Raises:
        LossError: the loss is no scalar, or does not depend on the model.
    """
    model.zero_grad(set_to_none=True)
    inputs = [leaf for _, leaf in leaves(batch) if isinstance(leaf, Tensor)]
    ledger = Ledger([*model.parameters(), *model.buffers(), *inputs])
    recorder = Recorder(ledger)
    runner = BlockRunner(model, groups, recorder)
    with nullcontext() if mode is None else mode, _watching(model, recorder, runner):
        weighted = _step(model, loss, batch, runner, ledger)
    gradients = [ledger.of(parameter.grad) for parameter in model.parameters() if parameter.grad is not None]
    if not gradients:
        raise _unused_model(model)
    ledger.close()
    model.zero_grad(set_to_none=True)
    return Recording(
        examples=batch_size(batch),
        calls=sums_once(recorder.calls),
        allocations=tuple(ledger.allocations),
        events=tuple(ledger.events),
        gradients=tuple(entry for entry in gradients if entry is not None),
        blocks=tuple(runner.first_instances),
        weighted=weighted,
        batch_bytes=batch_bytes(batch),
        traits=frozenset(recorder.traits),
    )


@contextmanager
def _watching(model: nn.Module, recorder: Recorder, runner: BlockRunner) -> Iterator[None]:
    """While every operation and every saved tensor is written down, in eager mode, on one thread."""
    with (
        torch.enable_grad(),
        torch.compiler.set_stance("force_eager"),
        torch.autograd.set_multithreading_enabled(False),  # autograd numbers its nodes by thread
        watched(model, recorder, runner),
        recorder,
        torch.autograd.graph.saved_tensors_hooks(recorder.pack, lambda tensor: tensor),
    ):
        yield


def _step(model: nn.Module, loss: LossFunction, batch: Any, runner: BlockRunner, ledger: Ledger) -> bool:
    """Forward and backward; gives whether the loss came with a weight."""
    result = loss(model, batch)
    weighted = isinstance(result, tuple)
    total = checked_loss(result)
    del result
    runner.forget_inputs()
    ledger.begin_backward(total)
    _differentiate(total, [parameter for parameter in model.parameters() if parameter.requires_grad])
    return weighted


def checked_loss(result: Any) -> Tensor:
    """The scalar to differentiate: the loss, or the total of `(total, weight)`.

    Raises:
        LossError: it is no tensor, no scalar, or depends on no trainable parameter.
    """
    ways = ("return the mean over the examples, for example loss.mean()", "return (total, weight) when examples weigh")
    value = result
    if isinstance(result, tuple):
        if len(result) != 2:
            raise LossError(
                f"the loss is a tuple of {len(result)}; a scalar or (total, weight) is needed", alternatives=ways
            )
        value = result[0]
    if not isinstance(value, Tensor):
        hint = ["return its .loss"] if hasattr(value, "loss") else list(ways)
        raise LossError(f"the loss is of type {type(value).__name__}, not a tensor", alternatives=hint)
    if value.numel() != 1:
        raise LossError(
            f"the loss has shape {list(value.shape)}, not that of a scalar",
            cause="a step minimizes one number",
            alternatives=ways,
        )
    if not value.requires_grad:
        raise LossError(
            "the loss has no gradient",
            cause="it depends on no trainable parameter of the model that the loss function is given",
            alternatives=[
                "compute it from the function's first argument",
                "leave out detach(), item() and torch.no_grad()",
                "set requires_grad on what is to be trained",
            ],
        )
    return value


def _differentiate(total: Tensor, parameters: list[nn.Parameter]) -> None:
    """Backward into the copy's parameters and nothing else.

    Where the loss reaches other leaves (another model of the user's), these are left out; else `inputs` is not given,
    which reentrant checkpointing would refuse.
    """
    own = {id(parameter) for parameter in parameters}
    if all(id(leaf) in own for leaf in _graph_leaves(total)):
        total.backward()
    else:
        total.backward(inputs=parameters)


def _graph_leaves(total: Tensor) -> Iterator[Tensor]:
    """Every leaf that a backward would give a gradient to."""
    pending, seen = [total.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        pending.extend(following for following, _ in node.next_functions)


def _unused_model(model: nn.Module) -> CaptureError:
    return CaptureError(
        f"no parameter of {type(model).__name__} gets a gradient from the loss",
        cause="the loss function uses another model than the one it is given",
        alternatives=["write loss(model, batch) so that it calls its first argument"],
    )
