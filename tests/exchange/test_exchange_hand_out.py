"""Parameters in the hands of their owners, and what all others use of them."""

import torch
import torch.distributed as dist

from meshwright.exchange import Wire
from meshwright.exchange._hand_out import EncodedHandOut

SHAPES = ((30, 20), (7,), (3, 4, 5), (600,))
OWNERS = (0, 1, 0, 1)


def _parameters() -> list[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(str(number), torch.randn(shape, generator=generator)) for number, shape in enumerate(SHAPES)]


def _changed(steps: int) -> dict[str, float]:
    """Owners add known numbers to their parameters: what all use, against what an exact hand-out gives."""
    wire = Wire()
    parameters, exact = _parameters(), _parameters()
    hand_out = EncodedHandOut(parameters, OWNERS, wire)
    generator = torch.Generator().manual_seed(2)
    for _ in range(steps):
        hand_out.begin()
        for (_, tensor), (_, truth), owner in zip(parameters, exact, OWNERS, strict=True):
            change = 0.01 * torch.randn(tensor.shape, generator=generator)
            truth.add_(change)
            if owner == wire.rank:
                tensor.add_(change)
        hand_out.run()
    owed = dict(hand_out.owed())
    used = torch.cat([tensor.flatten() for _, tensor in parameters])
    others = [torch.empty_like(used) for _ in range(wire.size)]
    dist.all_gather(others, used)
    wire.close()
    pairs = [
        (tensor, owed[f"owed.{name}"], truth) for (name, tensor), (_, truth) in zip(parameters, exact, strict=True)
    ]
    return {
        "apart": max((other - used).abs().max().item() for other in others),
        "lag": max((tensor - truth).abs().max().item() for tensor, _, truth in pairs),
        "lost": max((tensor + owed - truth).abs().max().item() for tensor, owed, truth in pairs),
    }


def test_all_use_the_same_and_lag_by_a_step_of_the_last_change(workers):
    """Changes of ±0.04 in steps of 0.08/255: the lag is half of one, however many changes there were."""
    for found in workers(2).run(_changed, 25):
        assert found["apart"] == 0.0
        assert 0.0 < found["lag"] < 0.08 / 255
        assert found["lost"] < 2e-6
