"""One task of a joint run as a checkpoint of its own, which predicts the same and starts, evaluates or exports as any.

python -m experiments.split runs/multitask/20260101-120000-abcdef pose pose.ckpt
"""

import sys
from functools import partial

import tasks
from experiments import cli
from experiments.cli.shown import say
from experiments.config import ConfigError
from experiments.training.start import import_named
from tasks import save_task
from tasks.task import Task


def split(run: str, task: str, checkpoint: str, *, import_: tuple[str, ...] = ()) -> Task:
    """Write the checkpoint of one task.

    Args:
        run: Run folder or checkpoint of a joint run.
        task: Name of the task.
        checkpoint: File to write.
        import_: Module of your own with a task, codec or data set that the checkpoint names; once for each module.

    Raises:
        ConfigError: If the run is no joint run.
        ValueError: If it has no such task.
    """
    import_named(import_)
    joint = tasks.load(run)
    if "" in joint.parts:
        raise ConfigError(f"{run} holds a {type(joint).__name__}, which is a single task already.")
    single = joint.single(task)
    save_task(single, checkpoint)
    say(f"wrote {checkpoint}: {type(single).__name__}, evaluate it with its experiment and --checkpoint")
    return single


main = partial(cli.call, split)
command = partial(cli.run, split)

if __name__ == "__main__":
    sys.exit(command())
