"""What a worker holds of the optimizer's state: cut up as the parameters are."""

from collections.abc import Iterable, Iterator

from torch import Tensor
from torch.optim import Optimizer

from meshwright.errors import UsageError
from meshwright.parallel._parallelized import Held
from meshwright.parallel._pieces import Piece, local


def optimizer_pieces(optimizer: Optimizer, held: Iterable[Held]) -> list[Piece]:
    """The state's tensors, named `<number of the parameter>.<name>` as `Optimizer.state_dict` numbers them.

    A tensor of the shape of the parameter's part is a part of the state too; a scalar is the same on all workers.

    Args:
        optimizer: the user's.
        held: what this worker holds of the parameters.

    Raises:
        UsageError: state of another shape, of a parameter that is split: no part of it is known to be which.
    """
    items = {id(item.parameter): item for item in held}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [
        piece
        for number, parameter in enumerate(parameters)
        if id(parameter) in items
        for piece in _of_parameter(optimizer, number, items[id(parameter)])
    ]


def _of_parameter(optimizer: Optimizer, number: int, held: Held) -> Iterator[Piece]:
    for name, value in optimizer.state.get(held.parameter, {}).items():
        if not isinstance(value, Tensor):
            continue
        own, part = local(value.detach()), local(held.parameter.detach())
        if own.dim() and own.shape != part.shape and held.spans:
            raise UsageError(
                f"{type(optimizer).__name__} keeps {name} of shape {list(own.shape)} for a part of {held.name} of "
                f"shape {list(part.shape)}",
                cause="how the parts of such state make a whole is not known",
                alternatives=["step.save with an optimizer whose state has the shape of the parameter: AdamW, SGD, …"],
            )
        yield Piece(name=f"{number}.{name}", tensor=own, spans=held.spans if own.shape == part.shape else ())
