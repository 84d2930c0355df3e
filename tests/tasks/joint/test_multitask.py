"""A joint run: one backbone under several tasks, gradients as plain autograd has them, checkpoints that split."""

import copy
import json
import math
import weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn

import tasks
from datamodules import BaseDataModule, MultiTaskDataModule
from datamodules.base import BaseDataset
from experiments.training.cost import cost
from hrnet import HRNet, for_inference, load_weights
from tasks import ClassificationTask, MultiTask, PoseTask, SegmentationTask, Task, save_task
from tasks.optim import create_optimizer

SMALL = {"variant": "w18_small_v1"}


class Brightness(Task):
    """Toy task, as a stranger would write it: mean brightness of an image from the finest stream."""

    monitor = "val/error"
    mode = "min"

    def __init__(self, backbone: HRNet, scale: float = 1.0, **kwargs) -> None:
        super().__init__(backbone, **kwargs)
        self.scale = scale
        self.head = nn.Linear(self.backbone.channels[0], 1)
        self.errors: list[float] = []

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images)[0].mean((2, 3)))[:, 0]

    def losses(self, outputs: Tensor, batch: dict) -> dict[str, Tensor]:
        target = batch["image"].float().mean((1, 2, 3)) / 255
        return {"square": self.scale * (outputs - target).square().mean()}

    def predict(self, outputs: Tensor, batch: dict) -> Tensor:
        return outputs

    def update(self, predictions: Tensor, batch: dict) -> None:
        self.errors += self.losses(predictions, batch)["square"].view(1).tolist()

    def compute(self) -> dict[str, float]:
        return {"error": sum(self.errors) / len(self.errors)}

    def reset(self) -> None:
        self.errors = []


class Redness(Brightness):
    """The same of the first channel."""

    def losses(self, outputs: Tensor, batch: dict) -> dict[str, Tensor]:
        return {"absolute": (outputs - batch["image"][:, 0].float().mean((1, 2)) / 255).abs().mean()}

    def update(self, predictions: Tensor, batch: dict) -> None:
        self.errors += self.losses(predictions, batch)["absolute"].view(1).tolist()


