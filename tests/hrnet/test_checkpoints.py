"""Files of every kind and timm's download are read; what is damaged, missing or would run code is refused."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from hrnet import HRNet, load_weights
from hrnet.checkpoints import read_content
from tests.hrnet.published import PUBLISHED, SMALL, classification, filled, listed, official, pose, same, unchanged


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module], None]:
    """Makes timm's download give a network at hand."""

    def offer(network: nn.Module) -> None:
        monkeypatch.setattr("socket.create_connection", lambda *_, **__: io.BytesIO())
        monkeypatch.setattr(timm, "create_model", lambda name, pretrained: network)

    return offer


@pytest.mark.parametrize("variant", PUBLISHED)
def test_timm_weights_give_timm_streams(variant: str, offer: Callable[[nn.Module], None]) -> None:
    reference = timm.create_model(PUBLISHED[variant].timm, features_only=True, feature_location="").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, x in reference.state_dict().items():
            if x.ndim == 1:
                u = torch.rand(x.shape, generator=generator)
                x.copy_(u - 0.5 if name.endswith(("bias", "running_mean")) else u + 0.5)
    offer(reference)
    backbone = HRNet(variant, weights=f"{PUBLISHED[variant].timm}.ms_in1k").eval()
    images = torch.randn(1, 3, 64, 64, generator=generator)
    with torch.no_grad():
        expected = reference(images)[1:]
        actual = backbone(images)
    for a, b in zip(actual, expected, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_timm_name_without_its_tag_and_of_the_whole_network(offer: Callable[[nn.Module], None]) -> None:
    offer(timm.create_model("hrnet_w18_small", num_classes=10))
    task = classification()
    report = load_weights(task, "hrnet_w18_small")
    assert set(report.matched) == listed(task.state_dict())


def test_ssld_network_has_no_bias_before_batch_norm(offer: Callable[[nn.Module], None]) -> None:
    # The published ssld networks have the shape of w18 and w48; here small, with their head's convolutions.
    network = timm.create_model("hrnet_w18_small", num_classes=10, head_conv_bias=False)
    offer(network)
    task = classification()
    for name, x in task.state_dict().items():
        if name.endswith("bias"):
            x.fill_(3.0)
    report = load_weights(task, "hrnet_w18_ssld.paddle_in1k")
    assert report.zeroed == [f"head.downsamp_modules.{i}.0.bias" for i in range(3)] + ["head.final_layer.0.bias"]
    assert not report.missing
    assert "biases the source does without, set to 0: 4 in head" in str(report)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(task.eval()(images), network.eval()(images), rtol=1e-4, atol=1e-5)


def test_timm_without_network_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("socket.create_connection", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ValueError, match=r"could not download 'hrnet_w32.ms_in1k'.*path of the file.*weights null"):
        HRNet("w32", weights="hrnet_w32.ms_in1k")
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_unknown_timm_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"neither a file nor a timm model 'hrnet_w33'.*hrnet_w32\.ms_in1k"):
        load_weights(HRNet(SMALL), "hrnet_w33")


