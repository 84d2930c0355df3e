"""Two processes evaluate as one: every figure, file and table, exactly.

python -m tests.resume.as_one                  # all tasks
python -m tests.resume.as_one joint people

Each task learns seven samples, so that its figures are no zeros and two processes have unlike shares, and is then
evaluated by one process and by two, in the same batches of two samples (the second process has two and one): whether a
convolution gives a sample in a batch what it gives that sample alone, to the last bit, is torch's affair.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from tests.conftest import ROOT
from tests.resume.commands import SMALL, TWO, files_first
from tests.resume.lives import live
from tests.resume.same import logged, unlike

LEARN = [
    *["--trainer.limit_train_batches", "1.0", "--trainer.limit_val_batches", "1.0"],
    *["--trainer.max_epochs", "20", "--trainer.check_val_every_n_epoch", "20", "--data.batch_size", "7"],
]
SEVEN = [*SMALL, "--data.overfit", "7"]
LEARNED = {
    "pose": ["pose_coco.yaml", *SEVEN],
    "segmentation": ["seg_cityscapes.yaml", *SEVEN, "--trainer.sync_batchnorm", "false"],
    "segmentation, OCR": ["seg_cityscapes_ocr.yaml", *SEVEN, "--trainer.sync_batchnorm", "false"],
    "classification": ["cls_imagenet.yaml", *SMALL, "--data.overfit", "151"],  # fewer are of one class alone
    "detection": ["det_coco_fcos.yaml", *SEVEN],
    "detection, two stages": ["det_coco.yaml", *SEVEN],
    "detection, masks": ["det_coco_mask.yaml", *SEVEN],
    "landmarks": ["landmarks_wflw.yaml", *SEVEN],
    "joint": ["multitask_pose_seg.yaml", *SEVEN],
    "people": ["multitask_people.yaml", *SEVEN],
}


def compared(words: list[str], folder: Path) -> tuple[list[str], dict[str, str]]:
    """What differs between one process and two, and the figures of one."""
    folder.mkdir()
    done = live([*files_first([*words, *LEARN]), "--runs", str(folder / "fit")], 1, None, folder / "log")
    if done.statuses != [0]:
        raise RuntimeError(done.said[-3000:])
    (run,) = (folder / "fit").glob("*/*")
    found = []
    for processes, flags in ((1, []), (2, TWO)):
        place = folder / f"validated{processes}"
        evaluated = ["validate", "--checkpoint", str(run), "--data.batch_size", "2", "--runs", str(place), *flags]
        done = live([*evaluated, "--wandb.mode", "disabled"], processes, None, folder / "log")
        if set(done.statuses) != {0}:
            raise RuntimeError(done.said[-3000:])
        (validated,) = place.glob("*/*")
        files = [*(validated / "predictions").rglob("*"), *(validated / "pictures").glob("*worst*")]
        content = {str(path.relative_to(validated)): path.read_bytes() for path in files if path.is_file()}
        found.append({"metrics.csv": logged(validated / "metrics.csv"), **content})
    return list(unlike(*found)), found[0]["metrics.csv"] | {"files": str(len(found[0]) - 1)}


def main(names: list[str]) -> int:
    """Exit status: 0 if nothing differs."""
    os.chdir(ROOT)
    torch.set_num_threads(1)
    wrong = 0
    folder = Path(tempfile.mkdtemp(prefix="as-one-"))  # not TemporaryDirectory, see tests/resume/__main__.py
    try:
        for number, name in enumerate(names or LEARNED):
            differing, figures = compared(LEARNED[name], folder / str(number))
            shown = ", ".join(f"{key.partition(', ')[2] or key} {value[:6]}" for key, value in figures.items())
            print(f"{name}: {'DIFFERS' if differing else 'the same'} ({shown})", flush=True)
            for line in differing[:10]:
                print(f"    {line}", flush=True)
            wrong += bool(differing)
    finally:
        shutil.rmtree(folder)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
