"""A published file alone is a task that predicts what the published network does, with names and size known."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from torch import Tensor
from torchvision.datasets import Cityscapes as TorchvisionCityscapes
from torchvision.models.detection import KeypointRCNN_ResNet50_FPN_Weights

import tasks
from datamodules import ADE20K, LIP, Cityscapes, PascalContext, Skeleton
from tasks import ClassificationTask, DarkCodec, FaceCodec, LandmarkTask, MSRACodec, PoseTask, SegmentationTask
from tests.golden import image_for, state_for
from tests.hrnet.published import State, classification, filled, ocr, official, pose, segmentation

HERE = Path(__file__).parents[2] / "golden"


def check_golden(folder: Path, name: str, tmp_path: Path) -> tasks.Task:
    """The outputs of an independent implementation, at the stride of the head."""
    facts = json.loads((folder / f"{name}.json").read_text())
    torch.save(state_for(facts["keys"]), tmp_path / f"{name}.pth")
    task = tasks.load(tmp_path / f"{name}.pth")
    assert not task.training
    assert sum(p.numel() for p in task.parameters()) == facts["params"]
    images = image_for(name, tuple(facts["input_shape"]))
    with torch.no_grad():
        found = task.head(task.backbone(images)) if isinstance(task, SegmentationTask) else task(images)
    expected = torch.from_numpy(np.load(folder / f"{name}.npz")["output0"])
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    return task


def test_golden_small_classification(tmp_path: Path) -> None:
    task = check_golden(HERE, "cls_w18_small_v1", tmp_path)
    assert isinstance(task, ClassificationTask)
    assert task.class_names[0].startswith("tench")
    assert task.class_names[999].startswith("toilet tissue")
    info = ImageNetInfo()
    assert task.class_names == [info.label_name_to_description(name, False) for name in info.label_names()]


@pytest.mark.parametrize("name", ["pose_w32_k17", "cls_w18", "seg_w18_k19_noac", "face_w18_k98"])
def test_golden(name: str, tmp_path: Path, shared_reference: Path) -> None:
    check_golden(shared_reference / "golden", name, tmp_path)


def refused(path: Path, what: str) -> None:
    """One sentence says what the file is and what it is good for."""
    with pytest.raises(ValueError, match=what) as caught:
        tasks.load(path)
    said = str(caught.value)
    assert said.startswith(f"{path} is ")
    assert said.endswith(f"--model.backbone.weights {path}.")
    assert ". " not in said


# ---- each layout


def heatmaps_of(network: torch.nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network.eval()(images)


def test_pose_file_of_each_publisher(tmp_path: Path) -> None:
    network = pose(num_keypoints=17)
    network.load_state_dict(filled(network))
    state = network.state_dict()
    plain = official(state, "final_layer.")
    files = {
        "pose_hrnet_small_256x192.pth": plain,
        "checkpoint_256x192.pth": {"state_dict": {f"module.{k}": x for k, x in plain.items()}, "epoch": 3, "perf": 0.7},
        "hrnet_small_coco_256x192-c78dce93_20200708.pth": {
            "meta": {"config": "x"},
            "state_dict": official_openmmlab(state, "keypoint_head.final_layer."),
        },
        "td-hm_hrnet-small_8xb64-210e_coco-256x192-7f8a53d8_20220909.pth": {
            "meta": {},
            "state_dict": official_openmmlab(state, "head.final_layer."),
        },
    }
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    coco = KeypointRCNN_ResNet50_FPN_Weights.COCO_V1.meta["keypoint_names"]
    for name, content in files.items():
        torch.save(content, tmp_path / name)
        task = tasks.load(tmp_path / name)
        assert isinstance(task, PoseTask), name
        torch.testing.assert_close(heatmaps_of(task, images), heatmaps_of(network, images))
        assert task.preparation["image_size"] == [256, 192]
        assert (task.flip_test, task.codec) == (True, tasks.MSRACodec(sigma=2.0))
        assert task.skeleton["names"] == coco
        assert task.skeleton == Skeleton.load("coco").to_dict()
        batch = {"image": torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "to_image": torch.eye(2, 3)[None]}
        assert task.predict(task.outputs(batch), batch)["keypoints"].shape == (1, 17, 2)


def official_openmmlab(state: State, head: str) -> State:
    return {k.replace("head.", head, 1) if k.startswith("head.") else k: x for k, x in state.items()}


FACE = FaceCodec()
CONV_LAYERS = {"head.0.": "head.conv_layers.0.", "head.1.": "head.conv_layers.1.", "head.3.": "head.final_layer."}


def mmpose_face(state: State) -> State:
    """By the names of mmpose 1."""
    return {CONV_LAYERS.get(k[:7], k[:7]) + k[7:]: x for k, x in state.items()}


def test_landmark_file_of_each_publisher(tmp_path: Path) -> None:
    network = segmentation(num_classes=98)
    network.load_state_dict(filled(network))
    state = network.state_dict()
    plain = official(state, "head.")
    mmpose = {"meta": {}, "state_dict": official_openmmlab(state, "keypoint_head.final_layer.")}
    files = {
        "HR18-WFLW.pth": (plain, FACE, False),
        "final_state.pth": ({"state_dict": {f"module.{k}": x for k, x in plain.items()}}, FACE, False),
        "hrnetv2_w18_wflw_256x256-2bf032a6_20210125.pth": (mmpose, MSRACodec(sigma=2.0), True),
        "hrnetv2_w18_wflw_256x256_dark-3f8e0c2c_20210125.pth": (mmpose, DarkCodec(sigma=2.0), True),
        "td-hm_hrnetv2-w18_8xb64-60e_wflw-256x256.pth": (
            {"meta": {}, "state_dict": mmpose_face(state)},
            MSRACodec(sigma=2.0),
            True,
        ),
    }
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for name, (content, codec, flip_test) in files.items():
        torch.save(content, tmp_path / name)
        task = tasks.load(tmp_path / name)
        assert isinstance(task, LandmarkTask), name
        torch.testing.assert_close(heatmaps_of(task, images), heatmaps_of(network, images), rtol=1e-4, atol=1e-5)
        assert task.preparation == {"image_size": [256, 256], "crop": "size", "box_padding": 1.25}
        assert (task.codec, task.flip_test) == (codec, flip_test)
        assert (task.backbone.upsample, task.backbone.align_corners) == ("bilinear", False)
        assert task.skeleton == Skeleton.load("wflw").to_dict()


@pytest.mark.parametrize(
    ("count", "skeleton", "sigma"), [(98, "wflw", 1.5), (68, "w300", 1.0), (29, "cofw", 1.5), (19, "aflw", 1.5)]
)
def test_the_number_of_landmarks_tells_the_data_set(count: int, skeleton: str, sigma: float, tmp_path: Path) -> None:
    torch.save(official(segmentation(num_classes=count).state_dict(), "head."), tmp_path / "best.pth")
    task = tasks.load(tmp_path / "best.pth")
    assert task.skeleton == Skeleton.load(skeleton).to_dict()
    assert task.codec == FaceCodec(sigma=sigma)


def test_landmarks_of_unknown_names(tmp_path: Path) -> None:
    torch.save(official(segmentation(num_classes=7).state_dict(), "head."), tmp_path / "cats_128x128.pth")
    task = tasks.load(tmp_path / "cats_128x128.pth")
    assert (task.num_keypoints, task.skeleton, task.codec) == (7, None, FACE)
    assert task.preparation["image_size"] == [128, 128]


def mmsegmentation(count: int) -> State:
    ours = {"head.0.": "convs.0.conv.", "head.1.": "convs.0.bn.", "head.3.": "conv_seg."}
    return {
        f"decode_head.{ours[k[:7]]}{k[7:]}" if k.startswith("head.") else k: x
        for k, x in segmentation(num_classes=count).state_dict().items()
        if k != "head.0.bias"
    }


@pytest.mark.parametrize(
    ("name", "size", "codec", "crop"),
    [
        ("pose_hrnet_w48_384x288.pth", [384, 288], tasks.MSRACodec(sigma=3.0), "size"),
        ("hrnet_w32_coco_256x192_dark-07f147eb_20200812.pth", [256, 192], tasks.DarkCodec(sigma=2.0), "size"),
        ("td-hm_hrnet-w32_dark-8xb64-210e_coco-384x288.pth", [384, 288], tasks.DarkCodec(sigma=3.0), "size"),
        ("hrnet_w32_coco_384x288_udp-e97c1a0f_20210223.pth", [384, 288], tasks.UDPCodec(sigma=3.0), "unit"),
        ("my best pose.pth", [256, 192], tasks.MSRACodec(sigma=2.0), "size"),
        ("run_1920x1080_3x3.pth", [256, 192], tasks.MSRACodec(sigma=2.0), "size"),  # no multiples of 32
    ],
)
def test_the_name_tells_size_and_codec(
    name: str, size: list[int], codec: tasks.Codec, crop: str, tmp_path: Path
) -> None:
    torch.save(official(pose(num_keypoints=17).state_dict(), "final_layer."), tmp_path / name)
    task = tasks.load(tmp_path / name)
    assert task.preparation == {"image_size": size, "crop": crop, "box_padding": 1.25}
    assert task.codec == codec


@pytest.mark.parametrize(
    ("name", "count", "first", "size"),
    [
        ("pose_hrnet_w32_256x256.pth", 16, "right_ankle", [256, 256]),
        ("best.pth", 16, "right_ankle", [256, 256]),
        ("hrnet_w32_ap10k_256x256-18aac840_20211029.pth", 17, None, [256, 256]),
        ("hrnet_w32_h36m_256x256-d3206675_20210621.pth", 17, None, [256, 256]),
        ("mouse.pth", 9, None, [256, 192]),
    ],
)
def test_the_number_of_points_tells_the_skeleton(
    name: str, count: int, first: str | None, size: list[int], tmp_path: Path
) -> None:
    torch.save(official(pose(num_keypoints=count).state_dict(), "final_layer."), tmp_path / name)
    task = tasks.load(tmp_path / name)
    assert task.num_keypoints == count
    assert (task.skeleton and task.skeleton["names"][0]) == first
    assert task.flip_test == (first is not None)
    assert task.preparation["image_size"] == size


def test_names_that_openmmlab_stores_win(tmp_path: Path) -> None:
    names = ["tip", "left_wing", "right_wing", "tail", "eye"]
    data = {
        "dataset_name": "bees",
        "keypoint_id2name": dict(enumerate(names)),
        "flip_indices": [0, 2, 1, 3, 4],
        "skeleton_links": [(0, 1), (0, 2)],
        "sigmas": np.full(5, 0.05),
        "upper_body_ids": [0],
    }
    state = official_openmmlab(pose(num_keypoints=5).state_dict(), "head.final_layer.")
    torch.save({"meta": {"dataset_meta": data}, "state_dict": state}, tmp_path / "bees_64x64.pth")
    task = tasks.load(tmp_path / "bees_64x64.pth")
    assert Skeleton(**task.skeleton) == Skeleton(names, [(0, 1), (0, 2)], [(1, 2)], [0.05] * 5, [0])
    assert task.flip_test
    mm = mmsegmentation(3)
    colours = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    for meta in (
        {"CLASSES": ("a", "b", "c"), "PALETTE": colours},
        {"dataset_meta": {"classes": ["a", "b", "c"], "palette": np.array(colours, np.uint8)}},
    ):
        torch.save({"meta": meta, "state_dict": mm}, tmp_path / "fcn_hr18_512x1024.pth")
        task = tasks.load(tmp_path / "fcn_hr18_512x1024.pth")
        assert isinstance(task, SegmentationTask)
        assert (task.class_names, task.palette) == (["a", "b", "c"], colours)
        assert (task.backbone.upsample, task.backbone.align_corners) == ("bilinear", False)


@pytest.mark.parametrize(
    ("name", "build", "head", "align_corners"),
    [
        ("hrnet_cs_8090_torch11.pth", segmentation, "last_layer.", False),
        ("hrnet_ocr_cs_8162_torch11.pth", ocr, "", True),
        ("anything_ac.pth", segmentation, "last_layer.", True),
        ("ocr_noac.pth", ocr, "", False),
    ],
)
def test_cityscapes_with_and_without_ocr(name, build, head, align_corners, tmp_path: Path) -> None:
    network = build(num_classes=19)
    state = filled(network)
    wrapped = {f"model.{k}": x for k, x in official(state, head).items()}
    torch.save(wrapped | {"loss.criterion.weight": torch.ones(19)}, tmp_path / name)
    task = tasks.load(tmp_path / name)
    assert isinstance(task, SegmentationTask)
    assert (task.backbone.upsample, task.backbone.align_corners) == ("bilinear", align_corners)
    assert all(torch.equal(task.state_dict()[k], x) for k, x in state.items())
    known = {c.train_id: c for c in TorchvisionCityscapes.classes if 0 <= c.train_id < 19}
    assert task.class_names == [known[i].name for i in range(19)] == Cityscapes.class_names
    assert [tuple(colour) for colour in task.palette] == [known[i].color for i in range(19)]
    assert task.preparation["evaluation"] == "original"
    assert task(torch.zeros(1, 3, 64, 96)).shape == (1, 19, 64, 96)


@pytest.mark.parametrize(
    ("count", "data", "align_corners"),
    [
        (20, LIP("sample"), False),
        (59, PascalContext("sample", num_classes=59), False),
        (60, PascalContext("sample", num_classes=60), False),
        (150, ADE20K("sample"), True),
    ],
)
def test_the_number_of_classes_tells_the_data_set(count, data, align_corners, tmp_path: Path) -> None:
    torch.save(official(segmentation(num_classes=count).state_dict(), "last_layer."), tmp_path / "best.pth")
    task = tasks.load(tmp_path / "best.pth")
    assert task.class_names == data.class_names
    assert [tuple(colour) for colour in task.palette] == data.palette
    assert [tuple(pair) for pair in task.label_flip_pairs] == data.label_flip_pairs
    assert task.backbone.align_corners == align_corners
    of_the_data = data.preparation()["init_args"]
    assert {"base_scale": 1.0} | task.preparation == {k: v for k, v in of_the_data.items() if k != "reading"}


BLOCK = "decode_head.1.object_context_block"
OPENMMLAB_NAMES = {  # beginning of ours -> theirs, for the tensors of convolutions (0) and batch norms (1) alike
    r"head\.aux_head\.3": "decode_head.0.conv_seg",
    r"head\.aux_head\.([01])": "decode_head.0.convs.0.{}",
    r"head\.conv3x3_ocr\.([01])": "decode_head.1.bottleneck.{}",
    r"head\.ocr_distri_head\.object_context_block\.f_pixel\.(0|1\.0)": f"{BLOCK}.query_project.0.{{}}",
    r"head\.ocr_distri_head\.object_context_block\.f_pixel\.(2|3\.0)": f"{BLOCK}.query_project.1.{{}}",
    r"head\.ocr_distri_head\.object_context_block\.f_object\.(0|1\.0)": f"{BLOCK}.key_project.0.{{}}",
    r"head\.ocr_distri_head\.object_context_block\.f_object\.(2|3\.0)": f"{BLOCK}.key_project.1.{{}}",
    r"head\.ocr_distri_head\.object_context_block\.f_down\.(0|1\.0)": f"{BLOCK}.value_project.{{}}",
    r"head\.ocr_distri_head\.object_context_block\.f_up\.(0|1\.0)": f"{BLOCK}.out_project.{{}}",
    r"head\.ocr_distri_head\.conv_bn_dropout\.(0|1\.0)": f"{BLOCK}.bottleneck.{{}}",
    r"head\.cls_head": "decode_head.1.conv_seg",
    r"head\.incre_modules": "neck.increase_layers",
    r"head\.downsamp_modules\.0\.([01])": "neck.downsample_layers.0.{}",
    r"head\.downsamp_modules\.1\.([01])": "neck.downsample_layers.1.{}",
    r"head\.downsamp_modules\.2\.([01])": "neck.downsample_layers.2.{}",
    r"head\.final_layer\.([01])": "neck.final_layer.{}",
    r"head\.classifier": "head.fc",
}


def as_openmmlab(state: State) -> State:
    """By OpenMMLab's names, where a convolution before batch norm has no bias."""
    renamed = {}
    for key, value in state.items():
        for ours, theirs in OPENMMLAB_NAMES.items():
            if match := re.match(ours, key):
                layer = "conv" if match.groups()[0:1] in (("0",), ("2",)) else "bn"
                if layer != "conv" or not key.endswith("bias"):
                    renamed[theirs.format(layer) + key[match.end() :]] = value
                break
        else:
            renamed[key] = value
    return renamed


