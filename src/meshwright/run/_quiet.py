"""A model without its random operations, so that two programs can be compared number by number."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def random_operations_off(model: nn.Module) -> Iterator[None]:
    """A context in which dropout and its kin do nothing: every module is in evaluation mode but those that must not be.

    Batch normalisation stays as it was, because its statistics are part of what is compared; recurrent layers too
    (cuDNN computes their gradient in training mode only), with their own dropout off.

    Args:
        model: in training mode.
    """
    stay = (nn.modules.batchnorm._BatchNorm, nn.RNNBase)
    modes = [(module, module.training) for module in model.modules()]
    rates = [(module, module.dropout) for module in model.modules() if isinstance(module, nn.RNNBase)]
    try:
        for module, _ in modes:
            if not isinstance(module, stay):
                module.training = False
        for module, _ in rates:
            module.dropout = 0.0
        yield
    finally:
        for module, training in modes:
            module.training = training
        for module, rate in rates:
            module.dropout = rate


@contextmanager
def draws_noticed(device: torch.device) -> Iterator[list[bool]]:
    """Notices whether random numbers are drawn: the list that it gives holds the answer afterwards.

    Args:
        device: where the model is.
    """
    answer: list[bool] = []
    before = _states(device)
    yield answer
    answer.append(any(not torch.equal(old, new) for old, new in zip(before, _states(device), strict=True)))


def _states(device: torch.device) -> list[torch.Tensor]:
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state(device))
    return states
