"""When a bucket of gradients is complete: told during the backward, in an order that is the same on every worker."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from meshwright.errors import PlanError
from meshwright.exchange._buckets import Bucket


class BackwardSchedule:
    """Follows the backward through hooks on the parameters.

    Buckets are launched strictly one after another: a collective that started earlier here than elsewhere would meet
    another one's data. A bucket that waits for a gradient that never comes is launched at the end, and all after it.

    Args:
        parameters: names and tensors, all that need gradients.
        buckets: in the order in which they are launched.
        arrived: called with a parameter's number when its gradient has been added up.
        launch: called with a bucket's number when all its gradients are there.
    """

    def __init__(
        self,
        parameters: Sequence[tuple[str, Tensor]],
        buckets: Sequence[Bucket],
        *,
        arrived: Callable[[int], None],
        launch: Callable[[int], None],
    ) -> None:
        self._names = [name for name, _ in parameters]
        self._buckets = buckets
        self._arrived = arrived
        self._launch = launch
        self._bucket_of = {member: number for number, bucket in enumerate(buckets) for member in bucket.members}
        self._pending: list[int] = []
        self._launched = 0
        self._armed = False
        self.arrivals: dict[int, None] = {}
        self._hooks = [
            tensor.register_post_accumulate_grad_hook(partial(self._on_gradient, index))
            for index, (_, tensor) in enumerate(parameters)
        ]

    def arm(self) -> None:
        """The next backward is the last before the exchange: buckets may be launched while it runs."""
        self._pending = [len(bucket.members) for bucket in self._buckets]
        self._launched = 0
        self._armed = True
        self.arrivals = {}

    def finish(self) -> None:
        """Launches what has not been launched yet."""
        first = self._launched if self._armed else 0
        self._armed = False
        for number in range(first, len(self._buckets)):
            self._launch(number)

    def close(self) -> None:
        """Takes the hooks off the parameters."""
        for hook in self._hooks:
            hook.remove()

    def _on_gradient(self, index: int, parameter: Tensor) -> None:
        if parameter.grad is not None and parameter.grad.is_sparse:
            raise PlanError(
                f"the gradient of {self._names[index]} is sparse",
                cause="gradients are summed over the workers in dense form",
                alternatives=["make the embedding with sparse=False", "use one worker: --set workers=1"],
            )
        number = self._bucket_of[index]
        if self._armed and number < self._launched:
            raise PlanError(
                f"{self._names[index]} got a gradient after its bucket had been sent",
                cause="the step runs more than one backward, for example through torch.utils.checkpoint with "
                "use_reentrant=True",
                alternatives=[
                    "call torch.utils.checkpoint with use_reentrant=False",
                    "use one worker: --set workers=1",
                ],
            )
        self._arrived(index)
        if not self._armed or index in self.arrivals:
            return
        self.arrivals[index] = None
        self._pending[number] -= 1
        while self._launched < len(self._buckets) and self._pending[self._launched] == 0:
            self._launched += 1
            self._launch(self._launched - 1)
