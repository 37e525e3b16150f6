"""How far the parallel program was from the one-device program."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """Distances between a plan's steps and the same steps on one device.

    A gradient that is zero in exact arithmetic (a key's bias) is noise on both sides, so a parameter's distance is
    taken relative to the norm of the whole gradient, not to its own.

    Args:
        equal: whether every distance is within the tolerance.
        steps: optimizer steps compared.
        dtype: data type of the comparison (`float32`).
        strategy: the plan's choices in a line.
        tolerance: largest relative distance of the gradient that counts as rounding.
        loss: largest |difference| / max(1, |reference|) over the steps.
        gradient: largest over the steps of ‖difference‖ / ‖reference‖ of the whole gradient.
        worst_gradient: name of the parameter whose gradient differs most.
        worst_gradient_distance: ‖its difference‖ / ‖whole reference gradient‖.
        parameters: ‖difference‖ / ‖way walked by the reference‖ over all parameters after the last step.
        parameter_tolerance: largest `parameters` that counts as rounding.
        worst_parameter: name of the parameter that differs most after the last step.
        worst_parameter_distance: ‖its difference‖ / ‖way walked by the reference‖.
        losses: the plan's, by step.
        reference_losses: the one-device program's, by step.
        notes: what was set aside for the comparison (random operations, …).
    """

    equal: bool
    steps: int
    dtype: str
    strategy: str
    tolerance: float
    loss: float
    gradient: float
    worst_gradient: str
    worst_gradient_distance: float
    parameters: float
    parameter_tolerance: float
    worst_parameter: str
    worst_parameter_distance: float
    losses: tuple[float, ...] = ()
    reference_losses: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
