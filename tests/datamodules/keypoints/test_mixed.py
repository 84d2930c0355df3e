"""Mixed skeletons: every data set keeps its crops and its truth, and what it lacks is neither learned nor evaluated."""

import math
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from datamodules import CocoPose, DataError, MixedPose, MpiiPose, MultiTaskDataModule, PersonAugmentation, Skeleton
from datamodules.check import check
from datamodules.loading.dataset import collate
from datamodules.sample import sample_coco
from datamodules.sample.mpii import sample_mpii
from experiments.config import find, read
from experiments.config.parser import make_data
from tasks import PoseTask
from tasks.metrics import BySource, CocoKeypoints

UNION = Skeleton.load("union")
SIZE = (64, 64)
SMALL = {"variant": "w18_small_v1", "multi_scale_output": False}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mixed")
    return {
        "coco": sample_coco(folder / "coco", num_train=6, num_val=5),
        "mpii": sample_mpii(folder / "mpii", num_train=4, num_val=4),
    }


def sources_of(roots: dict[str, Path], **more: Any) -> dict[str, Any]:
    data = {"coco": CocoPose(roots["coco"]), "mpii": MpiiPose(roots["mpii"])}
    return {name: {"data": part, **more.get(name, {})} for name, part in data.items()}


def mixed(roots: dict[str, Path], sources: dict[str, Any] | None = None, **options: Any) -> MixedPose:
    options = {"skeleton": "union", "image_size": SIZE, "batch_size": 8, "num_workers": 0, **options}
    return MixedPose(sources or sources_of(roots), **options)


def places(name: str) -> list[int]:
    return [UNION.names.index(point) for point in Skeleton.load(name).names]


def all_of(dataset: Any) -> dict[str, Any]:
    return collate([dataset[row] for row in range(len(dataset))])


def test_every_person_is_as_its_own_data_set_has_it(roots: dict[str, Path]) -> None:
    whole = all_of(mixed(roots).split("val"))
    alone = [CocoPose(roots["coco"], image_size=SIZE), MpiiPose(roots["mpii"], image_size=SIZE)]
    persons = 0
    for s, (name, data) in enumerate(zip(("coco", "mpii"), alone, strict=True)):
        own = all_of(data.split("val"))
        here = {key: values[whole["image_id"] % 2 == s] for key, values in whole.items()}
        persons += len(own["image"])
        for key in ("image", "to_image", "area", "score"):
            assert torch.equal(here[key], own[key])
        for key in ("image_id", "instance_id"):
            assert torch.equal(here[key], 2 * own[key] + s)
        assert torch.equal(here["keypoints"][:, places(name)], own["keypoints"])
        assert torch.equal(here["visible"][:, places(name)], own["visible"])
        lacking = sorted(set(range(UNION.num_keypoints)) - set(places(name)))
        assert len(lacking) == UNION.num_keypoints - data.num_keypoints
        assert not here["visible"][:, lacking].any()
        assert not here["keypoints"][:, lacking].any()
    assert persons == len(whole["image"])


def test_every_stretch_of_an_evaluation_has_its_share_of_each_data_set(roots: dict[str, Path]) -> None:
    data = mixed(roots)
    dataset = data.split("val")
    counts = np.array([len(part) for part in dataset.parts])
    source = np.array([dataset[row]["image_id"] % 2 for row in range(len(dataset))])
    assert counts[0] != counts[1]
    for end in range(1, len(dataset) + 1):
        found = np.bincount(source[:end], minlength=2)
        assert (np.abs(found - end * counts / counts.sum()) <= 1).all()
    names = [dataset.name(row).split(":")[0] for row in range(len(dataset))]
    assert names == [("coco", "mpii")[s] for s in source]
    for s in (0, 1):  # persons of an image stay together, which is read once
        images = [int(dataset[row]["image_id"]) for row in np.flatnonzero(source == s)]
        assert sum(a != b for a, b in pairwise(images)) == len(set(images)) - 1
    train = [data.split("train")[row]["image_id"] % 2 for row in range(len(data.split("train")))]
    assert train == sorted(train), "the sampler shuffles"