class Noise(BaseDataset):
    def __init__(self, count: int, level: int) -> None:
        self.count, self.level = count, level

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int, rng: np.random.Generator) -> dict:
        fixed = np.random.default_rng(index).integers(0, self.level, (32, 32, 3), dtype=np.uint8)
        return {"image": fixed // 2 + rng.integers(0, 64, fixed.shape, dtype=np.uint8), "image_id": index}


class NoiseData(BaseDataModule):
    def __init__(self, count: int = 8, level: int = 255) -> None:
        super().__init__(".", image_size=(32, 32), batch_size=2, num_workers=0)
        self.count, self.level = count, level

    def dataset(self, split: str) -> Noise:
        return Noise(self.count if split == "train" else 3, self.level)


def toy(**options) -> MultiTask:
    torch.manual_seed(0)
    options = {"optimizer": {"name": "momentum", "lr": 0.01}, **options}
    return MultiTask(HRNet(**SMALL), {"bright": Brightness, "red": Redness}, **options)


def toy_data(**options) -> MultiTaskDataModule:
    return MultiTaskDataModule({"bright": NoiseData(12), "red": NoiseData(8, 99)}, num_workers=0, **options)


def images_of(level: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.randint(0, level, (2, 3, 32, 32), generator=generator, dtype=torch.uint8)}


def batches(seed: int = 0) -> dict[str, dict[str, Tensor]]:
    return {"bright": images_of(255, seed), "red": images_of(60, seed + 1)}


def alone(task: LightningModule) -> LightningModule:
    """Ready for training_step without a fit."""
    task.trainer = Trainer(accelerator="cpu", logger=False, barebones=True)
    task.log = task.log_dict = lambda *args, **kwargs: None
    return task


def quiet_trainer(folder: Path, **options) -> Trainer:
    silent = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    options = {"logger": False, "num_sanity_val_steps": 0, **silent, **options}
    return Trainer(accelerator="cpu", default_root_dir=folder, **options)


@pytest.fixture(scope="module")
def three() -> MultiTask:
    torch.manual_seed(0)
    makers = {
        "pose": partial(PoseTask, flip_test=False),
        "parts": partial(SegmentationTask, num_classes=5),
        "kind": partial(ClassificationTask, num_classes=7),
    }
    return MultiTask(HRNet(**SMALL), makers).eval()


def test_backbone_is_one_object_with_each_parameter_once(three):
    assert all(task.backbone is three.backbone for task in three.tasks.values())
    names = [name for name, _ in three.named_parameters()]
    assert len(names) == len(set(names))
    assert {name.split(".")[0] for name in three.state_dict()} == {"backbone", "tasks"}
    assert all(".head." in name for name in three.state_dict() if name.startswith("tasks."))
    single = [PoseTask(SMALL), SegmentationTask(SMALL, 5), ClassificationTask(SMALL, 7)]
    heads = sum(p.numel() for task in single for p in task.head.parameters())
    assert sum(p.numel() for p in three.parameters()) == heads + sum(p.numel() for p in three.backbone.parameters())
    optimizer = create_optimizer(three, {"name": "adam", "lr": 0.1, "lr_scales": {"backbone": 0.1}})
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted({id(p) for p in three.parameters()})
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rate[id(three.backbone.conv1.weight)] == pytest.approx(0.01)
    assert rate[id(three.tasks["pose"].head.weight)] == 0.1


def test_joint_forward_runs_the_backbone_once_and_gives_what_each_task_gives(three):
    images = torch.randn(1, 3, 64, 64)
    calls = []
    handle = three.backbone.conv1.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        found = three(images)
        assert len(calls) == 1
        for name, task in three.tasks.items():
            torch.testing.assert_close(found[name], task(images))
    handle.remove()
    assert len(calls) == 4  # afterwards each task runs it again


def test_windows_of_a_joint_forward_are_computed_for_themselves():
    joint = MultiTask(HRNet(**SMALL), {"parts": partial(SegmentationTask, num_classes=3, window=(64, 64))}).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(joint(images)["parts"], joint.tasks["parts"](images))


class Halved(SegmentationTask):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) / 2


def test_a_forward_that_a_subclass_changes_is_not_left_out_of_a_joint_one():
    makers = {"parts": partial(SegmentationTask, num_classes=3), "halved": partial(Halved, num_classes=3)}
    joint = MultiTask(HRNet(**SMALL), makers).eval()
    joint.tasks["halved"].head.load_state_dict(joint.tasks["parts"].head.state_dict())
    with torch.no_grad():
        found = joint(torch.randn(1, 3, 64, 64))
    torch.testing.assert_close(found["halved"], found["parts"] / 2)


