"""What torch's fake kernels leave out: a product they refuse, and a workspace they do not know."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

_FEW_STEPS = (2, 4)
_SHORT = 2**16


def run_kernel(func: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Calls an operation; on fake tensors with the results that a real kernel would have."""
    if func is torch.ops.aten._grouped_mm.default and isinstance(args[0], FakeTensor):
        return _grouped_product(args[0], args[1], args[2] if len(args) > 2 else kwargs.get("offs"))
    out = func(*args, **kwargs)
    if func is torch.ops.aten.mkldnn_rnn_layer.default and isinstance(args[0], FakeTensor):
        return (*out[:3], args[0].new_empty(_workspace(args), dtype=torch.uint8))
    return out


def _grouped_product(left: Tensor, right: Tensor, offsets: Tensor | None) -> Tensor:
    """The result of a grouped product, which torch's own shape rule refuses for float32.

    Legend: T = rows of all groups, G = groups. `T inner` times `G inner columns` gives `T columns`; `rows T` times
    `T columns` gives `G rows columns`; `G rows inner` times `G inner columns` gives `G rows columns`.
    """
    rows, columns = left.shape[-2], right.shape[-1]
    if left.ndim != right.ndim:
        return left.new_empty((rows, columns))
    groups = left.shape[0] if left.ndim == 3 or offsets is None else offsets.shape[0]
    return left.new_empty((groups, rows, columns))


def _workspace(args: Sequence[Any]) -> int:
    """What oneDNN's recurrent layer keeps for its backward besides its results (B).

    Its size is oneDNN's own affair, so a real call tells; of sequences with more than 65536 elements, the line through
    two calls with 2 and 4 steps. Its five parts or so are rounded up to pages of 4 KiB, half of which the line counts
    at every step: 10 KiB, beside over a hundred of a step of that size.
    """
    steps = args[0].shape[0]
    few, more = _FEW_STEPS
    with _disable_current_modes(), torch.enable_grad(), _one_thread():  # without gradients it keeps nothing
        if args[0].numel() <= _SHORT or steps <= more:
            return _layer_workspace(args, steps)
        start, end = _layer_workspace(args, few), _layer_workspace(args, more)
    return round(start + (end - start) / (more - few) * (steps - few))


@contextmanager
def _one_thread() -> Iterator[None]:
    """While a small call does not wait for threads that other processes keep from running."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _layer_workspace(args: Sequence[Any], steps: int) -> int:
    sequence = torch.zeros(steps, *args[0].shape[1:], dtype=args[0].dtype)
    others = (
        torch.zeros(tuple(value.shape), dtype=value.dtype) if isinstance(value, Tensor) else value for value in args[1:]
    )
    return torch.ops.aten.mkldnn_rnn_layer(sequence, *others)[3].nbytes
