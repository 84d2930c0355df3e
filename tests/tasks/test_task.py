"""What all tasks share: optimiser, schedule, plain data in checkpoints, and loading them back."""

import math
import random
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tasks
from hrnet import HRNet
from tasks import PoseTask
from tasks.checkpoints.arguments import plain
from tasks.optim import SCHEDULES, GoingOn, create_optimizer, create_schedule

SMALL = {"variant": "w18_small_v1", "multi_scale_output": False}


def trainer_of(steps: int, epochs: int, batches: int | None = None, accumulated: int = 1) -> SimpleNamespace:
    return SimpleNamespace(
        estimated_stepping_batches=steps,
        num_training_batches=batches or steps // epochs,
        train_dataloader=(),
        accumulate_grad_batches=accumulated,
        max_steps=-1,
    )


def rates(spec: dict, steps: int, epochs: int, **options: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = create_schedule(optimizer, spec, trainer_of(steps, epochs, **options))
    found = []
    for step in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        schedule.step_update(step + 1)
    return found


def test_colours_are_normalised_by_imagenets_red_green_and_blue():
    # (value - mean) / deviation with the means 123.675, 116.28, 103.53 and deviations 58.395, 57.12, 57.375.
    expected = {(200, 100, 50): (1.307047, -0.285014, -0.932985), (0, 0, 0): (-2.117904, -2.035714, -1.804444),
                (255, 255, 255): (2.248908, 2.428571, 2.640000)}  # fmt: skip
    task = PoseTask(SMALL)
    for colour, values in expected.items():
        image = torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1).repeat(2, 1, 4, 5)
        before = image.clone()
        found = task.normalize(image)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, torch.tensor(values).view(1, 3, 1, 1).expand(2, 3, 4, 5), rtol=0, atol=2e-6)
        assert torch.equal(image, before), "the batch itself is drawn in pictures later"


def test_poly_is_the_published_formula_at_every_step():
    expected = [(1 - t / 40) ** 0.9 for t in range(40)]
    assert rates({"name": "poly", "power": 0.9}, 40, 4) == pytest.approx(expected)


def test_multistep_drops_at_the_start_of_its_epochs():
    found = rates({"name": "multistep", "milestones": [2, 3]}, 40, 4)
    assert found == pytest.approx([1.0] * 20 + [0.1] * 10 + [0.01] * 10)


def test_warm_up_rises_linearly():
    found = rates({"name": "cosine", "warmup_epochs": 1, "warmup_lr": 0.0}, 40, 4)
    assert found[:10] == pytest.approx([t / 10 for t in range(10)])
    assert found[10:] == pytest.approx([0.5 + 0.5 * math.cos(math.pi * t / 40) for t in range(10, 40)])


@pytest.mark.parametrize(("accumulated", "steps"), [(2, 3), (3, 2), (4, 2), (5, 1), (6, 1)])
def test_batches_that_are_left_over_at_the_end_of_an_epoch_are_a_step_too(accumulated, steps):
    spec = {"name": "multistep", "milestones": [1, 2]}
    found = rates(spec, 3 * steps, 3, batches=5, accumulated=accumulated)
    assert found == pytest.approx([1.0] * steps + [0.1] * steps + [0.01] * steps)


@pytest.mark.parametrize(
    ("spec", "rate"),
    [
        ({"name": "step", "step_epochs": 2, "gamma": 0.5}, lambda t: 0.5 ** (t // 20)),
        ({"name": "multistep", "milestones": [3], "gamma": 0.2}, lambda t: 0.2 if t >= 30 else 1.0),
        ({"name": "multistep", "milestones": [0.5, 1.5]}, lambda t: 0.1 ** ((t >= 5) + (t >= 15))),
        ({"name": "cosine", "min_lr": 0.1}, lambda t: 0.1 + 0.45 * (1 + math.cos(math.pi * t / 40))),
        ({"name": "poly", "power": 2.0, "min_lr": 0.1}, lambda t: 0.1 + 0.9 * (1 - t / 40) ** 2),
        ({"name": "constant"}, lambda t: 1.0),
        (
            {"name": "constant", "warmup_epochs": 2, "warmup_lr": 0.2},
            lambda t: 0.2 + 0.8 * t / 20 if t < 20 else 1.0,
        ),
    ],
)
def test_what_a_schedule_is_told_reaches_its_formula(spec, rate):
    assert rates(spec, 40, 4) == pytest.approx([rate(t) for t in range(40)])


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_by_name_begins_high_and_never_rises(name):
    needed = {"step": {"step_epochs": 1}, "rsqrt": {"warmup_epochs": 1, "warmup_lr": 1.0}}
    found = rates({"name": name} | needed.get(name, {}), 40, 4)
    assert found[0] == pytest.approx(1.0)
    assert all(0 <= later <= earlier + 1e-9 for earlier, later in pairwise(found))
    assert (found[-1] == found[0]) == (name in ("constant", "multistep"))  # whose milestones come later


def test_a_schedule_without_an_end_is_refused():
    with pytest.raises(ValueError, match=r"schedule needs an end: set trainer\.max_epochs or trainer\.max_steps"):
        create_schedule(
            torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), {"name": "cosine"},
            trainer_of(math.inf, 1, batches=5),
        )  # fmt: skip


def test_a_resumed_optimiser_goes_by_the_configuration_and_keeps_its_state(capsys):
    def optimizer(**options: float) -> torch.optim.Optimizer:
        return torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], **options)

    stopped, resumed = (optimizer(lr=0.1, momentum=0.9, weight_decay=0.3) for _ in range(2))
    stopped.param_groups[0]["params"][0].grad = torch.tensor([1.0, 2.0])
    stopped.step()
    now = optimizer(lr=0.02, momentum=0.5, weight_decay=0.01)
    options = [{**group, "params": None} for group in now.param_groups]
    resumed.load_state_dict(stopped.state_dict())
    (parameter,) = resumed.param_groups[0]["params"]
    trainer = SimpleNamespace(global_step=1, optimizers=[resumed], lr_scheduler_configs=[])
    GoingOn().on_train_start(trainer, SimpleNamespace(optimizer_options=options))
    (group,) = resumed.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.02, 0.5, 0.01)
    assert group["params"][0] is parameter
    assert resumed.state[parameter]["momentum_buffer"].tolist() == pytest.approx([1.3, 2.3])
    assert "goes on at 0.02 where the stopped run was at 0.1, since" in capsys.readouterr().out
    GoingOn().on_train_start(trainer, SimpleNamespace(optimizer_options=options))
    assert not capsys.readouterr().out


