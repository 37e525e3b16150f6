"""`step(batch)`: what the user's loop calls."""

import gc
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from meshwright.errors import BatchError
from meshwright.graph.capture_batch import batch_size
from meshwright.plan import Plan
from meshwright.run._agreement import check_agreement, is_checked
from meshwright.run._drift import forecast_of
from meshwright.run._engine import Engine
from meshwright.run._first_losses import FirstLosses
from meshwright.run._group import failures_named
from meshwright.run._job import Job
from meshwright.run._loader import can_share, first_batch, shared
from meshwright.run._metrics import Recorder
from meshwright.run._opening import Request, opened
from meshwright.run._placement import SplitPlaced
from meshwright.run._proof import Proof
from meshwright.run._reconsideration import reconsideration
from meshwright.run._session import Session
from meshwright.run._trace import Tracer


class Step:
    """One optimizer step on a global batch: forward, backward, update.

        step = mw.parallel(model, optimizer, loss)
        for batch in step.batches(loader):
            value = step(batch)

    Args:
        job: what the user handed over.
        request: what the user asked of the plan.
        session: this process's part in the run.
    """

    def __init__(self, job: Job, request: Request, session: Session) -> None:
        self._job = job
        self._request = request
        self._session = session
        self._engine: Engine | None = None
        self._stand_in: Proof | FirstLosses | None = None
        self._plan: Plan | None = None
        self._expected: tuple[Any, int, int] | None = None
        self._loaders: dict[int, tuple[Any, Iterable[Any]]] = {}
        self._whole: tuple[int, nn.Module] | None = None
        self.recorder: Recorder | None = None
        self._tracer: Tracer | None = None

    def __call__(self, batch: Any) -> Tensor:
        """Runs one step.

        Args:
            batch: the global batch, or what `batches` yielded.

        Returns:
            The global mean loss: a detached scalar tensor, the same on every worker.

        Raises:
            LossError: the loss is no finite scalar.
            BatchError: the batch cannot be shared out.
        """
        engine = self._engine
        if engine is None:
            if self._stand_in is None:
                self._open(batch)
            if self._stand_in is not None:
                return self._stand_in.step(batch)
            engine = self._engine
            assert engine is not None
        if engine.num_workers > 1:
            return self._together(engine, batch)
        loss = engine.step(batch)
        if self.recorder is not None:
            self._record(engine, loss, _examples(batch))
        return loss

    def batches(self, loader: Iterable[Any]) -> Iterable[Any]:
        """The loader's batches, of which each worker loads only its share; hand each to `step`.

        Args:
            loader: of global batches: a `DataLoader`, or anything that can be iterated.

        Raises:
            UsageError: the loader already gives each process other examples.
        """
        sharable = can_share(loader)
        if self._session.role.world_size == 1 or self._session.role.kind in ("plan", "verify") or not sharable:
            return loader
        known = self._loaders.get(id(loader))
        if known is None:
            if self._engine is None:
                self._open(None if self._session.role.kind == "run" else first_batch(loader))
            assert self._engine is not None
            assert self._engine.strategy is not None
            plan, rank = self._engine.strategy.batch, self._engine.data_rank
            known = (loader, shared(loader, plan=plan, rank=rank, expect=self._expect))  # type: ignore[arg-type]
            self._loaders[id(loader)] = known
        return known[1]

    @property
    def model(self) -> nn.Module:
        """The user's model; where the plan splits it, a whole copy, which every worker has to ask for alike.

        The copy is as new as the last step; asked for again before the next one, it is the same.
        """
        placed = None if self._engine is None else self._engine.placed
        if not isinstance(placed, SplitPlaced):
            return self._job.model
        if self._whole is None or self._whole[0] != self.steps:
            self._whole = (self.steps, placed.whole_model())
        return self._whole[1]

    @property
    def plan(self) -> Plan | None:
        """The plan; None for a script run by plain python, and before the first step."""
        return self._plan

    @property
    def is_main(self) -> bool:
        """Whether this worker is the one to print and to save: true on one, on none where the steps are thrown away."""
        return self._session.role.rank == 0 and self._stand_in is None

    @property
    def steps(self) -> int:
        """Steps done; in planning and in a proof, steps of the one-device program."""
        if self._stand_in is not None:
            return self._stand_in.num_steps
        return self._engine.steps if self._engine is not None else 0

    def leave(self) -> None:
        """The script has ended: a proof that was given fewer steps than asked for compares those."""
        if self._stand_in is not None:
            self._stand_in.leave()

    def close(self) -> None:
        """The run is over: undoes the strategy and closes its connections, while the process still can."""
        if self._engine is not None:
            self._engine.close()
        gc.unfreeze()

    def save(self, folder: Any) -> None:
        """Stores model, optimizer and random numbers, whole or not at all; every worker calls it.

        While a plan is made or proven nothing is stored: its steps are not the run's, whose checkpoint may lie there.

        Args:
            folder: of the checkpoint; an earlier one there is replaced.
        """
        if self._session.role.kind in ("plan", "verify"):
            return
        from meshwright.run._checkpoint import save

        save(self._job, self._engine, folder)

    def load(self, folder: Any) -> None:
        """Continues from a checkpoint, on any number of workers; before the first step.

        Args:
            folder: that `save` wrote.

        Raises:
            UsageError: no whole checkpoint is there, or steps have been run.
        """
        from meshwright.run._checkpoint import load

        self._job = load(self._job, self._engine, folder)

    def _open(self, batch: Any) -> None:
        """Decides, at the first batch, how steps are run: by a plan, by a proof, or as the script is.

        A run has its plan already and needs no batch for it.
        """
        opening = opened(self._job, self._request, self._session.role, batch)
        self._plan, self._stand_in, self._engine, self._job = (
            opening.plan,
            opening.stand_in,
            opening.engine,
            opening.job,
        )
        if self._engine is None:
            return
        folder, rank = opening.folder, self._session.role.rank
        forecast = None
        if self._plan is not None:
            known = folder is not None and rank == 0
            forecast = forecast_of(self._plan, reconsideration(self._plan, folder, self._request) if known else None)
        if self._plan is not None:
            # Collecting garbage among the objects of torch takes up to a second; new objects are still looked at.
            gc.freeze()
        if folder is not None or self._engine.device.type != "cpu":
            self.recorder = Recorder(folder, clock=self._engine.clock, rank=rank, forecast=forecast)
        if folder is not None:
            self._tracer = Tracer(folder, rank)

    def _together(self, engine: Engine, batch: Any) -> Tensor:
        expected, self._expected = self._expected, None
        with failures_named(self._session.role):
            if expected is not None and _is_meant(batch, expected):
                _, count, size = expected
                loss = engine.step_share(batch, count=count, size=size)
            else:
                size = batch_size(batch)
                if is_checked(engine.steps + 1) and not (engine.waits_for_nobody and engine.steps):
                    check_agreement(batch)
                loss = engine.step(batch, size=size)
        if self.recorder is not None:
            self._record(engine, loss, size)
        return loss

    def _expect(self, share: Any, count: int, size: int) -> None:
        self._expected = (share, count, size)

    def _record(self, engine: Engine, loss: Tensor, examples: int) -> None:
        recorder = self.recorder
        assert recorder is not None
        recorder.add(loss, engine.stamps, examples=examples, grad_norm=engine.grad_norm)
        if self._tracer is not None:
            self._tracer.look_at(engine)
        for check in engine.new_checks():
            told = {**asdict(check), "shortfall": check.shortfall, "refined": check.refined}
            recorder.note("exchange.jsonl", told)
        while recorder.told or engine.told:
            sentence = (recorder.told or engine.told).pop()
            if self.is_main:
                print(sentence, file=sys.stderr)


def _is_meant(batch: Any, expected: tuple[Any, int, int]) -> bool:
    """Whether a batch is the share that was yielded last, or was made from it (moved to a device, say)."""
    share, count, _ = expected
    return batch is share or batch_size(batch) == max(count, 1)


def _examples(batch: Any) -> int:
    """Examples of a batch that one worker takes whole; 0 where they cannot be counted, which only a rate needs."""
    try:
        return batch_size(batch)
    except BatchError:
        return 0 if not isinstance(batch, torch.Tensor) else len(batch)
