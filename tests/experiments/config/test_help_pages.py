"""Help follows the configuration: every key that a page tells to ask about has a page of its own."""

import re

import pytest

from experiments.config import ConfigError, find, make_parser, parse

PARSER = make_parser()


def page(capsys, *arguments: str, files: tuple[str, ...] = ("pose_coco.yaml",)) -> str:
    with pytest.raises(SystemExit) as stopped:
        parse(PARSER, [find(file) for file in files], list(arguments))
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("file", ["pose_coco.yaml", "seg_folder.yaml", "cls_folder.yaml", "multitask.yaml"])
def test_every_page_that_a_page_names_exists(file, capsys):
    asked, waiting = set(), ["--help"]
    while waiting:
        question = waiting.pop()
        if question in asked or "KEY" in question:
            continue
        asked.add(question)
        text = page(capsys, question, files=(file,))
        assert len(text.splitlines()) >= 2
        assert not re.search(r"Union\[|typing\.|<class|_empty|: \.$|See above|\?\.", text), question
        waiting += re.findall(r"--[\w.]+\.help(?! NAME)", text.replace("\n      ", " "))
    assert {"--model.help", "--data.help", "--trainer.callbacks.help", "--model.optimizer.help"} <= asked


def test_the_class_of_the_experiment_is_explained_and_others_are_named(capsys):
    text = page(capsys, "--model.help")
    assert "PoseTask" in text.splitlines()[0]
    assert "--model.num_keypoints  a whole number; default 17" in text
    assert "SegmentationTask" in text
    assert "\n  Task " not in text  # which is there to be derived from
    assert "--model.num_classes" not in text
    assert "--model.num_classes  a whole number; required" in page(capsys, "--model.help", "SegmentationTask")
    assert "--data.crop  one of size, unit; default size" in page(capsys, "--data.help")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data.augmentation.help"], ["PersonAugmentation", "rotation_factor", "half_body_probability"]),
        (["--model.codec.help"], ["MSRACodec", "--model.codec.sigma", "UDPCodec"]),
        (["--model.init_args.codec.help"], ["MSRACodec"]),
        (["--model.codec.help", "UDPCodec"], ["UDPCodec", "--model.codec.sigma", "Newton"]),
        (["--model.codec.help=UDPCodec"], ["UDPCodec", "Newton"]),
        (["--model.codec", "UDPCodec", "--model.codec.help"], ["--model.codec: UDPCodec"]),
        (["--model.optimizer.help"], ["--model.optimizer.lr  a number; required", "timm"]),
        (["--model.num_keypoints.help"], ["--model.num_keypoints  a whole number; default 17", "Heatmaps"]),
        (["--trainer.callbacks.help"], ["EMA", "EarlyStopping", "--trainer.callbacks.help NAME"]),
        (["--trainer.callbacks.help", "EMA"], ["--trainer.callbacks.decay"]),
        (["--trainer.max_epochs.help"], ["a whole number or null"]),
        (["-h"], ["usage", "key+:", "key=:", "--model.help", "--trainer.max_epochs", "--seed_everything"]),
    ],
)
def test_nested_keys_have_pages(arguments, words, capsys):
    text = page(capsys, *arguments)
    for word in words:
        assert word in text


def test_flags_behind_the_question_are_flags(capsys):
    behind = ["--wandb.mode", "disabled", "--model.codec", "UDPCodec"]
    assert "--data: CocoPose" in page(capsys, "--data.help", *behind)
    assert "--data: ImageFolder" in page(capsys, "--data.help", "ImageFolder", *behind)
    assert "--model.codec: UDPCodec" in page(capsys, "--model.codec.help", *behind)
    assert "class_path: tasks" in page(capsys, "--print_config", *behind)


def test_pages_of_joint_runs_are_those_of_their_parts(capsys):
    files = ("multitask.yaml",)
    text = page(capsys, "--model.tasks.pose.help", files=files)
    assert "PoseTask" in text
    assert "pose.backbone" not in text  # given by the joint task
    assert "--data.data.segmentation.base_scale" in page(capsys, "--data.data.segmentation.help", files=files)
    assert "UDPCodec" in page(capsys, "--model.tasks.pose.codec.help", files=files)
    policy = page(capsys, "--data.help", files=files)
    assert "round_robin" in policy.split("--data.data ")[0]  # what the page says of policies stands above them


def test_what_a_task_has_settled_is_on_no_page(capsys):
    text = page(capsys, "--model.help", "LandmarkTask", files=())
    assert "--model.num_landmarks" in text
    assert "--model.frozen_statistics" in text
    assert "num_keypoints" not in text
    assert "measure " not in text


def test_words_of_a_base_class_are_found_for_what_refers_to_them(capsys):
    text = " ".join(page(capsys, "--data.help", "Cityscapes").split())
    assert "How large a training image is at scale 1" in text
    assert "2 makes it 2048 pixels for the published crops" in text
    assert "See `" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.codecc.help"], ["model has no key 'codecc'", "mean codec?"]),
        (["--modell.help"], ["'modell'", "mean model?"]),
        (["--model.help", "PosTask"], ["'PosTask'", "mean PoseTask?"]),
        (["--model.codec.help", "nowhere.Codec"], ["nowhere"]),
    ],
)
def test_a_page_that_does_not_exist_is_one_sentence(arguments, words):
    with pytest.raises(ConfigError) as caught:
        parse(PARSER, [find("pose_coco.yaml")], arguments)
    for word in words:
        assert word in str(caught.value)


def test_help_needs_no_experiment_and_survives_a_wrong_one(capsys, tmp_path):
    assert "PoseTask" in page(capsys, "--model.help", files=())
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("model: {class_path: PoesTask}")
    assert "PoseTask" in page(capsys, "--model.help", files=(str(wrong),))
    assert "usage" in page(capsys, "--help", files=())
