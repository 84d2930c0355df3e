"""Every mistake in a YAML file or flag is one sentence that names the class, the key, the nearest name and the file."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from datamodules import FolderSegmentation
from experiments.config import SECTIONS, ConfigError, find, find_mistake, make_parser, merge, parse, read
from experiments.config import files as yaml_files
from tasks import PoseTask
from tests.conftest import ROOT

POSE = find("pose_coco.yaml")
PARSER = make_parser()


def overlay(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_later_files_and_flags_win(tmp_path):
    mine = overlay(tmp_path, "model: {init_args: {optimizer: {lr: 0.5}, backbone: {variant: w48}}}")
    config = parse(make_parser(), [POSE, mine], ["--model.optimizer.lr", "0.25", "--trainer.max_epochs=3"])
    arguments = config.model.init_args
    assert arguments.optimizer == {"name": "adam", "lr": 0.25}
    assert arguments.backbone.init_args.variant == "w48"
    assert arguments.backbone.init_args.multi_scale_output is False
    assert config.trainer.max_epochs == 3


def test_merge_replaces_another_class_and_appends():
    base = {"codec": {"class_path": "A", "init_args": {"x": 1}}, "callbacks": [1], "keep": {"a": 1}}
    over = {"codec": {"class_path": "B"}, "callbacks+": [2], "keep": {"b": 2}}
    assert merge(base, over) == {"codec": {"class_path": "B"}, "callbacks": [1, 2], "keep": {"a": 1, "b": 2}}


def test_a_limit_of_one_batch_is_one_batch_not_all(tmp_path):
    config = parse(make_parser(), [POSE, overlay(tmp_path, "trainer: {limit_train_batches: 1}")], [])
    limit = config.trainer.limit_train_batches
    assert isinstance(limit, int)
    assert limit == 1
    flagged = parse(make_parser(), [POSE], ["--trainer.limit_val_batches", "1"]).trainer.limit_val_batches
    assert isinstance(flagged, int)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: {init_args: {num_keypoint: 3}}", ["PoseTask", "'num_keypoint'", "num_keypoints", "mine.yaml"]),
        ("model: {init_args: {backbone: {varian: w18}}}", ["HRNet", "'varian'", "mean variant"]),
        ("model: {init_args: {codec: {init_args: {sigm: 2}}}}", ["MSRACodec", "'sigm'", "mean sigma"]),
        ("model: {init_args: {optimizer: {lrr: 2}}}", ["optimizer", "'lrr'"]),
        ("model: {init_args: {freeze_backbon: true}}", ["PoseTask", "mean freeze_backbone"]),
        ("data: {init_args: {batchsize: 3}}", ["CocoPose", "mean batch_size"]),
        ("trainer: {max_epoch: 3}", ["trainer", "mean max_epochs", "mine.yaml"]),
        ("modle: {}", ["modle", "mean model", "mine.yaml"]),
        ("model: {init_args: {num_keypoints: seventeen}}", ["num_keypoints", "int", "seventeen"]),
        ("model: {class_path: PoesTask}", ["PoesTask", "mean PoseTask"]),
        ("config: other.yaml", ["command line"]),
        ("trainer: [", ["mine.yaml", "not valid YAML"]),
        ("trainer: {max_epochs: 1, max_epochs: 2}", ["mine.yaml", "max_epochs", "twice"]),
        ("- a", ["mine.yaml", "mapping"]),
    ],
)
def test_mistakes_in_files(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        parse(make_parser(), [POSE, overlay(tmp_path, text)], [])
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model.num_keypoint", "3"], ["PoseTask", "num_keypoints", "command line"]),
        (["--trainer.max_epoch", "3"], ["trainer", "max_epochs"]),
        (["--modle.x", "3"], ["--modle.x", "mean model"]),
        (["--trainer.max_epochs"], ["--trainer.max_epochs", "lacks a value"]),
        (["overlay.yaml"], ["overlay.yaml"]),
    ],
)
def test_mistakes_in_flags(flags, words):
    with pytest.raises(ConfigError) as caught:
        parse(make_parser(), [POSE], flags)
    for word in words:
        assert word in str(caught.value)


def test_unknown_file_names_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean pose_coco.yaml\?"):
        find("pose_cocoo.yaml")


@pytest.mark.parametrize(
    ("names", "missing"),
    [(["sample.yaml"], "class_path"), (["debug.yaml"], "model"), (["w48.yaml"], "data"), ([], "model")],
)
def test_an_overlay_alone_says_what_is_missing_and_names_an_experiment(names, missing):
    with pytest.raises(ConfigError, match=rf"^No {missing}.*pose_coco\.yaml[^\n]*$") as caught:
        parse(make_parser(), [find(name) for name in names], [])
    assert "pose_coco.yaml sample.yaml" in str(caught.value) or names != ["sample.yaml"]


def test_class_defaults_do_not_leak_into_another_class(tmp_path):
    mine = overlay(tmp_path, "model: {init_args: {optimizer: {name: adamw, lr: 0.1, weight_decay: 0.3}}}")
    other = tmp_path / "other.yaml"
    other.write_text("model: {init_args: {codec: {class_path: UDPCodec}}}")
    config = parse(make_parser(), [POSE, mine, other], [])
    assert config.model.init_args.codec.init_args.sigma == 2.0
    assert config.model.init_args.optimizer == {"name": "adamw", "lr": 0.1, "weight_decay": 0.3}


def test_null_on_the_command_line_is_none():
    config = parse(make_parser(), [POSE], ["--model.backbone.weights", "null", "--model.schedule=null"])
    assert config.model.init_args.backbone.init_args.weights is None
    assert config.model.init_args.schedule is None


def test_flags_append_to_lists():
    stop = "{class_path: EarlyStopping, init_args: {monitor: val/AP}}"
    config = parse(make_parser(), [POSE], ["--trainer.callbacks+", stop, "--trainer.callbacks+", stop])
    assert len(config.trainer.callbacks) == 2


def refused(files: list[str], *flags: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(PARSER, [find(file) for file in files], list(flags))
    message = str(caught.value)
    assert "\n" not in message
    assert not any(odd in message for odd in ("..", "?.", ".?", ": .", "<class", "typing.", "Union", "Parser key"))
    assert message[-1] in ".?"
    return message


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--model.optimizer.lr abc", ["model.optimizer.lr should be a number", "'abc'", "on the command line"]),
        ("--model.optimizer.lrr 0.1", ["model.optimizer has no key 'lrr'", "did you mean lr?", "momentum"]),
        ("--model.optimizer 0.1", ["model.optimizer should be a mapping with name, lr", "got 0.1"]),
        ("--model.schedule cosine", ["model.schedule", "did you mean model.schedule.name: cosine?"]),
        ("--model.schedule.milestones 170", ["model.schedule.milestones", "a list of numbers", "170"]),
        ("--model.backbone w48", ["model.backbone", "did you mean model.backbone.variant: w48?"]),
        ("--model.backbone.variant 48", ["model.backbone.variant should be text", "quotes", "'48'"]),
        ("--model.backbone.upsample cubic", ["one of nearest, bilinear", "'cubic'"]),
        ("--model.backbone.multi_scale_output maybe", ["true or false", "'maybe'"]),
        (
            "--model.codec UDPCodecc",
            ["no class 'UDPCodecc' for model.codec", "command line", "mean UDPCodec?"],
        ),
        ("--model.codec.sigma two", ["model.codec.sigma should be a number"]),
        ("--model.codec.init_args.sigm 2", ["MSRACodec has no parameter 'sigm'", "mean sigma?"]),
        ("--model PoesTask", ["'PoesTask'", "command line", "mean PoseTask?"]),
        ("--model SegmentationTask", ["SegmentationTask needs backbone and num_classes", "model.num_classes"]),
        ("--model CocoPose", ["no class 'CocoPose' for model"]),
        ("--model no_such_module.Task", ["no_such_module.Task", "cannot be imported"]),
        ("--model.num_keypoints=", ["model.num_keypoints should be a whole number", "nothing (null)"]),
        ("--model.backbone.variant null", ["model.backbone.variant should be text", "nothing (null)"]),
        ("--model.num_keypoints 17.5", ["whole number", "17.5"]),
        ("--model.skeleton coco", ["model.skeleton should be a mapping", "'coco'"]),
        ("--model.lr 0.1", ["PoseTask has no parameter 'lr'", "did you mean model.optimizer.lr?"]),
        ("--model.variant w48", ["did you mean model.backbone.variant?"]),
        (
            "--data.image_size 256",
            ["data.image_size should be a list of two whole numbers, such as [", "got 256"],
        ),
        ("--data.image_size [256,a]", ["two whole numbers", "[256, 'a']"]),
        ("--data.image_size [256]", ["two whole numbers", "[256]"]),
        ("--data.crop units", ["one of size, unit", "did you mean unit?"]),
        ("--data.augmentation.rotate 10", ["PersonAugmentation", "'rotate'", "mean rotation_factor?", "scale_factor"]),
        ("--data.augmentation true", ["data.augmentation", "PersonAugmentation", "True"]),
        ("--data.photometric ColorJitter", ["data.photometric should be a list of mappings"]),
        ("--data.annotations train.json", ["data.annotations should be a mapping of"]),
        ("--data.root null", ["data.root should be a path", "nothing (null)"]),
        ("--data.root 2024", ["data.root should be a path", "2024"]),
        ("--trainer.max_epochs three", ["trainer.max_epochs should be a whole number or null", "'three'"]),
        ("--trainer.precision half", ["trainer.precision should be one of", "bf16-mixed", "'half'"]),
        ("--trainer.callbacks+ EMAA", ["'EMAA'", "trainer.callbacks[0]", "mean EMA?"]),
        ("--trainer.callbacks {class_path:\u00a0EMA}", ["trainer.callbacks"]),
        ("--trainer 3", ["trainer should be a mapping", "3"]),
        ("--trainer.default_root_dir x", ["trainer has no parameter 'default_root_dir'"]),
        ("--wandb.project 5", ["wandb.project should be text", "quotes"]),
        ("--wandb.projekt x", ["wandb has no key 'projekt'", "mean project?"]),
        ("--wandb.tags a", ["wandb.tags should be a list of texts"]),
        ("--wandb.mode offlin", ["one of online, offline, disabled", "mean offline?"]),
        ("--wandb x", ["wandb should be a mapping with project"]),
        ("--seed_everything x", ["seed_everything should be a whole number", "'x'"]),
        ("--seed 3", ["no flag --seed", "mean seed_everything?"]),
        ("--max_epochs 3", ["no flag --max_epochs", "mean --trainer.max_epochs?"]),
        ("--lr 3", ["mean --model.optimizer.lr?"]),
        ("--batch_size 3", ["mean --data.batch_size?"]),
    ],
)
def test_what_is_typed_wrongly_for_poses(flags, words):
    message = refused(["pose_coco.yaml"], *flags.split(" ", 1))
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("file", "flags", "words"),
    [
        ("seg_folder.yaml", "--model.num_classes ten", ["model.num_classes should be a whole number", "'ten'"]),
        ("seg_folder.yaml", "--model.num_class 10", ["SegmentationTask has no parameter 'num_class'", "num_classes?"]),
        ("seg_folder.yaml", "--model.head ocrr", ["one of v2, ocr", "mean ocr?"]),
        ("seg_folder.yaml", "--model.window 512", ["model.window", "two whole numbers or null"]),
        ("seg_folder.yaml", "--model.scales 1", ["model.scales should be a list of numbers or null"]),
        ("seg_folder.yaml", "--model.class_weights citiscapes", ["mean cityscapes?"]),
        ("seg_folder.yaml", "--data.id_map [0,1]", ["data.id_map should be a mapping of whole numbers", "[0, 1]"]),
        ("seg_folder.yaml", "--data.id_map.cat 1", ["data.id_map", "'cat'"]),
        ("seg_folder.yaml", "--data.class_names cat", ["a list of texts", "'cat'"]),
        ("seg_folder.yaml", "--data.scale 0.5", ["a list of two numbers", "0.5"]),
        ("cls_folder.yaml", "--model.mixup abc", ["model.mixup should be a number"]),
        ("cls_folder.yaml", "--model.label_smoothin 0.1", ["ClassificationTask", "mean label_smoothing?"]),
        ("cls_folder.yaml", "--data.image_size 224", ["two whole numbers", "224"]),
        ("cls_folder.yaml", "--model.num_classes null", ["model.num_classes", "nothing (null)"]),
        ("multitask.yaml", "--model.balancing.alpha 3", ["model.balancing needs name"]),
        ("multitask.yaml", "--model.task_weights.pose x", ["model.task_weights.pose should be a number"]),
        ("multitask.yaml", "--model.tasks.pose.num_keypoint 3", ["PoseTask has no parameter", "mean num_keypoints?"]),
        ("multitask.yaml", "--model.tasks.pose.codec.sigm 3", ["model.tasks.pose.codec", "UDPCodec", "class_path"]),
        ("multitask.yaml", "--model.tasks.posee.num_keypoints 3", ["model.tasks.posee", "mean model.tasks.pose?"]),
        ("multitask.yaml", "--model.tasks.pose.class_path PoesTask", ["'PoesTask' for model.tasks.pose", "PoseTask?"]),
        ("multitask.yaml", "--model.tasks [PoseTask]", ["model.tasks should be a mapping"]),
        ("multitask.yaml", "--data.data.pose.batchsize 3", ["CocoPose has no parameter", "mean batch_size?"]),
        ("multitask.yaml", "--data.data.pose.batch_size x", ["data.data.pose.batch_size should be a whole number"]),
        ("multitask.yaml", "--data.data.segmentation.augmentation.x 3", ["Cityscapes has no parameter 'augmentation'"]),
        ("multitask.yaml", "--data.policy som", ["one of all, round_robin", "'som'"]),
        ("multitask.yaml", "--data.epoch_length longst", ["shortest", "'longst'"]),
        ("multitask.yaml", "--model.baselines runs", ["model.baselines should be a mapping"]),
    ],
)
def test_what_is_typed_wrongly_for_other_tasks(file, flags, words):
    message = refused([file], *flags.split(" ", 1))
    for word in words:
        assert word in message


def test_the_file_that_is_wrong_is_named_not_one_that_has_the_key_too(tmp_path):
    mine = overlay(tmp_path, "model: {init_args: {optimizer: {lr: fast}}}")
    assert "mine.yaml" in refused(["pose_coco.yaml", str(mine)])
    assert "command line" in refused(["pose_coco.yaml", str(mine)], "--model.optimizer.lr", "slow")
    assert "mine.yaml" in refused(["pose_coco.yaml", str(mine)], "--model.optimizer.weight_decay", "0.1")
    other = tmp_path / "other.yaml"
    other.write_text("model: {init_args: {codec: {init_args: {sigma: 3}}}}")
    assert "mine.yaml" in refused(["pose_coco.yaml", str(mine), str(other)])


def test_an_overlay_without_an_experiment_says_what_it_goes_with():
    assert "pose_coco.yaml sample.yaml" in refused(["sample.yaml"])


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments" / "configs").glob("*/*.yaml")), ids=lambda path: path.stem
)
def test_no_mistake_is_seen_in_what_is_shipped(path):
    if not path.name.startswith(("pose", "seg", "cls", "det", "landmarks", "multitask")):
        pytest.skip("an overlay")
    content = read(path)
    assert find_mistake(content, [(path.name, content)], SECTIONS) is None
    resolved = yaml.safe_load(PARSER.dump(parse(PARSER, [path], []), skip_unset=False))
    assert find_mistake(resolved, [(path.name, resolved)], SECTIONS) is None


def test_dates_and_odd_text_are_taken_as_they_are(tmp_path):
    config = parse(PARSER, [POSE, overlay(tmp_path, "data: {init_args: {root: 2024-05-01}}")], ["--runs", "@home"])
    assert config.data.init_args.root == "2024-05-01"
    assert config.runs == "@home"


class FewClasses(FolderSegmentation):
    """With one argument more and without the rest of the keyword arguments.

    Args:
        root: Folder.
        id_map: Ids.
        extra: More.
    """

    def __init__(self, root: str, *, id_map: dict[int, int] | None = None, extra: int = 0) -> None:
        super().__init__(root, class_names=["a", "b"], image_size=(64, 64), id_map=id_map)


class OneMore(PoseTask):
    """A pose task with one argument more.

    Args:
        more: One more.
    """

    def __init__(self, *args, more: int = 0, **kwargs) -> None:
        super().__init__(*args, **kwargs)


def test_a_derived_class_keeps_the_arguments_that_it_takes(tmp_path, capsys):
    mine = overlay(tmp_path, "model: {class_path: OneMore, init_args: {more: 3}}")
    arguments = parse(PARSER, [POSE, mine], []).model.init_args
    assert arguments.more == 3
    assert arguments.num_keypoints == 17
    assert arguments.backbone.init_args.multi_scale_output is False
    assert arguments.optimizer == {"name": "adam", "lr": 1e-3}
    assert "dropped" not in capsys.readouterr().out


def test_what_a_derived_class_does_not_take_is_said(tmp_path, capsys):
    mine = overlay(tmp_path, "data: {class_path: FewClasses, init_args: {id_map: {0: 0, 255: 1}}}")
    config = parse(PARSER, [find("seg_folder.yaml"), mine], [])
    assert config.data.init_args.root == read(find("seg_folder.yaml"))["data"]["init_args"]["root"]
    assert {int(k): v for k, v in config.data.init_args.id_map.items()} == {0: 0, 255: 1}
    out = capsys.readouterr().out
    assert "FewClasses instead of FolderSegmentation" in out
    assert "class_names" in out
    assert "data.id_map is replaced" in out


def test_what_is_missing_for_another_class_was_dropped_with_the_one_before():
    with pytest.raises(ConfigError, match=r"needs backbone.*SegmentationTask instead of PoseTask; dropped backbone"):
        parse(PARSER, [POSE], ["--model.class_path", "SegmentationTask"])


def test_a_mapping_is_replaced_whole_from_a_file_and_from_the_command_line(tmp_path):
    mine = overlay(tmp_path, "model: {init_args: {schedule=: {name: cosine}}}")
    assert parse(PARSER, [POSE, mine], []).model.init_args.schedule == {"name": "cosine"}
    flagged = parse(PARSER, [POSE], ["--model.schedule=", "{name: cosine}"])
    assert flagged.model.init_args.schedule == {"name": "cosine"}
    assert parse(PARSER, [POSE], ["--model.schedule", "{name: cosine}"]).model.init_args.schedule["milestones"]


def test_one_batch_stays_one_whatever_was_imported_before():
    """Python and jsonargparse read `int | float | None` as the first such union that a process met."""
    program = (
        "import experiments.benchmark\n"  # imports in another order than the runner
        "from experiments.config import find, make_parser, parse\n"
        "files = [find(f'{name}.yaml') for name in ('pose_coco', 'sample', 'debug')]\n"
        "for flags in (['--trainer.limit_train_batches', '1'], ['--trainer.limit_train_batches', '1.0']):\n"
        "    parser = make_parser()\n"
        "    config = parse(parser, files, flags)\n"
        "    trainer = parser.instantiate(config).trainer\n"
        "    print(repr(trainer.limit_train_batches), repr(trainer.limit_val_batches))\n"
        "    print([line.split()[1] for line in parser.dump(config).splitlines() if 'limit_train' in line][0])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["1", "2", "1", "1.0", "2", "1.0"]


def test_every_section_has_a_type_and_a_place_in_the_parser():
    assert set(SECTIONS) == set(yaml_files.SECTIONS)
    shown = PARSER.format_help()
    assert all(f"--{name}" in shown for name in SECTIONS)
