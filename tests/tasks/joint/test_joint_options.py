"""Options of a joint run reach what they are options of; its score, and its change against single-task runs."""

import json
import math

import numpy as np
import pytest
from jsonargparse import ArgumentParser
from lightning import Callback

from datamodules import MultiTaskDataModule
from tasks import Task
from tasks.draw.tables import Samples
from tasks.joint.score import joint_score, read_baselines, relative_change
from tests.tasks.joint.toys import GOALS, WEIGHTS, ShiftData, pulls, quiet_trainer, shift_data, unlike_parts


class Track(Callback):
    """Where the shared point of the last stage and the heads are after each epoch."""

    def __init__(self) -> None:
        self.last: list[list[float]] = []
        self.heads: list[float] = []

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        self.last.append(pl_module.backbone.stage4[0].weight.tolist())
        self.heads.append(pl_module.tasks["a"].head.item())


@pytest.mark.parametrize(("frozen", "still"), [(False, 0), (1, 1), (2, 2), (True, 4)])
def test_backbone_is_frozen_for_so_many_epochs(tmp_path, frozen, still):
    track = Track()
    trainer = quiet_trainer(tmp_path, 4, callbacks=[track], limit_val_batches=1)  # validates in between
    trainer.fit(pulls(freeze_backbone=frozen), shift_data(*unlike_parts()))
    assert track.last[:still] == [[0.0, 0.0]] * still
    assert len({tuple(point) for point in track.last[still:]} | {(0.0, 0.0)}) == 5 - still
    assert 0 < track.heads[0] < track.heads[3] < 1


@pytest.mark.parametrize("compiled", [True, False])
def test_backbone_is_compiled_where_asked(tmp_path, monkeypatch, compiled):
    asked = []
    monkeypatch.setattr("hrnet.HRNet.compile", lambda self: asked.append(self))
    joint = pulls(compile=compiled)
    quiet_trainer(tmp_path, 1, limit_train_batches=1).fit(joint, shift_data(*unlike_parts()))
    assert asked == [joint.backbone] * compiled


@pytest.mark.parametrize("written", ["true", "false", "1", "2"])
def test_yaml_tells_a_number_of_epochs_from_yes_and_no(written):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--model", type=Task)
    given = {"class_path": "PoseTask", "init_args": {"backbone": {"variant": "w18_small_v1"}}}
    options = [f"--model={json.dumps(given)}", f"--model.freeze_backbone={written}"]
    found = parser.parse_args(options).model.init_args.freeze_backbone
    assert found is json.loads(written)


@pytest.mark.parametrize(
    ("options", "early", "last", "a", "b"),
    [
        ({}, 1.0, 1.0, 1.0, 1.0),
        ({"lr_scales": {"backbone": 0.1}}, 0.1, 0.1, 1.0, 1.0),
        ({"lr_scales": {"tasks.a": 2.0}}, 1.0, 1.0, 2.0, 1.0),
        ({"lr_scales": {"tasks": 3.0, "tasks.b": 0.5, "backbone.stage4": 4.0}}, 1.0, 4.0, 3.0, 0.5),
        ({"layer_decay": 0.5}, 0.5, 1.0, 1.0, 1.0),
        ({"layer_decay": 0.5, "lr_scales": {"backbone": 0.1}}, 0.05, 0.1, 1.0, 1.0),
    ],
)
def test_parts_of_a_joint_run_have_rates_of_their_own(tmp_path, options, early, last, a, b):
    joint = pulls(task_weights=WEIGHTS, optimizer={"name": "momentum", "lr": 0.1, "momentum": 0.0, **options})
    still = ShiftData([0, 0], 2), ShiftData([0, 0, 0], 3)
    quiet_trainer(tmp_path, 1).fit(joint, shift_data(*still))
    # One step down the gradients of `test_fixed_weights_are_factors_of_all_gradients`.
    assert joint.backbone.stage3[0].weight.tolist() == pytest.approx([-0.05 * early, 0.4 * early])
    assert joint.backbone.stage4[0].weight.tolist() == pytest.approx([-0.55 * last, -0.05 * last])
    assert joint.tasks["a"].head.item() == pytest.approx(0.2 * a)
    assert joint.tasks["b"].head.item() == pytest.approx(0.05 * b)


