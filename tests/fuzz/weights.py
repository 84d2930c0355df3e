"""Checkpoints of ours and of strangers, as PyTorch and safetensors files: what is in them, and byte by byte."""

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import tasks
from datamodules import Skeleton
from hrnet import HRNet
from hrnet.checkpoints import read_checkpoint
from hrnet.weights import load_weights
from tasks import ClassificationTask, PoseTask
from tests.fuzz.harness import Kind
from tests.fuzz.mutations import VALUES, changed_bytes, changed_safetensors, changed_value, changed_zip

SMALL = "w18_small_v1"


class WeightFiles(Kind):
    """Files whose bytes are changed: all that can be read is tensors by their names."""

    name, share = "weight_files", 5

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        torch.manual_seed(0)
        state = {"conv1.weight": torch.ones(4, 3, 3, 3), "bn1.running_var": torch.ones(4), "fc.bias": torch.zeros(2)}
        content = {"state_dict": state, "best": np.float64(4.6), "epoch": 3, "meta": {"sigmas": np.ones(3)}}
        torch.save(content, folder / "good.pth")
        torch.save(content, folder / "old.pth", _use_new_zipfile_serialization=False)
        save_file(state, folder / "good.safetensors")
        self.good = {name: (folder / name).read_bytes() for name in ("good.pth", "old.pth", "good.safetensors")}

    def write(self, rng: random.Random) -> Path:
        name = rng.choice(["good.pth", "good.pth", "old.pth", "good.safetensors"])
        good = self.good[name]
        change = {"good.pth": changed_zip, "good.safetensors": changed_safetensors}.get(name, changed_bytes)
        path = self.folder / f"file{Path(name).suffix if rng.random() < 0.9 else '.ckpt'}"
        path.write_bytes(change(good, rng) if rng.random() < 0.7 else changed_bytes(good, rng))
        return path

    def read(self, path: Path, rng: random.Random) -> None:
        state = read_checkpoint(path)
        assert all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items())


class Checkpoints(Kind):
    """Checkpoints whose content is changed: a task whose weights are finite, or a sentence."""

    name, share = "checkpoints", 2

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        torch.manual_seed(0)
        backbone = HRNet(SMALL)
        pose = PoseTask(HRNet(SMALL, multi_scale_output=False), skeleton=Skeleton.load("coco").to_dict())
        classes = ClassificationTask(backbone, num_classes=3, class_names=["a", "b", "c"])
        self.good = []
        for task in (pose, classes):
            tasks.save_task(task, folder / "good.ckpt")
            self.good.append(torch.load(folder / "good.ckpt", weights_only=True))
        self.backbone = backbone

    def write(self, rng: random.Random) -> Path:
        content = dict(rng.choice(self.good))
        state = content.pop("state_dict")
        if rng.random() < 0.6:
            content = changed_value(content, rng, [*VALUES, torch.ones(2), {"class_path": "PoseTask", "init_args": {}}])
        if rng.random() < 0.6:
            state = _changed_state(state, rng)
        if isinstance(content, dict) and rng.random() < 0.98:
            content["state_dict"] = state
        path = self.folder / "mine.ckpt"
        torch.save(content, path)
        return path

    def read(self, path: Path, rng: random.Random) -> None:
        if rng.random() < 0.2:
            load_weights(copy.deepcopy(self.backbone), path, strict=rng.random() < 0.5)
            return
        task = tasks.load(path)
        assert all(torch.isfinite(p).all() for p in task.parameters())
        task.described()


def _changed_state(state: dict[str, Any], rng: random.Random) -> dict[Any, Any]:
    state = dict(state)
    for _ in range(rng.choice((1, 1, 3))):
        key = rng.choice(list(state))
        x = state[key]
        if not isinstance(x, torch.Tensor):
            continue
        match rng.randrange(12):
            case 0:
                del state[key]
            case 1:
                state[rng.choice(("a", 5, "backbone.x", ""))] = x
            case 2:
                state[key] = x.flatten()[:1].reshape(())
            case 3:
                state[key] = torch.full(x.shape, rng.choice((float("nan"), float("inf"))))
            case 4:
                state[key] = x.to(rng.choice((torch.float16, torch.float64, torch.complex64, torch.int8, torch.bool)))
            case 5:
                state[key] = torch.zeros(1).expand(10**12)
            case 6:
                state[key] = torch.empty(x.shape, device="meta")
            case 7:
                state[key] = x.float().to_sparse() if x.ndim else x
            case 8:
                state[key] = torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8)
            case 9:
                state[key] = rng.choice((None, 5, "text", [1.0], {"a": x}))
            case 10:
                state[key] = torch.zeros(1).expand(x.shape)
            case _:
                state[key] = x.flatten()[:0]
    return state
