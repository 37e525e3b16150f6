"""Work beside the backward: one thread, one task after another, in the order in which they were given."""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Event, Thread

import torch

from meshwright.exchange._transport import Transfer


class CommunicationThread:
    """Does blocking exchanges while the caller computes.

    One thread for all exchanges of a group: collectives of different threads would meet each other's data.

    Args:
        device: that the tensors are on; on an accelerator the thread has a stream of its own.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._tasks: SimpleQueue[ThreadTransfer | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="meshwright-exchange", daemon=True)
        self._thread.start()

    def start(self, task: Callable[[], object]) -> Transfer:
        """Has a task done after all that were given before; what it reads has been computed, or queued on the device.

        Args:
            task: may raise what the transfer's `wait` then raises.
        """
        transfer = ThreadTransfer(task, self._device)
        self._tasks.put(transfer)
        return transfer

    def close(self) -> None:
        """Ends the thread once its tasks are done."""
        self._tasks.put(None)
        self._thread.join()

    @torch.no_grad()
    def _work(self) -> None:
        stream = None if self._device.type == "cpu" else torch.Stream(self._device)
        while (transfer := self._tasks.get()) is not None:
            transfer.run(stream)


class ThreadTransfer(Transfer):
    """A task of the thread."""

    def __init__(self, task: Callable[[], object], device: torch.device) -> None:
        self._task: Callable[[], object] | None = task
        self._done = Event()
        self._error: BaseException | None = None
        self._ready = None if device.type == "cpu" else torch.Event(device)
        if self._ready is not None:
            self._ready.record()

    def run(self, stream: torch.Stream | None) -> None:
        """Does the task, on the thread."""
        assert self._task is not None
        try:
            if stream is None:
                self._task()
            else:
                assert self._ready is not None
                with stream:
                    stream.wait_event(self._ready)
                    self._task()
                stream.synchronize()
        except BaseException as error:
            self._error = error
        self._task = None
        self._done.set()

    def advance(self) -> bool:
        """Whether it is done; the thread needs no help."""
        return self._done.is_set()

    def wait(self) -> None:
        """Waits until it is done."""
        self._done.wait()
        if self._error is not None:
            raise self._error
