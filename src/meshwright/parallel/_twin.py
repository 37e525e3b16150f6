"""What an optimizer would do: tried on small tensors, not looked up by name."""

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def stepped_twin(
    optimizer: Optimizer, settings: dict[str, Any], values: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]]
) -> list[Tensor]:
    """Steps of a twin of the optimizer, which shares nothing with it but its class and settings.

    Args:
        optimizer: the user's, which stays as it is.
        settings: of one of its groups.
        values: what is stepped.
        gradients: of each step, one per value.
    """
    twin = copy.copy(optimizer)
    parameters = [nn.Parameter(value.clone(memory_format=torch.contiguous_format)) for value in values]
    twin.state = defaultdict(dict)
    twin._optimizer_step_pre_hooks, twin._optimizer_step_post_hooks = OrderedDict(), OrderedDict()
    twin.param_groups = [settings | {"params": parameters}]
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient if gradient.is_sparse else gradient.contiguous()
        # of the class: a scheduler has bound the instance's to the user's optimizer
        type(twin).step(twin)  # pyrefly: ignore[missing-argument]
    return [parameter.detach() for parameter in parameters]