def test_the_learned_variances_have_a_rate_of_their_own(tmp_path):
    scaled = {"name": "momentum", "lr": 0.1, "momentum": 0.0, "lr_scales": {"balancing": 0.01}}
    joint = pulls(task_weights=WEIGHTS, balancing="uncertainty", optimizer=scaled)
    quiet_trainer(tmp_path, 1).fit(joint, shift_data(ShiftData([0, 0], 2), ShiftData([0, 0, 0], 3)))
    assert joint.balancing.log_variance.tolist() == pytest.approx([0.001 * 6.5, 0.0], abs=1e-8)


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 8), (2, 4)])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_statistics_are_fixed_for_the_last_share_of_the_steps(tmp_path, share, accumulate, steps):
    joint = pulls(frozen_statistics=share)
    trainer = quiet_trainer(tmp_path, 4, limit_train_batches=2, accumulate_grad_batches=accumulate)
    trainer.fit(joint, shift_data(*unlike_parts()))
    assert trainer.global_step == steps
    assert joint.freezing.first_step == (round((1 - share) * steps) if share else math.inf)


def test_a_training_without_an_end_has_no_last_share(tmp_path):
    with pytest.raises(ValueError, match=r"needs an end: set trainer\.max_epochs"):
        quiet_trainer(tmp_path, -1).fit(pulls(frozen_statistics=0.5), shift_data(*unlike_parts()))


def test_evaluated_losses_are_means_over_each_tasks_own_samples(tmp_path):
    joint = pulls()
    parts = ShiftData([0], 1, [0, 1, 5]), ShiftData([0], 1, [2, 2, 0, 4, 4, 1, 3])
    parts[0].batch_size, parts[1].batch_size = 2, 3
    found = quiet_trainer(tmp_path, 1, limit_val_batches=None).validate(joint, shift_data(*parts), verbose=False)[0]
    for name, part in zip("ab", parts, strict=True):
        last, early = np.array(GOALS[name]["last"]), np.array(GOALS[name]["early"])
        distances = [np.square(last + np.array([shift, 0])).sum() for shift in part.val]
        assert found[f"val/{name}/shared"] == pytest.approx((np.mean(distances) + np.square(early).sum()) / 2)
        assert found[f"val/{name}/head"] == pytest.approx(0.5)
        assert found[f"val/{name}/error"] == pytest.approx(np.mean(part.val))
    errors = [np.mean(part.val) for part in parts]
    assert found["val/score"] == pytest.approx(np.mean([1 / (1 + error) for error in errors]))


def test_an_evaluation_cut_short_says_so_to_the_tasks_and_forgets_the_one_before(tmp_path):
    joint, data = pulls(), shift_data(ShiftData([0], 1, [4, 6, 8]), ShiftData([0], 1, [1, 2, 3]))
    options = {"limit_val_batches": 2, "limit_test_batches": 1.0}
    trainer = quiet_trainer(tmp_path, 1, **options)
    for _ in range(2):
        found = trainer.validate(joint, data, verbose=False)[0]
        assert (found["val/a/error"], found["val/b/error"]) == (5.0, 1.5)
        assert [task.partial for task in joint.tasks.values()] == [True, True]
        assert [task.split for task in joint.tasks.values()] == ["val", "val"]
    found = trainer.test(joint, data, verbose=False)[0]
    assert (found["test/a/error"], found["test/b/error"]) == (6.0, 2.0)
    assert [task.partial for task in joint.tasks.values()] == [False, False]
    assert [task.split for task in joint.tasks.values()] == ["test", "test"]


def test_sample_tables_are_of_the_last_evaluation_alone(tmp_path):
    joint, trainer = pulls(), quiet_trainer(tmp_path, 1, limit_val_batches=None)
    for shifts in ([4, 6, 8], [3, 1]):
        data = shift_data(ShiftData([0], 1, shifts), ShiftData([0], 1, [1, 2, 3]))
        trainer.validate(joint, data, verbose=False)
        (samples,) = (callback for callback in trainer.callbacks if isinstance(callback, Samples))
        rows = samples.scores["a/"].tables()["samples"]
        assert [row["sample"] for row in rows] == list(range(len(shifts)))
        assert [row["score"] for row in rows] == pytest.approx([1 / (1 + shift) for shift in shifts])
        assert len(samples.scores["b/"].tables()["samples"]) == 3
    for name, count in (("a", 2), ("b", 3)):
        lines = (tmp_path / "predictions" / f"val_{name}_samples.csv").read_text().splitlines()
        assert len(lines) == count + 1


# ---- the score, and the change against single-task runs


def test_score_is_the_mean_of_what_is_defined_and_small_errors_are_good():
    joint = pulls()
    joint.tasks["a"].mode = "max"
    assert joint_score(joint.tasks, {"a": {"error": 0.4}, "b": {"error": 3.0}}) == pytest.approx((0.4 + 0.25) / 2)
    assert joint_score(joint.tasks, {"a": {"error": math.nan}, "b": {"error": 3.0}}) == pytest.approx(0.25)
    assert math.isnan(joint_score(joint.tasks, {"a": {"error": math.nan}, "b": {"error": math.nan}}))
    with pytest.raises(ValueError, match="'b' monitors val/error and computes mAP"):
        joint_score(joint.tasks, {"a": {"error": 1.0}, "b": {"mAP": 1.0}})