def test_unknown_names_are_refused():
    task = PoseTask(SMALL)
    with pytest.raises(ValueError, match="no optimiser 'adamm'"):
        create_optimizer(task, {"name": "adamm", "lr": 0.1})
    with pytest.raises(ValueError, match="no schedule 'cosin'"):
        rates({"name": "cosin"}, 10, 1)


def test_parameter_groups_hold_every_parameter_once_at_its_rate():
    task = PoseTask(SMALL)
    spec = {"name": "adamw", "lr": 0.1, "weight_decay": 0.3, "lr_scales": {"backbone": 0.1}}
    optimizer = create_optimizer(task, spec)
    seen = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(seen) == sorted(id(p) for p in task.parameters())
    rate = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert rate[id(task.head.weight)] == (0.1, 0.3)
    assert rate[id(task.head.bias)] == (0.1, 0.0)
    assert rate[id(task.backbone.conv1.weight)] == pytest.approx((0.01, 0.3))
    assert rate[id(task.backbone.bn1.weight)] == pytest.approx((0.01, 0.0))


def test_layers_decay_towards_the_stem_and_parts_have_rates_of_their_own():
    task = PoseTask({"variant": "w32", "multi_scale_output": False})
    spec = {"name": "sgd", "lr": 1.0, "layer_decay": 0.5, "lr_scales": {"backbone": 0.1, "backbone.stage3.3": 0.2}}
    optimizer = create_optimizer(task, spec | {"lr_scales": spec["lr_scales"] | {"head": 3.0}})
    names = {id(p): name for name, p in task.named_parameters()}
    rate = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    # Layers from the end: three units of stage 4, four of stage 3, one of stage 2, layer1, stem.
    for name, expected in {
        "head.weight": 3.0,
        "backbone.stage4.2.branches.0.0.conv1.weight": 0.1,
        "backbone.transition3.3.0.0.weight": 0.1 * 0.5**2,
        "backbone.stage3.3.branches.0.0.conv1.weight": 0.2 * 0.5**3,
        "backbone.stage3.0.branches.0.0.bn1.bias": 0.1 * 0.5**6,
        "backbone.stage2.0.branches.1.3.conv2.weight": 0.1 * 0.5**7,
        "backbone.transition1.0.0.weight": 0.1 * 0.5**7,
        "backbone.layer1.0.conv1.weight": 0.1 * 0.5**8,
        "backbone.conv2.weight": 0.1 * 0.5**9,
    }.items():
        assert rate[name] == pytest.approx(expected), name