@pytest.mark.parametrize(
    ("network", "kind", "name", "known"),
    [
        (ocr(num_classes=19), SegmentationTask, "ocrnet_hr18_512x1024_160k_cityscapes.pth", "road"),
        (classification(num_classes=1000), ClassificationTask, "hrnet-w18_3rdparty_8xb32_in1k.pth", "tench"),
    ],
)
def test_openmmlabs_ocr_and_classification(network, kind, name: str, known: str, tmp_path: Path) -> None:
    state = filled(network)
    theirs = as_openmmlab(state)
    assert not any(k.startswith("head.") and "fc" not in k for k in theirs)
    torch.save({"meta": {}, "state_dict": theirs}, tmp_path / name)
    task = tasks.load(tmp_path / name)
    assert isinstance(task, kind)
    assert task.class_names[0].startswith(known)
    assert not task.backbone.align_corners
    found = task.state_dict()
    dropped = {k for k in state if k.endswith("bias") and not (found[k] == state[k]).all()}
    assert all(not found[k].any() and re.search(r"(ocr|aux_head|final_layer|modules\.\d)\.0\.bias", k) for k in dropped)
    assert all(torch.equal(found[k], x) for k, x in state.items() if k not in dropped)


def test_what_the_publisher_decides_beside_the_data_set(tmp_path: Path) -> None:
    torch.save({"state_dict": mmsegmentation(150)}, tmp_path / "fcn_hr18_512x512_160k_ade20k.pth")
    task = tasks.load(tmp_path / "fcn_hr18_512x512_160k_ade20k.pth")
    assert (task.backbone.align_corners, task.class_names[:2]) == (False, ["wall", "building"])
    torch.save(official(ocr(num_classes=59).state_dict(), ""), tmp_path / "hrnet_ocr_pascal_ctx_5618_torch11.pth")
    task = tasks.load(tmp_path / "hrnet_ocr_pascal_ctx_5618_torch11.pth")
    assert (task.backbone.align_corners, task.preparation["evaluation"]) == (True, "short")


