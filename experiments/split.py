"""One task of a joint run as a checkpoint of its own, which predicts the same and starts, evaluates or exports as any.

python -m experiments.split runs/multitask/20260101-120000-abcdef pose pose.ckpt
"""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence

import tasks
from experiments.cli import program
from experiments.training.start import add_import, import_named
from tasks import MultiTask, save_task
from tasks.task import Task


def main(argv: Sequence[str] | None = None) -> Task:
    """Write the checkpoint.

    Raises:
        ValueError: If the run is no joint run or has no such task.
    """
    parser = ArgumentParser(prog=program("experiments.split"), description=__doc__.splitlines()[0])
    parser.add_argument("run", help="Run folder or checkpoint of a joint run.")
    parser.add_argument("task", help="Name of the task.")
    parser.add_argument("checkpoint", help="File to write.")
    add_import(parser)
    arguments = parser.parse_args(argv)
    import_named(arguments.modules)
    joint = tasks.load(arguments.run)
    if not isinstance(joint, MultiTask):
        raise ValueError(f"{arguments.run} holds a {type(joint).__name__}, which is a single task already.")
    task = joint.single(arguments.task)
    save_task(task, arguments.checkpoint)
    print(f"wrote {arguments.checkpoint}: {type(task).__name__}, evaluate it with its experiment and --checkpoint")
    return task


def command() -> int:
    """`main` with exit status: 0 on success, 2 with one message for a user's mistake."""
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(command())