class Difference(Brightness):
    """Runs the backbone on the image and on its mirror image."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) - super().forward(images.flip(-1))


def test_a_joint_forward_computes_other_images_anew():
    torch.manual_seed(0)
    joint = MultiTask(HRNet(**SMALL), {"bright": Brightness, "difference": Difference}).eval()
    images = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        found = joint(images)["difference"]
        torch.testing.assert_close(found, joint.tasks["difference"](images))
    assert found.abs().max() > 0


def test_with_statistics_of_its_own_a_task_predicts_by_them_too():
    """The flip test runs the backbone once more, at prediction."""
    pairs = {"names": ["left", "right"], "limbs": [], "flip_pairs": [[0, 1]], "sigmas": [0.1, 0.1]}
    makers = {"pose": partial(PoseTask, num_keypoints=2, skeleton=pairs), "red": Redness}
    torch.manual_seed(0)
    joint = alone(MultiTask(HRNet(**SMALL), makers, batch_norm="per_task")).eval()
    batch = images_of(255, 0) | {"to_image": torch.eye(3)[:2].expand(2, 2, 3)}
    with torch.no_grad(), joint.norms["pose"].in_use(joint.backbone):
        joint.backbone.train()
        joint.backbone(joint.normalize(images_of(255, 1)["image"]))
        joint.backbone.eval()
        single = joint.single("pose")
        expected = single.predict(single.outputs(batch), batch)
    with torch.no_grad():
        found = joint.predict(joint.outputs({"pose": batch}), {"pose": batch})["pose"]
    torch.testing.assert_close(found, expected)


def test_a_task_is_prepared_as_its_own_data_are_once_it_is_split_off():
    joint = toy()
    joint.preparation = {"bright": {"image_size": [32, 32]}, "red": {"image_size": [64, 64]}}
    assert joint.single("red").preparation == {"image_size": [64, 64]}
    assert joint.single("red").backbone is not joint.backbone


def test_what_tasks_take_from_their_data_is_in_the_joint_checkpoint(tmp_path):
    joint = MultiTask(HRNet(**SMALL), {"kind": partial(ClassificationTask, num_classes=2)})
    data = SimpleNamespace(num_classes=2, class_names=["bee", "wasp"])
    joint.attach(SimpleNamespace(tasks={"kind": data}))
    save_task(joint, tmp_path / "joint.ckpt")
    assert tasks.load(tmp_path / "joint.ckpt").tasks["kind"].class_names == ["bee", "wasp"]
    other = SimpleNamespace(num_classes=3, class_names=["bee", "wasp", "fly"])
    with pytest.raises(ValueError, match=r"Task 'kind'.*num_classes to 3"):
        joint.attach(SimpleNamespace(tasks={"kind": other}))


@pytest.mark.parametrize("batch_norm", ["shared", "per_task"])
def test_checkpoint_loads_strictly_both_ways_and_predicts_the_same(tmp_path, batch_norm):
    joint = toy(balancing="uncertainty", batch_norm=batch_norm)
    save_task(joint, tmp_path / "joint.ckpt")
    again = tasks.load(tmp_path / "joint.ckpt")
    assert again.state_dict().keys() == joint.state_dict().keys()
    joint.load_state_dict(again.state_dict(), strict=True)
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(again(images), joint.eval()(images))
    assert isinstance(again.tasks["red"], Redness)


@pytest.mark.parametrize("batch_norm", ["shared", "per_task"])
def test_a_task_splits_off_and_predicts_the_same(tmp_path, batch_norm):
    joint = alone(toy(batch_norm=batch_norm))
    optimizer = torch.optim.SGD(joint.parameters(), lr=0.01)
    for step in range(3):
        optimizer.zero_grad()
        joint.training_step(batches(step), step).backward()
        optimizer.step()
    joint.eval()
    images = images_of(99, 7)
    for name, task in joint.tasks.items():
        save_task(joint.single(name), tmp_path / f"{name}.ckpt")
        single = tasks.load(tmp_path / f"{name}.ckpt")
        assert type(single) is type(task)
        with torch.no_grad():
            expected = joint.outputs({name: images})[name]
            torch.testing.assert_close(single.outputs(images), expected, rtol=0, atol=1e-5)
            whole = joint(joint.normalize(images["image"]))[name]
            torch.testing.assert_close(whole, expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="no task 'blue'"):
        joint.single("blue")


@pytest.mark.parametrize("batch_norm", ["shared", "per_task"])
def test_tasks_on_their_own_share_a_backbone_where_they_can(batch_norm):
    joint = alone(toy(batch_norm=batch_norm))
    joint.training_step(batches(), 0)
    joint.preparation = {"bright": {}, "red": {"image_size": [64, 64]}}
    joint.eval()
    image = images_of(255, 5)
    found = joint.singles()
    backbones = {id(task.backbone) for task in found.values()}
    assert len(backbones) == (1 if batch_norm == "shared" else 2)
    assert id(joint.backbone) not in backbones
    assert found["red"].preparation == {"image_size": [64, 64]}
    fast = for_inference(torch.nn.ModuleList(found.values()))
    assert len({id(task.backbone) for task in fast}) == len(backbones)
    for (name, task), folded in zip(found.items(), fast, strict=True):
        expected = joint.single(name).outputs(image)
        torch.testing.assert_close(task.outputs(image), expected)
        torch.testing.assert_close(folded.outputs(image), expected, rtol=1e-4, atol=1e-5)
    assert "backbone.conv1.weight" in found["red"].state_dict()
    assert "tasks.red.backbone.conv1.weight" not in joint.state_dict()


def test_gradients_are_those_of_the_weighted_sum():
    joint = toy(task_weights={"red": 3.0}).double()
    reference = copy.deepcopy(joint)
    losses = [sum(reference.tasks[name].training_losses(part).values()) for name, part in batches().items()]
    (losses[0] + 3 * losses[1]).backward()
    total = alone(joint).training_step(batches(), 0)
    assert total.item() == pytest.approx((losses[0] + 3 * losses[1]).item())
    total.backward()
    for (name, found), expected in zip(joint.named_parameters(), reference.parameters(), strict=True):
        assert (found.grad is None) == (expected.grad is None), name
        if found.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-6, atol=1e-9, msg=name)


def test_a_step_with_one_task_leaves_the_others_head_alone():
    joint = alone(toy())
    joint.training_step({"red": images_of(60, 1)}, 0).backward()
    assert joint.tasks["bright"].head.weight.grad is None
    assert joint.tasks["red"].head.weight.grad is not None


def test_only_one_tasks_graph_is_alive_at_a_time(monkeypatch):
    joint = alone(toy())
    outputs = []

    def watched(task: Brightness, images: Tensor) -> Tensor:
        assert all(reference() is None for reference in outputs)
        streams = task.backbone(images)
        outputs.append(weakref.ref(streams[0]))
        return task.head(streams[0].mean((2, 3)))[:, 0]

    monkeypatch.setattr(Brightness, "forward", watched)
    joint.training_step(batches(), 0)
    assert len(outputs) == 2


class Darkness(Brightness):
    """Away from where brightness goes, or nearly so."""

    def losses(self, outputs: Tensor, batch: dict) -> dict[str, Tensor]:
        weights = torch.linspace(0.5, 1.0, len(outputs))
        return {"square": -(weights * (outputs + batch["image"].float().mean((1, 2, 3)) / 255).square()).mean()}


def test_pcgrad_projects_all_shared_gradients_by_the_last_stage():
    torch.manual_seed(0)
    joint = MultiTask(HRNet(**SMALL), {"bright": Brightness, "dark": Darkness}, balancing="pcgrad")
    joint.tasks["dark"].head.load_state_dict(joint.tasks["bright"].head.state_dict())
    images = images_of(255, 0)
    rows = {}
    for name in joint.tasks:
        fresh = copy.deepcopy(joint)
        sum(fresh.tasks[name].training_losses(images).values()).backward()
        rows[name] = {n: p.grad for n, p in fresh.named_parameters() if p.grad is not None}
    last = [torch.cat([g.flatten() for n, g in row.items() if "backbone.stage4" in n]) for row in rows.values()]
    product, (first, second) = last[0] @ last[1], (g.square().sum() for g in last)
    assert product < -0.1 * (first * second).sqrt()
    # Each loses its part along the other: g1 - p / |g2|^2 g2 and g2 - p / |g1|^2 g1.
    factors = {"bright": 1 - product / first, "dark": 1 - product / second}
    alone(joint).training_step({"bright": images, "dark": images}, 0).backward()
    for n in ("backbone.conv1.weight", "backbone.layer1.0.conv1.weight", "backbone.stage4.0.branches.0.0.conv1.weight"):
        wanted = sum(factors[name] * row[n] for name, row in rows.items())
        torch.testing.assert_close(joint.get_parameter(n).grad, wanted, rtol=1e-3, atol=1e-5)
    for name, task in joint.tasks.items():
        torch.testing.assert_close(task.head.weight.grad, rows[name][f"tasks.{name}.head.weight"])


@pytest.mark.parametrize("balancing", ["geometric", "gradnorm"])
def test_methods_that_need_every_task_say_so(balancing):
    with pytest.raises(ValueError, match="policy to all"):
        alone(toy(balancing=balancing)).training_step({"red": images_of(60, 1)}, 0)


def test_per_task_statistics_are_those_of_the_tasks_own_images():
    joint = alone(toy(batch_norm="per_task"))
    only = {name: copy.deepcopy(joint.backbone) for name in joint.tasks}
    before = copy.deepcopy(joint.backbone.state_dict())
    joint.training_step(batches(), 0)
    for name, backbone in only.items():
        backbone(joint.normalize(batches()[name]["image"]))
        single = joint.single(name).backbone
        torch.testing.assert_close(single.bn1.running_mean, backbone.bn1.running_mean)
        torch.testing.assert_close(single.stage4[0].fuse_layers[0][1][1].running_var,
                                   backbone.stage4[0].fuse_layers[0][1][1].running_var)  # fmt: skip
    torch.testing.assert_close(joint.backbone.state_dict(), before)
    assert not torch.allclose(*(joint.single(name).backbone.bn1.running_mean for name in joint.tasks))


def test_shared_statistics_see_every_task():
    joint = alone(toy())
    joint.training_step(batches(), 0)
    assert int(joint.backbone.bn1.num_batches_tracked) == 2


def test_shared_statistics_are_fixed_and_used_at_the_end(tmp_path):
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            norm = pl_module.backbone.bn1
            seen.append((norm.training, int(norm.num_batches_tracked)))

    trainer = quiet_trainer(tmp_path, max_epochs=4, callbacks=[Watch()])
    trainer.fit(toy(frozen_statistics=0.5), toy_data(epoch_length=2))  # validates after each epoch
    assert seen == [*((True, count) for count in (2, 4, 6, 8)), *[(False, 8)] * 4]  # two tasks a step


class Stop(Callback):
    """Ends the training before a step and keeps what was reached."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("killed")

    def on_exception(self, trainer, pl_module, exception) -> None:
        trainer.save_checkpoint(self.path)


