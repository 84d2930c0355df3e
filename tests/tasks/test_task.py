"""What all tasks share: optimiser, schedule, plain data in checkpoints, and loading them back."""

import math
from types import SimpleNamespace

import pytest
import torch

import tasks
from hrnet import HRNet
from tasks import PoseTask
from tasks.exchange import plain
from tasks.optim import create_optimizer, create_schedule

SMALL = {"variant": "w18_small_v1", "multi_scale_output": False}


def trainer_of(steps: int, epochs: int) -> SimpleNamespace:
    return SimpleNamespace(
        estimated_stepping_batches=steps,
        num_training_batches=steps // epochs,
        train_dataloader=(),
        accumulate_grad_batches=1,
        max_steps=-1,
    )


def rates(spec: dict, steps: int, epochs: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = create_schedule(optimizer, spec, trainer_of(steps, epochs))
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