def test_run_folder_gives_its_best_checkpoint_else_its_last(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "hrnet_w32"  # a name of timm's too
    (folder / "checkpoints").mkdir(parents=True)
    states = {"last": filled(HRNet(SMALL)), "best": {k: x + 1 for k, x in filled(HRNet(SMALL)).items()}}
    for name, state in states.items():
        torch.save({"state_dict": {f"backbone.{k}": x for k, x in state.items()}}, folder / f"checkpoints/{name}.ckpt")
        backbone = HRNet(SMALL, weights=str(folder))
        assert torch.equal(backbone.conv1.weight, state["conv1.weight"])


def test_arrays_beside_the_weights_are_plain_data(tmp_path: Path) -> None:
    task = pose()
    meta = {"dataset_meta": {"sigmas": np.ones(17), "flip_indices": np.arange(17), "links": [(0, 1)]}}
    torch.save({"meta": meta, "state_dict": filled(task)}, tmp_path / "file.pth")
    load_weights(task, tmp_path / "file.pth")
    assert read_content(tmp_path / "file.pth")["meta"]["dataset_meta"]["sigmas"].tolist() == [1.0] * 17
    trap = np.empty(1, dtype=object)
    trap[0] = Trap(tmp_path / "run")
    torch.save({"meta": trap, "state_dict": filled(task)}, tmp_path / "file.pth")
    unchanged(pose(), tmp_path / "file.pth", r"holds Python objects|not a PyTorch checkpoint")
    assert not (tmp_path / "run").exists()


def test_safetensors(tmp_path: Path) -> None:
    task = pose()
    state = filled(task)
    save_file(official(state, "final_layer."), tmp_path / "file.safetensors")
    load_weights(task, str(tmp_path / "file.safetensors"))
    assert same(task, state)


@pytest.mark.parametrize("name", ["missing.pth", "hrnet_w32.pth", "folder"])
def test_missing_file_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    unchanged(HRNet(SMALL), tmp_path / name, rf"{name} is (not there|a folder)")


# Files that are not what they seem.


class Trap:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple:
        return Path.touch, (self.victim,)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    state: dict = filled(HRNet(SMALL))
    torch.save({"state_dict": state, "extra": Trap(tmp_path / "run")}, tmp_path / "file.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Trap(tmp_path / "run"), protocol=2))
    unchanged(HRNet(SMALL), tmp_path / "file.pth", r"holds Python objects .* not opened.*convert")
    unchanged(HRNet(SMALL), tmp_path / "plain.pkl", r"Python objects|not a PyTorch checkpoint")
    assert not (tmp_path / "run").exists()


def test_pickled_module_says_how_to_convert(tmp_path: Path) -> None:
    torch.save({"state_dict": nn.Sequential(nn.Conv2d(3, 64, 3)), "best_nme": np.float64(4.6)}, tmp_path / "file.pth")
    unchanged(HRNet(SMALL), tmp_path / "file.pth", r"whole pickled module.*network\.state_dict\(\)")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04 cut off", bytes(range(256))])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_garbage(content: bytes, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"file.{suffix}").write_bytes(content)
    unchanged(HRNet(SMALL), tmp_path / f"file.{suffix}", "download or save it again")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_half_a_download(suffix: str, tmp_path: Path) -> None:
    save = torch.save if suffix == "pth" else save_file
    save(filled(HRNet(SMALL)), tmp_path / f"file.{suffix}")
    content = (tmp_path / f"file.{suffix}").read_bytes()
    (tmp_path / f"file.{suffix}").write_bytes(content[: len(content) // 2])
    unchanged(HRNet(SMALL), tmp_path / f"file.{suffix}", "download or save it again")


class Zeros:
    """A pickle of a few bytes that makes gigabytes of zeros."""

    def __reduce__(self) -> tuple:
        return bytearray, (2**36,)


@pytest.mark.parametrize("new", [True, False])
def test_a_number_does_not_fill_the_memory(tmp_path: Path, new: bool) -> None:
    torch.save({"state_dict": {}, "x": Zeros()}, tmp_path / "file.pth", _use_new_zipfile_serialization=new)
    unchanged(HRNet(SMALL), tmp_path / "file.pth", r"file\.pth holds Python objects \(bytearray\)")
    packed = tmp_path / "packed.pth"
    torch.save({"state_dict": {"x": torch.zeros(2**20)}}, tmp_path / "file.pth")
    with zipfile.ZipFile(tmp_path / "file.pth") as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name in old.namelist():
            file.writestr(name, old.read(name))
    assert packed.stat().st_size < 2**16
    unchanged(HRNet(SMALL), packed, "packed.pth is damaged")


@pytest.mark.parametrize("deep", [False, True])
def test_what_holds_itself_is_refused(tmp_path: Path, deep: bool) -> None:
    content: dict = {"state_dict": {}}
    if deep:
        for _ in range(200):
            content = {"state_dict": content}
    else:
        content["state_dict"] = content
    torch.save(content, tmp_path / "file.pth")
    unchanged(HRNet(SMALL), tmp_path / "file.pth", "file.pth is damaged or not a PyTorch checkpoint")


def test_a_tensor_of_any_size_in_a_few_bytes_is_of_another_shape(tmp_path: Path) -> None:
    task = pose()
    state = filled(task) | {"backbone.bn1.weight": torch.zeros(1).expand(10**12)}
    torch.save(official(state, "final_layer."), tmp_path / "file.pth")
    unchanged(task, tmp_path / "file.pth", r"bn1\.weight \[1000000000000\] in the source, \[64\] here")


def test_file_without_a_state_dict(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "file.pth")
    unchanged(HRNet(SMALL), tmp_path / "file.pth", "holds a list, expected a state dict")
