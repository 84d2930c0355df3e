"""The sections of a configuration: the type of each, its default, and what `--help` says of it."""

from typing import Any, Literal, TypedDict

from lightning import Trainer

from datamodules.base import BaseDataModule
from experiments.config.constructors import REQUIRED, Parameter
from tasks.task import Task


class WandbSpec(TypedDict, total=False):
    """Of `wandb.init`; `mode` is online, offline or disabled: online where there is a key, else offline.

    `log_model` stores the best and the last checkpoint as versions of an artifact.
    """

    project: str
    name: str
    group: str
    tags: list[str]
    notes: str
    entity: str
    mode: Literal["online", "offline", "disabled"]
    log_model: bool


KEYS: dict[str, Parameter] = {
    "model": Parameter(Task, REQUIRED, "The task."),
    "data": Parameter(BaseDataModule, REQUIRED, "The data set."),
    "trainer": Parameter(Trainer, REQUIRED, "Lightning's: devices, precision, how long and how often, callbacks."),
    "wandb": Parameter(WandbSpec | None, None, "Arguments of wandb.init."),
    "seed_everything": Parameter(int, 0, "Seed of weights, data order and augmentation."),
    "runs": Parameter(str, "runs", "Folder that run folders are made in."),
    "name": Parameter(str | None, None, "Of the run, in W&B and in comparisons."),
    "save_minutes": Parameter(float, 10.0, "Time between checkpoints within an epoch."),
    "nonfinite_loss": Parameter(
        Literal["stop", "skip"],
        "stop",
        "What a loss that is NaN or infinite does: `stop` ends the training and leaves its last checkpoint as it was, "
        "`skip` leaves the step out; 20 such steps in a row end it too. Either names the step, the files of the batch "
        "and the first parameter. Gradients that overflow in fp16 are the scaler's affair and no such loss.",
    ),
    "checkpoint": Parameter(
        str | None,
        None,
        "What to validate, test, predict or start a training with, all of it: a run folder (which needs no YAML file "
        "then), a checkpoint, a published file. The optimiser's state is only gone on with by --resume.",
    ),
    "random_weights": Parameter(bool, False, "Validate, test or predict even if some weights are as they were drawn."),
    "resume": Parameter(str | None, None, "Run folder to go on with."),
    "debug": Parameter(bool, False, "Show tracebacks."),
}
SECTIONS: dict[str, Any] = {key: parameter.hint for key, parameter in KEYS.items()}
SWITCHES = tuple(key for key, hint in SECTIONS.items() if hint is bool)
"""Flags that need no value."""
FLAGS_ALONE = {"resume": None, "debug": False}
"""Sections that have an effect on the command line only, and what stored configurations have there."""