def test_coco_stuff_is_seen_as_published(tmp_path: Path) -> None:
    torch.save(official(segmentation(num_classes=171).state_dict(), "last_layer."), tmp_path / "hrnet_cocostuff.pth")
    task = tasks.load(tmp_path / "hrnet_cocostuff.pth")
    assert task.backbone.align_corners
    assert task.preparation == {"image_size": [520, 520], "evaluation": "short"}


def test_inplace_abn_files_are_converted_here_too(tmp_path: Path) -> None:
    state = filled(segmentation(num_classes=20))
    state["backbone.bn1.weight"] = -state["backbone.bn1.weight"]
    torch.save(official(state, "last_layer."), tmp_path / "hrnet_lip_5583_torch04.pth")
    task = tasks.load(tmp_path / "hrnet_lip_5583_torch04.pth")
    torch.testing.assert_close(task.backbone.bn1.weight, -state["backbone.bn1.weight"] + 1e-5)


@pytest.mark.parametrize(
    ("name", "ratio"),
    [("pytorch_model.bin", 0.875), ("model.safetensors", 0.875), ("HRNet_W18_C_ssld_pretrained.pth", 0.95)],
)
def test_timm_classification(name: str, ratio: float, tmp_path: Path) -> None:
    network = timm.create_model("hrnet_w18_small", num_classes=1000).eval()
    save = save_file if name.endswith("safetensors") else torch.save
    save(network.state_dict(), tmp_path / name)
    task = tasks.load(tmp_path / name)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(task(images), network(images), rtol=1e-4, atol=1e-5)
    assert task.class_names[281].startswith("tabby")
    assert task.preparation == {"image_size": [224, 224], "crop_ratio": ratio}


