"""All pieces together: a strategy's kernels around the user's model and optimizer."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager

from torch import nn
from torch.optim import Optimizer

from meshwright.cost import Kernels
from meshwright.numerics._allocator import allocator_applied
from meshwright.numerics._compilation import compilation_applied
from meshwright.numerics._matrix_library import matrix_library_applied
from meshwright.numerics._memory_format import memory_format_applied
from meshwright.numerics._optimizer_form import optimizer_form_applied
from meshwright.numerics._random import random_applied


@contextmanager
def kernels_applied(
    kernels: Kernels, *, model: nn.Module, optimizer: Optimizer | None = None, blocks: Sequence[str] = ()
) -> Generator[None]:
    """A context in which the user's model and optimizer compute the same by the kernels that the strategy chose.

    Enter it before the model is split between workers, and stay in it for the whole run.

    Args:
        kernels: what the strategy says.
        model: the user's model; its object, names and state dict stay.
        optimizer: the user's optimizer; its object stays.
        blocks: paths of the repeated blocks, for compiling.
    """
    with ExitStack() as stack:
        stack.enter_context(allocator_applied(kernels.allocator))
        stack.enter_context(matrix_library_applied(kernels.matrix_library))
        stack.enter_context(random_applied(kernels.random))
        stack.enter_context(memory_format_applied(kernels.memory_format, model=model, optimizer=optimizer))
        stack.enter_context(optimizer_form_applied(kernels.optimizer, model=model, optimizer=optimizer))
        if kernels.compiled:
            stack.enter_context(compilation_applied([model.get_submodule(path) for path in blocks] or [model]))
        yield
