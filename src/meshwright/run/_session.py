"""One process's part in a run, from before the script starts until after it ended."""

import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

from meshwright.errors import UsageError
from meshwright.run._role import Role
from meshwright.units import Bytes

if TYPE_CHECKING:
    from meshwright.run._metrics import Recorder

CURRENT: ContextVar["Session | None"] = ContextVar("session", default=None)


class Attached(Protocol):
    """What a run asks of the script's step, or of what its own loop leaves behind."""

    recorder: "Recorder | None"

    @property
    def steps(self) -> int:
        """Steps done."""

    def leave(self) -> None:
        """The script has ended by itself."""

    def close(self) -> None:
        """The run is over: undoes the strategy and closes its connections."""


class Session:
    """What the worker process and the step that the script asks for have in common.

    Args:
        role: of this process.
    """

    def __init__(self, role: Role) -> None:
        self.role = role
        self.step: Attached | None = None
        self._finished = False

    def attach(self, step: Attached) -> None:
        """Takes the script's step, or what its own loop leaves behind.

        Raises:
            UsageError: the script has made one before.
        """
        if self.step is not None and self.role.kind != "alone":
            raise UsageError(
                "the script calls mw.parallel a second time",
                cause="a plan is made for one model, one optimizer and one loss",
                alternatives=["one mw.parallel per script", "`python` instead of `meshwright run`: one worker each"],
            )
        self.step = step

    def finish(self, status: str, *, reason: str = "") -> None:
        """Ends the run once: measurements are written, the strategy is undone, the group is left.

        Args:
            status: `finished`, `interrupted` or `failed`.
            reason: what ended it, unless finished.
        """
        if self._finished:
            return
        self._finished = True
        step = self.step
        try:
            if step is not None and step.recorder is not None:
                memory = self._memory_by_rank(step.recorder.memory) if status == "finished" else ()
                step.recorder.close(status, reason=reason, memory_by_rank=memory)
            if step is not None and status == "finished":
                # gloo's threads, still there when Python ends, abort the process now and then.
                step.close()
        finally:
            if "torch" in sys.modules:
                from meshwright.run._group import part

                part()

    def _memory_by_rank(self, own: Bytes) -> tuple[Bytes, ...]:
        """Each worker's peak; empty where one of them is gone."""
        import torch
        import torch.distributed as dist

        from meshwright.run._memory import peak_memory

        memory = torch.tensor([max(own, peak_memory())], dtype=torch.int64)
        if not dist.is_initialized():
            return (int(memory),)
        everyone = [torch.empty_like(memory) for _ in range(self.role.world_size)]
        try:
            dist.all_gather(everyone, memory)
        except RuntimeError:
            return ()
        return tuple(int(value) for value in everyone)
