"""What is killed: the shipped experiments, small. Every schedule is a shipped one, and each ends within the run."""

from typing import NamedTuple


class Command(NamedTuple):
    """A training as the command line has it."""

    words: list[str]
    processes: int = 1

    @property
    def line(self) -> list[str]:
        """Its words, the YAML files first."""
        return files_first(self.words)


def files_first(words: list[str]) -> list[str]:
    """As the command line has them."""
    return sorted(words, key=lambda word: not word.endswith(".yaml"))


BRIEF = [
    *["debug.yaml", "--wandb.mode", "disabled", "--trainer.accelerator", "cpu", "--trainer.enable_model_summary"],
    *["false", "--trainer.max_epochs", "3", "--trainer.limit_train_batches", "4", "--save_minutes", "0.02"],
]
SMALL = ["sample.yaml", *BRIEF, "--data.image_size", "[64, 64]", "--data.batch_size", "2"]
TINY = ["--model.backbone.variant", "w18_small_v1", "--model.backbone.weights", "null", "--data.root", "sample", *BRIEF]
OWN = [*TINY, "--data.image_size", "[64, 64]", "--data.batch_size", "2"]
"""Without the overlay for the sample data, so that the optimiser and the schedule are the experiment's own."""
EMA = ["--trainer.callbacks+", "{class_path: EMA, init_args: {decay: 0.5}}"]
WORKERS = ["--data.num_workers", "2"]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp_find_unused_parameters_true"]
JOINT = ["multitask.yaml", *SMALL, "--data.epoch_length", "6", "--trainer.limit_train_batches", "1.0"]
ONE_A_STEP = [*JOINT, "--data.policy"]

COMMANDS = {
    "pose": Command(["pose_coco.yaml", *SMALL]),
    "pose, own schedule, workers": Command(["pose_coco.yaml", *OWN, *WORKERS, "--model.schedule.milestones", "[1, 2]"]),
    "pose, accumulation, EMA": Command(["pose_coco_udp.yaml", *SMALL, *EMA, "--trainer.accumulate_grad_batches", "2"]),
    "pose, validation within epochs": Command(["pose_coco_dark.yaml", *SMALL, "--trainer.val_check_interval", "2"]),
    "pose, some epochs frozen": Command(["pose_coco.yaml", *SMALL, "--model.freeze_backbone", "1"]),
    "segmentation, own schedule": Command(["seg_cityscapes.yaml", *OWN, "--trainer.sync_batchnorm", "false"]),
    "segmentation, OCR, workers": Command(["seg_cityscapes_ocr.yaml", *SMALL, *WORKERS]),
    "classification, own EMA and mixup": Command(
        ["cls_imagenet_modern.yaml", *SMALL, "--trainer.callbacks", "[{class_path: EMA, init_args: {decay: 0.9}}]"]
    ),
    "classification, workers, accumulation": Command(
        ["cls_imagenet.yaml", *SMALL, *WORKERS, "--trainer.accumulate_grad_batches", "3"]
    ),
    "detection": Command(["det_coco_fcos.yaml", "sample.yaml", *BRIEF, "--data.image_size", "[96, 96]"]),
    "detection, two stages, EMA": Command(
        ["det_coco.yaml", "sample.yaml", *BRIEF, "--data.image_size", "[96, 96]", *EMA]
    ),
    "landmarks": Command(["landmarks_wflw.yaml", *SMALL]),
    "landmarks, workers, EMA": Command(["landmarks_300w.yaml", *SMALL, *WORKERS, *EMA]),
    "joint, all": Command([*JOINT, *WORKERS]),
    "joint, all, dwa, accumulation": Command(
        [*JOINT, "--model.balancing", "dwa", "--model.task_weights", "null", "--trainer.accumulate_grad_batches", "2"]
    ),
    "joint, all, gradnorm": Command([*JOINT, "--model.balancing", "gradnorm", "--model.task_weights", "null"]),
    "joint, round robin, EMA": Command([*ONE_A_STEP, "round_robin", *EMA]),
    "joint, proportional, workers": Command([*ONE_A_STEP, "proportional", *WORKERS]),
    "joint, temperature": Command([*ONE_A_STEP, "temperature", "--data.temperature", "2"]),
    "joint, ratios": Command(
        [*ONE_A_STEP, "ratios", "--data.ratios", "{pose: 2, segmentation: 1, classification: 1}", *WORKERS]
    ),
    "people": Command(["multitask_people.yaml", *SMALL, "--data.epoch_length", "4"]),
    "pose, two processes": Command(["pose_coco.yaml", *SMALL, *TWO], 2),
    "landmarks, frozen, two processes": Command(
        ["landmarks_cofw.yaml", *SMALL, *TWO, "--model.freeze_backbone", "true"], 2
    ),
    "segmentation, two processes, workers": Command(
        ["seg_cityscapes_w18.yaml", *SMALL, *TWO, *WORKERS, "--trainer.sync_batchnorm", "false"], 2
    ),
    "joint, all, two processes": Command([*JOINT, *TWO, "--model.balancing", "uncertainty"], 2),
    "joint, round robin, two processes": Command([*ONE_A_STEP, "round_robin", *TWO], 2),
}