class Record(Callback):
    def __init__(self) -> None:
        self.losses: dict[int, dict[str, float]] = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        values = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
        wanted = [f"train/{name}/{term}" for name, term in (("bright", "square"), ("red", "absolute"))]
        here = [term for term in wanted if term.split("/")[1] in batch]
        self.losses[trainer.global_step] = {name: values[name] for name in ["train/loss", *here]}


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        ("all", {"balancing": "dwa", "batch_norm": "per_task"}),
        ("all", {"balancing": "gradnorm"}),
        ("all", {"frozen_statistics": 0.4, "optimizer": {"name": "momentum", "lr": 1e-5}}),
        ("all", {"balancing": "pcgrad"}),
        ("proportional", {"balancing": "uncertainty"}),
    ],
)
def test_killed_and_resumed_it_goes_through_the_same_losses(tmp_path, policy, options):
    def fit(record: Record, *callbacks: Callback, **arguments) -> None:
        seed_everything(1, verbose=False)
        trainer = quiet_trainer(tmp_path, max_epochs=3, callbacks=[record, *callbacks], limit_val_batches=0)
        trainer.fit(toy(**options), toy_data(policy=policy, epoch_length=4), **arguments)

    whole, first, second = Record(), Record(), Record()
    fit(whole)
    with pytest.raises(RuntimeError, match="killed"):
        fit(first, Stop(6, tmp_path / "stopped.ckpt"))
    fit(second, ckpt_path=tmp_path / "stopped.ckpt", weights_only=True)
    assert list(whole.losses) == list(range(1, 13))
    assert list(second.losses) == list(range(7, 13))
    for step, expected in whole.losses.items():
        assert (first.losses | second.losses)[step] == pytest.approx(expected, rel=1e-5), step