def test_timm_name(monkeypatch: pytest.MonkeyPatch) -> None:
    network = timm.create_model("hrnet_w18_small", num_classes=1000).eval()
    monkeypatch.setattr("hrnet.checkpoints._download", lambda name: network.state_dict())
    task = tasks.load("hrnet_w18_small.ms_in1k")
    images = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(task(images), network(images), rtol=1e-4, atol=1e-5)


# ---- what is said, what can be replaced, what is refused


def test_one_line_says_what_is_assumed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(official(pose(num_keypoints=17).state_dict(), "final_layer."), tmp_path / "pose_hrnet_256x192.pth")
    with caplog.at_level(logging.INFO, logger="hrnet"):
        tasks.load(tmp_path / "pose_hrnet_256x192.pth")
    (line,) = caplog.messages
    for word in ("pose_hrnet_256x192.pth", "PoseTask", "w18_small_v1", "17", "coco", "256x192", "MSRACodec"):
        assert word in line
    assert "\n" not in line


def test_every_part_can_be_replaced(tmp_path: Path) -> None:
    torch.save(official(pose(num_keypoints=17).state_dict(), "final_layer."), tmp_path / "a.pth")
    skeleton = {"names": [str(i) for i in range(17)], "limbs": [], "flip_pairs": [], "sigmas": [0.1] * 17}
    changes = {"codec": "UDPCodec", "skeleton": skeleton, "flip_test": False, "backbone": {"upsample": "bilinear"}}
    task = tasks.load(tmp_path / "a.pth", changes)
    assert (task.codec, task.skeleton, task.flip_test) == (tasks.UDPCodec(), skeleton, False)
    assert task.backbone.upsample == "bilinear"
    again = tasks.load(tmp_path / "a.pth", {"codec": {"sigma": 4.0}})
    assert again.codec == tasks.MSRACodec(sigma=4.0)
    with pytest.raises(ValueError, match=r"a\.pth: no PoseTask can be made .*flip_tests"):
        tasks.load(tmp_path / "a.pth", {"flip_tests": False})
    for arguments in ({"weights": "b.pth"}, {"backbone": {"weights": "b.pth"}}):
        with pytest.raises(ValueError, match=r"weights are those of .*a\.pth"):
            tasks.load(tmp_path / "a.pth", arguments)
    with pytest.raises(ValueError, match=r"a\.pth.*does not fit"):
        tasks.load(tmp_path / "a.pth", {"num_keypoints": 5, "skeleton": None})


