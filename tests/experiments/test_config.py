"""Every mistake in a YAML file or flag is one sentence that names the class, the key, the nearest name and the file."""

from pathlib import Path

import pytest

from experiments.config import ConfigError, find, make_parser, merge, parse

POSE = find("pose_coco.yaml")


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


def test_an_overlay_alone_says_what_is_missing():
    with pytest.raises(ConfigError, match="No model"):
        parse(make_parser(), [find("sample.yaml")][:0], [])


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
