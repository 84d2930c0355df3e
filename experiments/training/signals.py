"""How a run is stopped: by Ctrl-C or SIGTERM, at a place from which it can go on, and by a second signal at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from experiments.cli.mistakes import Stopped


class StopOnSignal(Checkpoint):
    """Ctrl-C and SIGTERM stop a training after its step, with gradients taken, and an evaluation after its batch.

    Lightning would stop in the middle of the step at Ctrl-C, and run an evaluation to its end at SIGTERM. A second
    signal does not wait. It is a Checkpoint, since these come after all other callbacks.
    """

    def __init__(self) -> None:
        self.number = 0
        self._handlers: dict[int, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen from the first moment at which Lightning does, which is before the barrier ahead of a stage.

        Its own handler makes several processes wait for ever: the one with the signal broadcasts, and the others are
        in this barrier, or another.
        """
        strategy, barrier = trainer.strategy, trainer.strategy.barrier

        def listening(name: str | None = None) -> None:
            if name == "run-stage":
                vars(strategy).pop("barrier", None)
                self._listen(trainer, pl_module)
            barrier(name)

        strategy.barrier = listening  # type: ignore[method-assign]

    def _listen(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._handlers and threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        if trainer.received_sigterm:
            self.number = signal.SIGTERM

    on_train_start = on_validation_start = on_test_start = on_predict_start = _listen

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number
        print(f"{signal.Signals(number).name}: stops after this step; again to stop at once", flush=True)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Within the block, a second signal ends as the first one does, which is not always Ctrl-C.

        Raises:
            Stopped: In place of what ends a command at once.
        """
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as leaving:  # Lightning makes the latter of the former
            if self.number:
                raise Stopped(self.number) from leaving
            raise

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Between two epochs."""
        self._stop(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Between two optimiser steps."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._stop(trainer)

    def _stop(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        number = self.number
        if trainer.world_size > 1:  # processes that stop at different steps would wait for each other
            here = torch.tensor(number, device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(here, reduce_op="max"))
        if number:
            raise Stopped(number)

    on_validation_batch_start = on_test_batch_start = on_predict_batch_start = _stop

    def _leave(self, *_: Any, **__: Any) -> None:
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._note:  # else Lightning has given the signal back already
                signal.signal(number, handler)
        self._handlers = {}

    teardown = on_exception = _leave