def test_files_that_predict_nothing(tmp_path: Path) -> None:
    head = {k: x for k, x in official(classification().state_dict(), "").items() if "classifier" not in k}
    backbone = {k: x for k, x in head.items() if k.startswith(("conv", "bn", "layer", "stage", "transition"))}
    wrapped = {f"backbone.{k}": x for k, x in backbone.items()}
    one = torch.zeros(1)
    for content, what in (
        (head, "an HRNet without a head that a task here has"),
        (backbone, "an HRNet without a head that a task here has"),
        (wrapped | {"rpn_head.rpn_conv.weight": one}, "a detector whose head is none"),
        (wrapped | {"bbox_head.conv_cls.weight": one, "neck.fpn_convs.0.conv.weight": one}, "a detector"),
        (backbone | {"final_layers.0.weight": one, "deconv_layers.0.0.0.weight": one}, "bottom-up"),
        (wrapped | {"keypoint_head.final_layers.0.weight": one}, "bottom-up"),
        (backbone | {"head.0.0.0.weight": one, "fc.weight": one}, "an ImageNet network whose head"),
    ):
        torch.save(content, tmp_path / "file.pth")
        refused(tmp_path / "file.pth", what)
    torch.save(official(filled(pose()), "final_layer.") | {"conv1.weight": torch.full((64, 3, 3, 3), torch.nan)},
               tmp_path / "file.pth")  # fmt: skip
    with pytest.raises(ValueError, match=r"file\.pth holds NaN"):
        tasks.load(tmp_path / "file.pth")
    partial = official(ocr(num_classes=19).state_dict(), "")
    torch.save({k: x for k, x in partial.items() if "f_pixel" not in k}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"file\.pth lacks parts of an OCR head"):
        tasks.load(tmp_path / "file.pth")