def test_fit_logs_every_tasks_own_and_the_score(tmp_path, capsys):
    joint = toy(gradient_every=1, baselines={"bright": 0.5, "red": 0.25})
    trainer = quiet_trainer(tmp_path, max_epochs=1, limit_train_batches=2, enable_checkpointing=False)
    trainer.fit(joint, toy_data())
    logged = trainer.callback_metrics
    errors = {name: logged[f"val/{name}/error"].item() for name in ("bright", "red")}
    assert logged["val/score"].item() == pytest.approx(np.mean([1 / (1 + error) for error in errors.values()]))
    changes = [(0.5 - errors["bright"]) / 0.5, (0.25 - errors["red"]) / 0.25]
    assert logged["val/delta_m"].item() == pytest.approx(np.mean(changes), rel=1e-5)
    for name, term in (("bright", "square"), ("red", "absolute")):
        assert f"train/{name}/{term}" in logged
        assert f"val/{name}/{term}" in logged
        for kind in ("loss", "weighted_loss", "weight", "gradient_norm"):
            assert math.isfinite(logged[f"train/{name}/{kind}"])
    assert -1 <= logged["train/gradient_cosine/bright_red"] <= 1
    trainer.validate(joint, toy_data(), verbose=False)
    out = capsys.readouterr().out
    assert "val/score is the mean of 1 / (1 + bright/error), 1 / (1 + red/error)" in out
    assert "delta-m" in out