def test_on_a_cpu_all_parameters_are_updated_by_one_kernel_to_the_same_values():
    tasks_ = [PoseTask(SMALL), PoseTask(SMALL)]
    tasks_[1].load_state_dict(tasks_[0].state_dict())
    optimizers = [create_optimizer(tasks_[0], {"name": "adam", "lr": 1e-2})]
    optimizers.append(create_optimizer(tasks_[1], {"name": "adam", "lr": 1e-2, "fused": False}))
    for _ in range(3):
        torch.manual_seed(0)
        for first, second in zip(tasks_[0].parameters(), tasks_[1].parameters(), strict=True):
            first.grad = torch.randn_like(first)
            second.grad = first.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert [optimizer.defaults["fused"] for optimizer in optimizers] == [True, False]
    assert "fused" not in create_optimizer(tasks_[0], {"name": "lamb", "lr": 1e-2}).defaults
    for first, second in zip(tasks_[0].parameters(), tasks_[1].parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


def test_a_part_that_is_none_is_named():
    with pytest.raises(ValueError, match=r"'heads'.*backbone, head"):
        create_optimizer(PoseTask(SMALL), {"name": "sgd", "lr": 1.0, "lr_scales": {"heads": 2.0}})


def test_what_is_not_plain_data_is_refused():
    with pytest.raises(TypeError, match="plain data"):
        plain({"x": torch.nn.Identity()})


def checkpoint_of(task: PoseTask, path, **changes) -> None:
    checkpoint = {
        "task": "PoseTask",
        "hyper_parameters": dict(task.hparams),
        "state_dict": task.state_dict(),
        **changes,
    }
    torch.save(checkpoint, path)


def test_load_brings_back_the_same_function(tmp_path):
    task = PoseTask(HRNet("w18_small_v1", multi_scale_output=False), 5, codec=tasks.DarkCodec(sigma=3.0)).eval()
    checkpoint_of(task, tmp_path / "a.ckpt")
    again = tasks.load(tmp_path / "a.ckpt")
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(again(image), task(image))
    assert again.codec == task.codec
    assert not again.training


def test_load_refuses_classes_that_are_not_tasks(tmp_path):
    task = PoseTask(SMALL)
    hparams = {**task.hparams, "codec": {"class_path": "os.system", "init_args": {"command": "true"}}}
    checkpoint_of(task, tmp_path / "a.ckpt", hyper_parameters=hparams)
    with pytest.raises(ValueError, match=r"os\.system"):
        tasks.load(tmp_path / "a.ckpt")


def test_load_says_what_it_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checkpoints/best\.ckpt"):
        tasks.load(tmp_path)
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match=r"holds no HRNet.*no tensors at all"):
        tasks.load(tmp_path / "foreign.ckpt")
    for content in (b'{"a": 1}', b"step,loss\n1,2\n", b"", bytes(range(256))):
        (tmp_path / "none.ckpt").write_bytes(content)
        with pytest.raises(ValueError, match=r"none\.ckpt is damaged or not a PyTorch checkpoint"):
            tasks.load(tmp_path / "none.ckpt")


def test_backbone_thaws_after_its_epochs():
    task = PoseTask(SMALL, freeze_backbone=2)
    task._trainer = SimpleNamespace(world_size=1, current_epoch=0)
    for epoch, frozen in ((0, True), (1, True), (2, False)):
        task._trainer.current_epoch = epoch
        task.freezing.on_train_epoch_start(task.trainer, task)
        task.train()
        assert task.backbone.bn1.training is not frozen
        assert all(parameter.requires_grad is not frozen for parameter in task.backbone.parameters())
        assert task.head.weight.requires_grad


def test_freezing_for_some_epochs_is_refused_where_processes_agree_on_gradients_once():
    task = PoseTask(SMALL, freeze_backbone=2)
    task._trainer = SimpleNamespace(world_size=2, current_epoch=0)
    with pytest.raises(ValueError, match=r"one process only.*freeze_backbone: true"):
        task.freezing.on_train_epoch_start(task.trainer, task)
    task._trainer.current_epoch = 2  # thawed from here on, in as many processes as there are
    task.freezing.on_train_epoch_start(task.trainer, task)
    assert task.backbone.conv1.weight.requires_grad


def test_what_a_step_draws_follows_from_seed_epoch_batch_and_process_alone(monkeypatch):
    """Mixup, dropout and a detector's samples: a resumed run draws what the uninterrupted one would have drawn."""

    def draws(seed: int = 1, epoch: int = 3, batch: int = 5, rank: int = 0) -> tuple[float, float, float]:
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank)
        GoingOn().on_train_batch_start(trainer, SimpleNamespace(), {}, batch)
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    first = draws()
    others = [draws(seed=2), draws(epoch=4), draws(batch=6), draws(rank=1), draws(epoch=5, batch=3)]
    assert draws() == first
    for kind in zip(first, *others, strict=True):
        assert len(set(kind)) == 6
    monkeypatch.delenv("PL_GLOBAL_SEED")
    GoingOn().on_train_batch_start(SimpleNamespace(current_epoch=3, global_rank=0), SimpleNamespace(), {}, 5)
    unseeded = random.random(), float(np.random.rand()), float(torch.rand(1))
    assert draws(seed=0) == unseeded


@pytest.mark.parametrize("in_channels", [1, 4])
def test_readers_that_give_rgb_say_so_to_a_network_of_other_channels(in_channels: int) -> None:
    from lightning import Trainer

    from datamodules import ImageFolder
    from tasks import ClassificationTask

    task = ClassificationTask(HRNet("w18_small_v1", in_channels=in_channels), num_classes=6)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    with pytest.raises(ValueError, match=rf"in_channels {in_channels}, .*images of 3 channels: set .*to 3"):
        Trainer(max_steps=1, enable_model_summary=False, **options).fit(
            task, datamodule=ImageFolder("sample", num_workers=0)
        )
