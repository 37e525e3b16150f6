r"""A pipeline that is never emptied: each stage has micro-batches of earlier steps under way when a step begins.

In every step a stage forwards the step's m micro-batches, and computes backwards of the m that follow its last one:
stage s of n is d = n - 1 - s micro-batches ahead. Numbers count from the step's first micro-batch; those of earlier
steps are negative. The gradient of a step's micro-batches is whole on stage s once $\lceil d / m \rceil$ more steps are
done, and then it updates parameters that have been updated as often since; the last stage's is never late. What a
micro-batch was forwarded with is kept for its backward.

Source: Narayanan et al., PipeDream (2019), section 3.3, weight stashing with vertical sync; Narayanan et al.,
Memory-Efficient Pipeline-Parallel DNN Training (2021), for updates once per group of micro-batches.
"""

from meshwright.cost._schedule import Action


def delay(stage: int, *, num_stages: int, num_micro_batches: int) -> int:
    """Steps by which a stage's gradients come late."""
    return -(-(num_stages - 1 - stage) // num_micro_batches)


def delays(num_stages: int, num_micro_batches: int) -> tuple[int, ...]:
    """The same for every stage."""
    return tuple(
        delay(stage, num_stages=num_stages, num_micro_batches=num_micro_batches) for stage in range(num_stages)
    )


def flowing_orders(num_stages: int, num_micro_batches: int, *, oldest: int) -> tuple[tuple[Action, ...], ...]:
    """What each worker does in a step; stage `i` belongs to worker `i`.

    Args:
        oldest: of the micro-batches that there have been since the pipeline was empty; 0 or less.
    """
    return tuple(_order(stage, num_stages - 1 - stage, num_micro_batches, oldest) for stage in range(num_stages))


def draining_orders(
    num_stages: int, num_micro_batches: int, *, oldest: int, end: int
) -> tuple[tuple[Action, ...], ...]:
    """The same of a step without micro-batches of its own, which empties the pipeline by that much.

    Args:
        oldest: of the micro-batches that there have been since the pipeline was empty.
        end: the first number after theirs; 0 or less.
    """
    return tuple(
        tuple(action for action in actions if action.work == "backward" and action.micro_batch < end)
        for actions in flowing_orders(num_stages, num_micro_batches, oldest=oldest)
    )


def _order(stage: int, ahead: int, num_micro_batches: int, oldest: int) -> tuple[Action, ...]:
    found = []
    for number in range(num_micro_batches):
        found.append(Action(work="forward", stage=stage, micro_batch=number))
        if number - ahead >= oldest:
            found.append(Action(work="backward", stage=stage, micro_batch=number - ahead))
    return tuple(found)