def test_frozen_backbone_stays_while_heads_learn(tmp_path):
    joint = toy(freeze_backbone=True)
    before = copy.deepcopy(joint.state_dict())
    quiet_trainer(tmp_path, max_epochs=1, limit_train_batches=2, limit_val_batches=0).fit(joint, toy_data())
    after = joint.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before if n.startswith("backbone."))
    assert not torch.equal(before["tasks.red.head.weight"], after["tasks.red.head.weight"])


@pytest.mark.parametrize("batch_norm", ["shared", "per_task"])
def test_single_task_checkpoints_start_backbone_and_heads(tmp_path, batch_norm):
    torch.manual_seed(5)
    single = Brightness(HRNet(**SMALL))
    nn.init.constant_(single.backbone.bn1.running_mean, 0.5)
    save_task(single, tmp_path / "single.ckpt")
    path = str(tmp_path / "single.ckpt")
    makers = {"bright": partial(Brightness, weights=path), "red": Redness}
    joint = MultiTask(HRNet(**SMALL), makers, weights=path, batch_norm=batch_norm)
    untouched = copy.deepcopy(joint.tasks["red"].head.weight)
    quiet_trainer(tmp_path, max_epochs=0).fit(joint, toy_data())
    torch.testing.assert_close(joint.backbone.state_dict(), single.backbone.state_dict())
    torch.testing.assert_close(joint.tasks["bright"].head.weight, single.head.weight)
    torch.testing.assert_close(joint.tasks["red"].head.weight, untouched)
    torch.testing.assert_close(joint.single("red").backbone.bn1.running_mean, single.backbone.bn1.running_mean)


def test_head_weights_alone_leave_the_backbone(tmp_path):
    single = Brightness(HRNet(**SMALL))
    save_task(single, tmp_path / "single.ckpt")
    joint = MultiTask(
        HRNet(**SMALL), {"bright": partial(Brightness, weights=str(tmp_path / "single.ckpt")), "red": Redness}
    )
    before = copy.deepcopy(joint.backbone.state_dict())
    quiet_trainer(tmp_path, max_epochs=0).fit(joint, toy_data())
    torch.testing.assert_close(joint.backbone.state_dict(), before)
    torch.testing.assert_close(joint.tasks["bright"].head.weight, single.head.weight)
    assert "backbone" not in dict(joint.tasks["bright"].named_children())


def test_joint_checkpoint_starts_a_single_task(tmp_path):
    joint = MultiTask(HRNet(**SMALL), {"parts": partial(SegmentationTask, num_classes=5), "red": Redness})
    save_task(joint, tmp_path / "joint.ckpt")
    single = SegmentationTask(HRNet(**SMALL), 5)
    load_weights(single, tmp_path / "joint.ckpt", strict=False)
    torch.testing.assert_close(single.head.state_dict(), joint.tasks["parts"].head.state_dict())
    torch.testing.assert_close(single.backbone.state_dict(), joint.backbone.state_dict())


