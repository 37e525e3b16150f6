"""`torch.compile` on the repeated blocks, or on the whole model where nothing repeats."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import nn


def compilation_applied(modules: Sequence[nn.Module]) -> AbstractContextManager[None]:
    """A context in which calls of these modules run compiled code, made at the first call.

    Blocks of one class share their code, so compiling the blocks costs the time of one. Parameters, names and the
    module objects stay as they are.
    """
    return _compiled(modules) if modules else nullcontext()


@contextmanager
def _compiled(modules: Sequence[nn.Module]) -> Generator[None]:
    written = [(module, module._compiled_call_impl) for module in modules]
    for module in modules:
        module.compile()
    try:
        yield
    finally:
        for module, call in written:
            module._compiled_call_impl = call