def test_changes_are_relative_and_more_is_better():
    joint = pulls()
    joint.tasks["a"].mode = "max"
    found = {"a": {"error": 0.6}, "b": {"error": 3.0}}
    changes = relative_change(joint.tasks, found, {"a": 0.5, "b": 4.0})
    assert changes == pytest.approx({"a": 0.2, "b": 0.25})
    assert relative_change(joint.tasks, found, {"a": 0.8}) == pytest.approx({"a": -0.25})
    assert relative_change(joint.tasks, found, {"b": -2.0}) == pytest.approx({"b": -2.5})


def test_delta_m_needs_a_baseline_of_every_task(tmp_path, capsys):
    data = shift_data(ShiftData([0], 1, [4, 6]), ShiftData([0], 1, [1, 2]))
    trainer = quiet_trainer(tmp_path, 1, limit_val_batches=None)
    assert "val/delta_m" not in trainer.validate(pulls(baselines={"a": 4.0}), data, verbose=False)[0]
    capsys.readouterr()
    found = trainer.validate(pulls(baselines={"a": 4.0, "b": 2.0}), data, verbose=False)[0]
    # Errors of 5 against 4 and of 1.5 against 2, small ones are good.
    assert found["val/delta_m"] == pytest.approx((-0.25 + 0.25) / 2)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert any(row[1:] == ["a", "│", "error", "│", "4.000", "│", "5.000", "│", "-0.250", "│"] for row in rows)
    assert any(row[1:2] == ["b"] and "0.250" in row for row in rows)


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        ({"best": {"val/error": 0.4}, "last": {"val/error": 0.5}}, 0.4),
        ({"best": {}, "last": {"val/error": 0.5}}, 0.5),
        ({"best": None, "last": {"val/error": 0.5}}, 0.5),
        ({"last": {"val/error": 0.5}}, 0.5),
    ],
)
def test_a_baseline_is_the_best_value_of_its_run_or_else_the_last(tmp_path, summary, expected):
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert read_baselines(pulls().tasks, {"a": str(tmp_path)}) == {"a": expected}


def test_a_baseline_may_be_a_number_however_it_is_written():
    assert read_baselines(pulls().tasks, {"a": 0.5, "b": 2}) == {"a": 0.5, "b": 2}
    assert read_baselines(pulls().tasks, {"a": "0.5"}) == {"a": 0.5}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"best": {"val/AP": 0.4}, "last": {}}', r"no val/error"),
        ('{"best": {"val/error": 0.0}, "last": {}}', "is 0"),
        ('{"best": {"val/e', r"summary\.json is no JSON"),
    ],
)
def test_a_baseline_without_a_value_is_named(tmp_path, content, words):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        read_baselines(pulls().tasks, {"a": str(tmp_path)})


# ---- Policies


@pytest.mark.parametrize("policy", ["round_robin", "proportional"])
def test_what_compares_gradients_needs_several_tasks_in_a_step(tmp_path, policy):
    """A step of one task has no other gradient that its own could oppose."""
    parts = {"a": ShiftData([0, 1, 2, 3], 1), "b": ShiftData([0, 1, 2, 3], 1)}
    trainer = quiet_trainer(tmp_path, 1)
    with pytest.raises(ValueError, match=rf"PCGrad compares .*policy {policy} each step has one task: set it to all"):
        trainer.fit(pulls(balancing="pcgrad"), shift_data(**parts, policy=policy))
    assert trainer.global_step == 0
    trainer.validate(pulls(balancing="pcgrad"), shift_data(**parts, policy=policy), verbose=False)
    quiet_trainer(tmp_path, 1).fit(pulls(balancing="uncertainty"), shift_data(**parts, policy=policy))
    quiet_trainer(tmp_path, 1).fit(pulls(balancing="pcgrad"), shift_data(**parts))


def test_tasks_of_the_same_images_are_several_in_a_step(tmp_path):
    parts = {"a": ShiftData([0, 1], 1), "b": ShiftData([0, 1], 1), "c": "a"}
    trainer = quiet_trainer(tmp_path, 1)
    task = pulls(GOALS | {"c": GOALS["b"]}, balancing="pcgrad")
    trainer.fit(task, MultiTaskDataModule(parts, policy="round_robin", num_workers=0))
    assert trainer.global_step == 4