def test_an_evaluation_that_is_cut_short_measures_every_data_set(roots: dict[str, Path], tmp_path: Path) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, limit_val_batches=1,
                      enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path)  # fmt: skip
    (figures,) = trainer.validate(PoseTask(SMALL, UNION.num_keypoints), mixed(roots), verbose=False)
    assert {"val/coco/AP", "val/mpii/AP"} <= figures.keys()


def test_points_that_a_data_set_lacks_are_not_learned(roots: dict[str, Path]) -> None:
    task = PoseTask(SMALL, UNION.num_keypoints)
    dataset = mixed(roots).split("val")
    for s, name in enumerate(("coco", "mpii")):
        batch = next(
            one for one in map(collate, ([dataset[row]] for row in range(len(dataset)))) if one["image_id"] % 2 == s
        )
        outputs = torch.randn(1, UNION.num_keypoints, 16, 16, requires_grad=True)
        task.losses(outputs, batch)["heatmap"].backward()
        learned = set(outputs.grad.abs().sum(dim=(0, 2, 3)).nonzero()[:, 0].tolist())
        assert learned
        assert learned <= set(places(name))


def noisy(batch: dict[str, Any], generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Points in original pixels, wrong ones where nothing is labelled, and scores."""
    to_image = batch["to_image"]
    points = batch["keypoints"] @ to_image[:, :, :2].mT + to_image[:, None, :, 2]
    points = points + 4 * torch.randn(points.shape, generator=generator)
    lacking = batch["visible"][..., None] == 0
    return torch.where(lacking, points + 900, points), torch.rand(points.shape[:2], generator=generator)


def test_each_data_set_is_evaluated_on_its_own_points(roots: dict[str, Path]) -> None:
    data = mixed(roots)
    task = PoseTask(SMALL, UNION.num_keypoints)
    task.attach(data)
    assert isinstance(task.metric, BySource)
    alone = {name: part["data"] for name, part in sources_of(roots).items()}
    expected = {
        name: CocoKeypoints(part.ground_truth("val"), part.skeleton.sigmas, part.skeleton.names)
        for name, part in alone.items()
    }
    generator = torch.Generator().manual_seed(0)
    for batch in data.val_dataloader():
        points, scores = noisy(batch, generator)
        task.update({"keypoints": points, "scores": scores}, batch)
        for s, (name, metric) in enumerate(expected.items()):
            rows = batch["image_id"] % 2 == s
            ids = (batch[key][rows] // 2 for key in ("image_id", "instance_id"))
            own = points[rows][:, places(name)], scores[rows][:, places(name)]
            metric.update(*ids, *own, batch["score"][rows], batch["area"][rows])
    found = task.compute()
    figures = {name: metric.compute() for name, metric in expected.items()}
    for name, values in figures.items():
        for key, value in values.items():
            assert found[f"{name}/{key}"] == pytest.approx(value, abs=1e-12, nan_ok=True)
    assert 0.1 < figures["coco"]["AP"] != figures["mpii"]["AP"]
    assert found["AP"] == pytest.approx((figures["coco"]["AP"] + figures["mpii"]["AP"]) / 2)
    assert task.modes["val/mpii/AP"] == task.modes["val/AP"] == "max"
    scored = task.scores({"keypoints": points, "scores": scores}, batch)
    assert all(not math.isnan(score) and 0 < score < 1 for score in scored["score"])
    owners = [("coco/", "mpii/")[number % 2] for number in batch["image_id"].tolist()]
    assert [text[:5] for text in scored["annotation"]] == owners
    assert len(task.tables()["keypoints"]) == 17 + 16
    task.reset()
    assert task.metric.metrics["coco"].compute()["AP"] == 0


def test_a_metric_saves_each_data_set_with_its_own_ids(roots: dict[str, Path], tmp_path: Path) -> None:
    data = mixed(roots)
    task = PoseTask(SMALL, UNION.num_keypoints)
    task.attach(data)
    batch = next(iter(data.val_dataloader()))
    batch = {key: values[batch["image_id"] % 2 == 0] for key, values in batch.items()}
    points, scores = noisy(batch, torch.Generator().manual_seed(1))
    task.update({"keypoints": points, "scores": scores}, batch)
    task.metric.save(tmp_path / "val_keypoints.json")
    rows = yaml.safe_load((tmp_path / "coco" / "val_keypoints.json").read_text())
    truth = CocoPose(roots["coco"]).ground_truth("val")
    assert {row["image_id"] for row in rows} <= {image["id"] for image in truth["images"]}
    assert {len(row["keypoints"]) for row in rows} == {3 * 17}
    assert yaml.safe_load((tmp_path / "mpii" / "val_keypoints.json").read_text()) == []
    assert task.metric.table().row_count == 10


def test_points_that_are_left_out_are_in_no_truth(roots: dict[str, Path]) -> None:
    mapping = {"right_ankle": "right_ankle", "left_ankle": "left_ankle", "head_top": "head_top"}
    source = mixed(roots, sources_of(roots, mpii={"mapping": mapping})).by_source["mpii"]
    assert (source.own, source.skeleton.names) == ((0, 5, 9), ("right_ankle", "left_ankle", "head_top"))
    assert (source.skeleton.flip_pairs, source.skeleton.limbs) == (((0, 1),), ())
    whole = MpiiPose(roots["mpii"]).ground_truth("val")["annotations"]
    for own, annotation in zip(source.ground_truth("val")["annotations"], whole, strict=True):
        points = np.reshape(annotation["keypoints"], (16, 3))[[0, 5, 9]]
        assert own["keypoints"] == points.ravel().tolist()
        assert own["num_keypoints"] == (points[:, 2] > 0).sum()
        assert own["head_size"] == annotation["head_size"]


@pytest.mark.parametrize(("weight", "times"), [(2.0, {2}), (0.5, {0, 1}), (1.5, {1, 2})])
def test_weights_say_how_often_persons_come(roots: dict[str, Path], weight: float, times: set[int]) -> None:
    still = PersonAugmentation(0, 0, 0, 0, 0)
    sources = sources_of(roots, mpii={"weight": weight})
    for source in sources.values():
        source["data"].augmentation = still
    data = mixed(roots, sources)
    count = len(sources["mpii"]["data"].split("train"))
    dataset = data.split("train")
    coco = len(sources["coco"]["data"].split("train"))
    assert len(dataset) == coco + round(weight * count)
    epochs = []
    for epoch in range(3):
        ids = [int(dataset[row, epoch]["instance_id"]) for row in range(len(dataset))]
        assert sorted(ids[:coco]) == sorted(set(ids[:coco]))
        assert all(number % 2 for number in ids[coco:])
        epochs.append(np.bincount(np.array(ids[coco:]) // 2, minlength=count + 1)[1:])
        assert set(epochs[-1].tolist()) <= times | {max(times) + 1, max(0, min(times) - 1)}
    assert weight != 0.5 or any((epochs[0] != other).any() for other in epochs[1:])
    assert len(data.split("val")) == sum(len(source["data"].split("val")) for source in sources.values())


def test_overfit_root_and_size_are_for_every_data_set(roots: dict[str, Path]) -> None:
    data = mixed(roots, overfit=3)
    assert len(data.split("train")) == len(data.split("val")) == 6
    assert {part.data.image_size for part in data.by_source.values()} == {SIZE}
    with pytest.warns(UserWarning, match="Training persons have no head boxes"):
        assert len(data.by_source["mpii"].ground_truth("val")["annotations"]) == 3
    assert all(part.data.root == "elsewhere" for part in mixed(roots, root="elsewhere").by_source.values())
    parts = {"pose": mixed(roots), "again": mixed(roots)}
    joint = MultiTaskDataModule(parts, image_size=(32, 48), overfit=2, num_workers=0)
    assert [len(part.split("val")) for part in joint.parts.values()] == [4, 4]
    assert joint.parts["again"].split("train")[0]["image"].shape == (32, 48, 3)
    facts = list(mixed(roots).findings("val", "none"))
    assert {fact.split for fact in facts} == {"coco val", "mpii val"}
    assert mixed(roots).folder == roots["coco"].parent


def test_the_doctor_looks_at_every_data_set(roots: dict[str, Path], tmp_path: Path) -> None:
    broken = shutil.copytree(roots["mpii"], tmp_path / "mpii")
    name = next((broken / "images").glob("000100*.jpg"))
    name.write_bytes(b"no picture")
    sources = sources_of(roots) | {"mpii": {"data": MpiiPose(broken)}}
    found = [finding for finding in check(mixed(roots, sources)).findings if name.name in finding.item]
    assert found
    assert {finding.split for finding in found} <= {"val", "mpii val"}


ANKLES = {"right_ankle": "right_ankle", "left_ankle": "left_ankle"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"mapping": {"ankle": "left_ankle"}}, r"sources.mpii.mapping has the points \['ankle'\].*its right_ankle, "),
        ({"mapping": {"left_ankle": "ankle"}}, r"the points \['ankle'\], which are not among the union's nose"),
        ({"mapping": {"left_ankle": "left_knee", "left_knee": "left_knee"}}, "two points for one of the union"),
        ({"mapping": ANKLES | {"left_ankle": "left_knee"}}, "takes right_ankle for right_ankle, and their mirror"),
        ({"mapping": {"pelvis": "left_hip", "thorax": "right_hip"}}, "takes pelvis for left_hip"),
        ({"weight": 0}, "sources.mpii has weight 0: expected"),
        ({"weights": 2}, "sources.mpii has the keys weights"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(roots: dict[str, Path], more: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        mixed(roots, sources_of(roots, mpii=more))


def test_other_mistakes_are_named(roots: dict[str, Path], tmp_path: Path) -> None:
    sources = sources_of(roots)
    sources["coco"]["data"] = CocoPose(roots["coco"], crop="unit")
    with pytest.raises(DataError, match=r"different `crop` and `box_padding` \(coco unit 1.25, mpii size 1.25\)"):
        mixed(roots, sources)
    with pytest.raises(DataError, match="without slashes and dots"):
        mixed(roots, {"a/b": sources["mpii"]})
    with pytest.raises(DataError, match="a truth for each of coco, mpii"):
        mixed(roots).ground_truth("val")
    (tmp_path / "paws.yaml").write_text("names: [paw]\nsigmas: 0.1\n")
    with pytest.raises(DataError, match="no point of the union"):
        mixed(roots, skeleton=str(tmp_path / "paws.yaml"))
    with pytest.raises(ValueError, match="annotations have no `head_size`"):
        PoseTask(SMALL, UNION.num_keypoints, measure="pckh").attach(mixed(roots))


def real_mixture(shared: Path, folder: Path) -> MixedPose:
    """pose_mixed.yaml on the small real samples, in the layouts that their DataModules expect."""
    data = read(find("pose_mixed.yaml"))["data"]
    (folder / "annot").mkdir()
    (folder / "images").symlink_to(shared / "mpii")
    for split in ("train", "valid"):
        (folder / "annot" / f"{split}.json").symlink_to(shared / "mpii" / "test_mpii.json")
    arguments = data["init_args"]
    arguments |= {"image_size": [64, 64], "batch_size": 8, "num_workers": 0}
    for name, source in arguments["sources"].items():
        changed = {"root": str(folder if name == "mpii" else shared / name)}
        if name != "mpii":
            changed["annotations"] = dict.fromkeys(("train", "val"), f"test_{name}.json")
            changed["images"] = dict.fromkeys(("train", "val"), ".")
        source["data"]["init_args"] |= changed
    return make_data({"data": data}, [])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_four_real_skeletons_train_and_are_evaluated_together(shared_data: Path, tmp_path: Path) -> None:
    data = real_mixture(shared_data / "samples", tmp_path)
    whole = all_of(data.split("val"))
    count = dict(zip(data.by_source, np.bincount(whole["image_id"].numpy() % 4).tolist(), strict=True))
    assert count == {"coco": 12, "mpii": 5, "crowdpose": 4, "ap10k": 2}
    assert len(data.split("train")) == 12 + 2 * 5 + 4 + 4 * 2
    task = PoseTask(SMALL, UNION.num_keypoints)
    trainer = Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path)  # fmt: skip
    before = task.head.weight.detach().clone()
    trainer.fit(task, data)
    (figures,) = trainer.validate(task, data, verbose=False)
    assert {f"val/{name}/AP" for name in count} | {"val/AP"} <= set(figures)
    assert (task.head.weight != before).flatten(1).any(dim=1).all()  # every point is learned from some data set