def test_a_fourth_task_is_one_entry_in_the_yaml(tmp_path):
    spec = {
        "class_path": "MultiTask",
        "init_args": {
            "backbone": SMALL,
            "tasks": {
                "pose": {"class_path": "PoseTask", "init_args": {"codec": {"class_path": "DarkCodec"}}},
                "parts": {"class_path": "SegmentationTask", "init_args": {"num_classes": 5}},
                "kind": {"class_path": "ClassificationTask", "init_args": {"num_classes": 7}},
                "bright": {"class_path": "Brightness", "init_args": {"scale": 2.0}},
            },
            "balancing": {"name": "dwa", "temperature": 3.0},
        },
    }
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--model", type=Task)
    joint = parser.instantiate(parser.parse_args(["--model", json.dumps(spec)])).model
    assert isinstance(joint.tasks["bright"], Brightness)
    assert joint.tasks["bright"].scale == 2
    assert isinstance(joint.tasks["pose"].codec, tasks.DarkCodec)
    assert joint.balancing.temperature == 3
    save_task(joint, tmp_path / "four.ckpt")
    again = tasks.load(tmp_path / "four.ckpt")
    assert list(again.tasks) == ["pose", "parts", "kind", "bright"]
    assert again.tasks["pose"].codec == joint.tasks["pose"].codec


@pytest.mark.parametrize(
    ("makers", "options", "words"),
    [
        ({"parts": partial(SegmentationTask, num_classes=3)}, {}, "Task 'parts'.*four streams"),
        ({"kind": partial(ClassificationTask, num_classes=3)}, {}, "Task 'kind'.*four streams"),
        ({"a.b": Brightness}, {}, "'a.b'"),
        ({"keys": Brightness}, {}, "'keys'"),
        ({}, {}, "at least one task"),
        ({"a": partial(Brightness, optimizer={"name": "adam", "lr": 1.0})}, {}, "'a' sets optimizer.*joint run"),
        ({"a": Brightness}, {"batch_norm": "both"}, "per_task"),
        ({"a": Brightness}, {"frozen_statistics": 2.0}, "frozen_statistics is 2.0"),
        ({"a": Brightness}, {"frozen_statistics": 0.5, "batch_norm": "per_task"}, "0 with per_task"),
        ({"a": Brightness}, {"balancing": "magic"}, "no method 'magic'"),
        ({"a": Brightness}, {"baselines": {"b": 1.0}}, "baselines has b"),
    ],
)
def test_mistakes_are_sentences(makers, options, words):
    with pytest.raises(ValueError, match=words):
        MultiTask(HRNet(**SMALL, multi_scale_output=False), makers, **options)


def test_tasks_and_data_must_have_the_same_names():
    joint = toy()
    with pytest.raises(ValueError, match="bright, red and the data are for bright"):
        joint.attach(MultiTaskDataModule({"bright": NoiseData()}, num_workers=0))
    with pytest.raises(ValueError, match="NoiseData is for one task"):
        joint.attach(NoiseData())


def test_baselines_come_from_run_folders(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"best": {"val/error": 0.4}, "last": {}}))
    joint = toy(baselines={"red": str(tmp_path)})
    quiet_trainer(tmp_path, max_epochs=0).fit(joint, toy_data())
    assert joint.baseline_values == {"red": 0.4}
    with pytest.raises(ValueError, match=r"no summary\.json"):
        quiet_trainer(tmp_path, max_epochs=0).fit(toy(baselines={"red": str(tmp_path / "none")}), toy_data())


def test_a_mapping_for_the_backbone_gives_only_its_own_arguments():
    joint = MultiTask(SMALL, {"bright": Brightness})
    assert set(joint.hparams["backbone"]) == set(HRNet(**SMALL).hparams)
    assert set(joint.hparams["tasks"]["bright"]["init_args"]) >= {"scale", "weights"}
    assert "balancing" not in joint.hparams["tasks"]["bright"]["init_args"]


def test_joint_forward_costs_at_most_half_of_the_three_models():
    makers = {
        "pose": PoseTask,
        "parts": partial(SegmentationTask, num_classes=19),
        "kind": partial(ClassificationTask, num_classes=1000),
    }
    size = (256, 192)
    with torch.device("meta"):
        single = sum(cost(make(HRNet("w32")), size).multiply_adds for make in makers.values())
        assert cost(MultiTask(HRNet("w32"), makers), size).multiply_adds < 0.5 * single
