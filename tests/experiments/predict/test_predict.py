"""Prediction on files gives what validation gives on the same boxes and images; files and mistakes."""

import csv
import inspect
import json
import os
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import tasks
from datamodules import CocoPose, FolderSegmentation, ImageFolder
from datamodules.base import DataError
from datamodules.keypoints.crop import PersonCrop
from datamodules.segmentation.samples import EvaluationSize, ImageMasks
from experiments import predict, predictor
from experiments.config import ConfigError
from experiments.predict import classification, commandline, media
from experiments.predict.base import JointResult, preparer_of
from experiments.predict.boxes import Boxes, CocoBoxes, TorchvisionDetector, box_array
from experiments.predict.classification import ClassificationResult
from experiments.predict.files import PredictionFiles, refuse_existing
from experiments.predict.media import Photo, Source, find_sources, read_photo, read_photos
from experiments.predict.pose import PoseResult
from experiments.predict.segmentation import SegmentationResult, spans
from experiments.predictor import Predictor
from experiments.run import main as run
from hrnet import HRNet
from tasks import ClassificationTask, MultiTask, PoseTask, SegmentationTask
from tests.conftest import ROOT

SAMPLE = ROOT / "data" / "sample"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def trained(name: str, folder: Path, *flags: str) -> Path:
    """Run folder of one step on the sample data."""
    before = Path.cwd()
    os.chdir(ROOT)
    flags = ("--wandb.mode", "disabled", "--trainer.limit_train_batches", "1", "--runs", str(folder), *flags)
    trainer = run([name, "sample.yaml", "debug.yaml", "--trainer.limit_val_batches", "1", *flags])
    os.chdir(before)
    return Path(trainer.default_root_dir)


@pytest.fixture(scope="module")
def pose_run(tmp_path_factory) -> Path:
    flags = ("--data.crop", "unit", "--data.box_padding", "1.5")
    return trained("pose_coco.yaml", tmp_path_factory.mktemp("runs"), *flags)


@pytest.fixture(scope="module")
def segmentation_run(tmp_path_factory) -> Path:
    return trained("seg_folder.yaml", tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def joint_run(tmp_path_factory) -> Path:
    return trained("multitask_pose_seg.yaml", tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def segmenter() -> SegmentationTask:
    torch.manual_seed(0)
    return SegmentationTask(HRNet("w18_small_v1", upsample="bilinear"), num_classes=3).eval()


@pytest.fixture(scope="module")
def classifier() -> ClassificationTask:
    torch.manual_seed(0)
    return ClassificationTask(HRNet("w18_small_v1"), num_classes=7, class_names=list("abcdefg")).eval()


def photos(folder: Path, *sizes: tuple[int, int]) -> list[Path]:
    """Noise pictures, smooth enough that classes form regions."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    paths = []
    for i, (height, width) in enumerate(sizes):
        small = rng.integers(0, 256, (8, 8, 3), np.uint8)
        paths.append(folder / f"{i}.png")
        Image.fromarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)).save(paths[-1])
    return paths


def validated(task, datamodule, batches: int) -> list[dict]:
    """What validation predicts for the first batches, each with its batch."""
    datamodule.setup("validate")
    found = []
    with torch.inference_mode():
        for batch, _ in zip(datamodule.val_dataloader(), range(batches), strict=False):
            found.append(task.predict(task.outputs(batch), batch) | {"batch": batch})
    return found


# ---- equal to validation


@pytest.fixture
def unfolded(monkeypatch):
    """Without folding, whose rounding moves the highest pixel where an untrained network has two of them."""
    monkeypatch.setattr(predictor, "for_inference", lambda module: module.eval())


def test_pose_of_annotated_boxes_is_that_of_validation(pose_run, tmp_path, unfolded):
    data = CocoPose("sample", image_size=(128, 96), batch_size=8, num_workers=0, crop="unit", box_padding=1.5)
    expected = validated(tasks.load(pose_run), data, 2)
    annotations = SAMPLE / "coco" / "annotations" / "person_keypoints_val2017.json"
    ids = torch.cat([found["batch"]["image_id"] for found in expected])
    images = [SAMPLE / "coco" / "val2017" / f"{i:012d}.jpg" for i in dict.fromkeys(ids[:-3].tolist())]
    failures = predict.main([str(pose_run), *map(str, images), "--boxes", str(annotations), "--output", str(tmp_path)])
    assert not failures
    found = json.loads((tmp_path / "predictions.json").read_text())
    points = torch.cat([part["keypoints"] for part in expected])[: len(found)]
    assert [entry["image_id"] for entry in found] == ids[: len(found)].tolist()
    got = np.array([entry["keypoints"] for entry in found]).reshape(-1, 17, 3)
    scores = torch.cat([part["scores"] for part in expected])[: len(found)]
    np.testing.assert_allclose(got[..., :2], points.numpy(), atol=1e-3)
    np.testing.assert_allclose(got[..., 2], scores.numpy(), atol=1e-3)
    assert len(list((tmp_path / "overlays").glob("*.jpg"))) == len(images)


def test_pose_of_detections_is_that_of_validation(pose_run, tmp_path, unfolded):
    truth = json.loads((SAMPLE / "coco" / "annotations" / "person_keypoints_val2017.json").read_text())
    chosen = [image["id"] for image in truth["images"][:5]]
    rng = np.random.default_rng(1)
    results = [
        {
            "image_id": a["image_id"],
            "category_id": 1,
            "bbox": (np.array(a["bbox"]) + rng.normal(0, 3, 4)).round(1).tolist(),
            "score": round(rng.uniform(0.1, 1), 3),
        }
        for a in truth["annotations"]
    ]
    path = tmp_path / "detections.json"
    path.write_text(json.dumps([*results, {"image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 1}]))
    (tmp_path / "only.json").write_text(json.dumps(results))
    data = CocoPose(
        "sample", image_size=(128, 96), batch_size=64, num_workers=0, crop="unit", box_padding=1.5,
        detections=str(tmp_path / "only.json"), detection_threshold=0.3,
    )  # fmt: skip
    expected = validated(tasks.load(pose_run), data, 1)[0]
    skeleton = data.skeleton
    predict_on = Predictor(pose_run, boxes=CocoBoxes(path, skeleton, threshold=0.3), batch_size=3)
    found = predict_on([SAMPLE / "coco" / "val2017" / f"{i:012d}.jpg" for i in chosen])
    points = np.concatenate([result.keypoints for result in found])
    scores = np.concatenate([result.box_scores for result in found])
    assert 5 <= len(points) < sum(entry["image_id"] in chosen for entry in results)
    np.testing.assert_allclose(points, expected["keypoints"][: len(points)].numpy(), atol=1e-3)
    np.testing.assert_allclose(scores, expected["batch"]["score"][: len(points)].numpy(), atol=1e-6)


def test_folding_changes_hardly_any_pose(pose_run, monkeypatch):
    images = sorted((SAMPLE / "coco" / "val2017").glob("*.jpg"))[:6]
    folded = np.concatenate([result.keypoints for result in Predictor(pose_run)(images)])
    monkeypatch.setattr(predictor, "for_inference", lambda module: module.eval())
    plain = np.concatenate([result.keypoints for result in Predictor(pose_run)(images)])
    assert (np.abs(folded - plain).max(2) < 1e-3).mean() > 0.95


def test_segmentation_is_that_of_validation(segmentation_run, tmp_path):
    config = preparer_of(tasks.load(segmentation_run))
    assert (config.evaluation, config.base_scale, config.image_size) == ("long", 2.0, (128, 96))
    data = FolderSegmentation(
        "sample", class_names=list("abcdefgh"), image_size=(128, 96), batch_size=1, num_workers=0, base_scale=2.0,
        id_map={0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 5, 7: 6, 8: 6, 9: 7, 10: 7}, evaluation="long",
    )  # fmt: skip
    expected = validated(tasks.load(segmentation_run), data, 3)
    dataset = data.split("val")
    assert isinstance(dataset, ImageMasks)
    words = [str(segmentation_run), *dataset.images[:3].tolist(), "--output", str(tmp_path), "--save", "masks", "csv"]
    assert not predict.main(words)
    for path, found in zip(dataset.images[:3], expected, strict=True):
        with Image.open(tmp_path / "masks" / f"{Path(path).stem}.png") as mask:
            assert mask.mode == "P"
            agree = np.asarray(mask) == found["labels"][0].numpy()
            assert len(mask.getpalette()) >= 3 * 8
        assert agree.mean() > 0.9999  # ties of floating point
    assert not (tmp_path / "overlays").exists()
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert sum(float(row["share"]) for row in rows) == pytest.approx(3, abs=1e-2)


def test_classes_are_those_of_validation(tmp_path):
    flags = ("--model.num_classes", "6")
    folder = trained("cls_folder.yaml", tmp_path, *flags)
    data = ImageFolder("sample", image_size=(128, 96), batch_size=4, num_workers=0)
    expected = validated(tasks.load(folder), data, 1)[0]["probabilities"]
    dataset = data.split("val")
    paths = [str(Path(dataset.folder) / os.fsdecode(name)) for name in dataset.files[:4]]
    results = Predictor(folder / "checkpoints" / "best.ckpt")(paths)
    for result, probabilities in zip(results, expected, strict=True):
        assert isinstance(result, ClassificationResult)
        best = probabilities.topk(5)
        np.testing.assert_allclose(result.probabilities, best.values.numpy(), atol=1e-5)
        assert result.names[0] == data.class_names[int(best.indices[0])]


def test_preparation_comes_with_the_checkpoint(joint_run):
    joint = tasks.load(joint_run)
    assert preparer_of(joint.single("parts")) == EvaluationSize((128, 96), evaluation="stretch")
    assert preparer_of(joint.single("pose"), (32, 96)) == PersonCrop((32, 96))


def test_joint_run_predicts_every_part_as_alone(joint_run, tmp_path):
    paths = photos(tmp_path / "in", (96, 64), (64, 96))
    assert not predict.main([str(joint_run), str(tmp_path / "in"), "--output", str(tmp_path / "out")])
    joint = tasks.load(joint_run)
    assert isinstance(joint, MultiTask)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["parts", "pose"]
    result = Predictor(joint_run)(paths[0])
    assert isinstance(result, JointResult)
    alone = Predictor(joint.single("parts"))(paths[0])
    with Image.open(tmp_path / "out" / "parts" / "masks" / "0.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), alone.mask)
    np.testing.assert_array_equal(result.parts["parts"].mask, alone.mask)
    assert result.parts["pose"].keypoints.shape == (1, 17, 2)
    assert result.plot().width > 2 * 64


# ---- batches, tiles


def test_batches_of_mixed_sizes_give_what_single_pictures_give(segmenter, tmp_path):
    sizes = [(64, 64), (64, 96), (64, 64), (96, 64), (64, 64), (64, 96)]
    paths = photos(tmp_path, *sizes)
    together = Predictor(segmenter, batch_size=2)(paths)
    for path, size, result in zip(paths, sizes, together, strict=True):
        assert result.photo.path == path  # in order
        assert result.mask.shape == size
        assert (result.mask == Predictor(segmenter)(path).mask).mean() > 0.999


def test_tiles_cover_once_and_change_little(segmenter, tmp_path):
    for size in (65, 100, 129, 1000):
        counted = np.zeros(size, int)
        for start, end, first, last in spans(size, 64):
            assert start <= first < last <= end <= size
            assert end - start == 64
            counted[first:last] += 1
        assert (counted == 1).all()
    (path,) = photos(tmp_path, (384, 448))
    whole = Predictor(segmenter)(path).mask
    tiled = Predictor(segmenter, max_pixels=256 * 256)(path).mask
    assert tiled.shape == whole.shape
    # Each tile's own labels, computed here alone.
    image = torch.from_numpy(read_photo(path).image).permute(2, 0, 1)[None]
    with torch.inference_mode():
        for (top, bottom, start, end), (left, right, first, last) in [
            (spans(384, 128)[i], spans(448, 128)[j]) for i in (0, -1) for j in (1, -1)
        ]:
            part = {"image": image[..., top:bottom, left:right]}
            labels = segmenter.predict(segmenter.outputs(part), part)["labels"][0]
            expected = labels[start - top : end - top, first - left : last - left].numpy()
            assert (tiled[start:end, first:last] == expected).mean() > 0.999


def test_a_long_stream_is_not_kept(classifier):
    alive: list[int] = []
    given = 0

    def frames():
        nonlocal given
        for number in range(200):
            given += 1
            yield Photo(np.full((1024, 1024, 3), number, np.uint8), frame=number)

    predict_on = Predictor(classifier, image_size=(32, 32), batch_size=10_000)
    for count, result in enumerate(predict_on.stream(frames()), start=1):
        assert result.photo.frame == count - 1
        alive.append(given - count)
        if given == 200:
            break
    assert max(alive) <= 2**26 // 1024**2 + 1


# ---- Python


def test_every_kind_of_picture_gives_the_same(classifier, tmp_path):
    (path,) = photos(tmp_path, (40, 50))
    predict_on = Predictor(classifier, image_size=(32, 32))
    image = read_photo(path).image
    kinds = [path, str(path), image, Image.fromarray(image), torch.from_numpy(image).permute(2, 0, 1)]
    results = predict_on(kinds)
    for result in results[1:]:
        np.testing.assert_allclose(result.probabilities, results[0].probabilities)
    assert results[0].plot()._repr_png_()[:4] == b"\x89PNG"
    assert predict_on(image[..., 0]).labels.shape == (5,)
    with pytest.raises(ValueError, match=r"float32 \(3, 4, 4\)"):
        predict_on(torch.zeros(3, 4, 4))
    with pytest.raises(DataError, match=r"gone\.png"):
        predict_on(tmp_path / "gone.png")


def test_pose_in_python_and_its_picture(pose_run, tmp_path):
    (path,) = photos(tmp_path, (120, 100))
    whole = Predictor(pose_run)(path)
    assert isinstance(whole, PoseResult)
    np.testing.assert_array_equal(whole.boxes, [[0, 0, 99, 119]])
    two = Predictor(pose_run, boxes=box_array([[10, 10, 50, 100], [0, 0, 99, 119]]))(path)
    np.testing.assert_allclose(two.keypoints[1], whole.keypoints[0], atol=1e-3)
    none = Predictor(pose_run, boxes=lambda photo: Boxes(np.zeros((0, 4)), np.zeros(0)))(path)
    assert none.keypoints.shape == (0, 17, 2)
    assert (none.rows(), none.records(1)) == ([], [])
    np.testing.assert_array_equal(np.asarray(none.plot()), none.photo.image)
    drawn = np.asarray(two.plot(threshold=-1))
    assert drawn.shape == (120, 100, 3)
    x, y = two.keypoints[1, 0].round().astype(int)
    if 0 <= x < 100 and 0 <= y < 120:
        assert (drawn[y, x] != two.photo.image[y, x]).any()
    with pytest.raises(ValueError, match="x1 < x2"):
        box_array([[5, 5, 1, 9]])


def test_score_of_a_person_ranks_as_coco_evaluation_does():
    skeleton = {"names": ["a", "b"], "limbs": []}
    result = PoseResult(
        photo=Photo(np.zeros((9, 9, 3), np.uint8)),
        keypoints=np.ones((2, 2, 2)),
        scores=np.array([[0.9, 0.1], [0.1, 0.0]]),
        boxes=np.array([[1.0, 2, 5, 8], [0, 0, 1, 1]]),
        box_scores=np.array([0.5, 1.0]),
        skeleton=skeleton,
    )
    np.testing.assert_allclose(result.person_scores, [0.45, 0])
    assert result.records(3)[0]["bbox"] == [1, 2, 4, 6]
    assert result.records(3)[0]["image_id"] == 3


def test_segmentation_json_is_coco(segmenter, tmp_path):
    from pycocotools import mask as coco_mask

    result = SegmentationResult(
        photo=Photo(np.zeros((2, 3, 3), np.uint8)),
        mask=np.array([[0, 1, 1], [0, 2, 1]], np.uint8),
        class_names=["a", "b", "c"],
        palette=[(0, 0, 0), (255, 0, 0), (0, 255, 0)],
    )
    with PredictionFiles(tmp_path, ["json", "masks"]) as files:
        files.write(result)
    records = json.loads((tmp_path / "predictions.json").read_text())
    for record in records:
        decoded = coco_mask.decode(record["segmentation"])
        np.testing.assert_array_equal(decoded == 1, result.mask == record["category_id"])
    with Image.open(tmp_path / "masks" / "image.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), result.mask)
        np.testing.assert_array_equal(np.asarray(mask.convert("RGB"))[1, 1], [0, 255, 0])


def numbered(folder: Path, name: str, **where) -> ClassificationResult:
    photo = Photo(np.zeros((32, 32, 3), np.uint8), folder / f"{name}.png", name, **where)
    return ClassificationResult(photo=photo, labels=np.array([1]), probabilities=np.array([0.5]), names=["b"])


def test_pictures_without_ids_are_numbered_from_1(tmp_path):
    with PredictionFiles(tmp_path, ["json"]) as files:
        for name in "abc":
            files.write(numbered(tmp_path, name))
    found = json.loads((tmp_path / "predictions.json").read_text())
    assert [(entry["image_id"], Path(entry["file_name"]).name) for entry in found] == [
        (1, "a.png"), (2, "b.png"), (3, "c.png"),
    ]  # fmt: skip


def test_no_output_that_is_there_is_replaced_unasked(tmp_path):
    sources = [Source(tmp_path / "in" / name, name.split(".")[0]) for name in ("a.jpg", "clip.mp4")]
    outputs = [
        "predictions.json",
        "predictions.csv",
        "overlays/a.jpg",
        "overlays/clip.mp4",
        "masks/a.png",
        "masks/clip/x",
    ]
    for output in outputs:
        folder = tmp_path / output.replace("/", "_")
        (folder / output).parent.mkdir(parents=True)
        (folder / output).touch()
        kind = {"predictions.json": "json", "predictions.csv": "csv"}.get(output, output.split("/")[0])
        with pytest.raises(ConfigError, match=r"exists.*--overwrite"):
            refuse_existing(folder, sources, [kind])
        refuse_existing(folder, sources, {"json", "csv", "overlays", "masks"} - {kind})
        refuse_existing(folder, sources[:0], {"overlays", "masks"})


def test_bare_checkpoint_needs_a_size_and_a_task_works(classifier, tmp_path):
    tasks.save_task(classifier, tmp_path / "bare.ckpt")
    with pytest.raises(ConfigError, match="image_size"):
        Predictor(tmp_path / "bare.ckpt")
    (path,) = photos(tmp_path, (40, 50))
    bare = Predictor(tmp_path / "bare.ckpt", image_size=(32, 32))(path)
    given = Predictor(classifier, image_size=(32, 32))(path)
    np.testing.assert_allclose(bare.probabilities, given.probabilities)
    assert bare.names == given.names
    with pytest.raises(ConfigError, match="skeleton"):
        Predictor(PoseTask(HRNet("w18_small_v1")), image_size=(64, 64))


# ---- inputs


def test_sources_of_folders_globs_and_files(tmp_path):
    photos(tmp_path / "a", (8, 8), (8, 8))
    photos(tmp_path / "b" / "c", (8, 8))
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "clip.mp4").touch()
    found = find_sources([str(tmp_path), str(tmp_path / "a" / "0.png"), str(tmp_path / "*" / "*.png")])
    assert [source.name for source in found] == ["a/0", "a/1", "a/clip", "b/c/0"]
    assert [source.is_video for source in found] == [False, False, True, False]
    same = find_sources([str(tmp_path / "a" / "0.png"), str(tmp_path / "b" / "c" / "0.png")])
    assert [source.name for source in same] == ["0", "0_2"]
    globbed = find_sources([str(tmp_path / "**" / "*.png")])
    assert [source.name for source in globbed] == ["a/0", "a/1", "b/c/0"]
    with pytest.raises(ConfigError, match="nothing"):
        find_sources([str(tmp_path / "nothing*.jpg")])


def test_exif_is_applied_on_demand_alone(tmp_path):
    image = np.zeros((16, 32, 3), np.uint8)
    image[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    path = tmp_path / "phone.jpg"
    Image.fromarray(image).save(path, exif=exif, quality=95)
    assert read_photo(path).image.shape == (16, 32, 3)
    turned = read_photo(path, upright=True).image
    with Image.open(path) as stored:
        from PIL import ImageOps

        reference = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    assert turned.shape == (32, 16, 3)
    np.testing.assert_allclose(turned.astype(int), reference.astype(int), atol=3)
    assert turned.flags.writeable  # torch warns otherwise


def test_a_photo_that_stands_upright_is_not_copied(tmp_path, monkeypatch):
    (path,) = photos(tmp_path, (16, 32))
    monkeypatch.setattr(media.ImageOps, "exif_transpose", None)
    assert read_photo(path, upright=True).image.shape == (16, 32, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # more than twice as many are refused by Pillow
    assert read_photo(path, upright=True).image.shape == (16, 32, 3)


def test_a_large_photo_is_shrunk_before_its_classes_are_written_below(monkeypatch):
    monkeypatch.setattr(classification, "draw_labels", lambda images, captions, side: images[0])
    photo = Photo(np.full((300, 2000, 3), 7, np.uint8))
    result = ClassificationResult(photo=photo, labels=np.array([0]), probabilities=np.array([1.0]), names=["a"])
    picture = np.array(result.plot())
    assert picture.shape == (640, 640, 3)
    assert (picture[320] == 7).all()
    assert (picture[[0, -1]] == 255).all()


def test_damaged_and_odd_images(classifier, tmp_path, capsys, monkeypatch):
    folder, out = tmp_path / "in", tmp_path / "out"
    (good,) = photos(folder, (40, 50))
    data = good.read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "text.jpg").write_text("not an image")
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(folder / "grey.png")
    Image.fromarray(np.zeros((20, 20, 4), np.uint8)).save(folder / "rgba.png")
    cv2.imwrite(str(folder / "deep.png"), np.full((20, 20, 3), 40_000, np.uint16))
    tasks.save_task(classifier, tmp_path / "bare.ckpt")
    words = [str(tmp_path / "bare.ckpt"), str(folder), "--image_size", "32", "32", "--output", str(out)]
    monkeypatch.setattr(sys, "argv", ["predict", *words])
    assert predict.command() == 1
    said = capsys.readouterr().err
    assert "2 of 6" in said
    assert "cut.png" in said
    assert "text.jpg" in said
    names = {Path(row["image"]).name for row in csv.DictReader((out / "predictions.csv").open())}
    assert names == {"0.png", "grey.png", "rgba.png", "deep.png"}
    assert not list(out.rglob("*.part"))
    assert predict.command() == 2  # nothing is overwritten
    assert "--overwrite" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["predict", *words, "--overwrite"])
    assert predict.command() == 1


def test_interruption_keeps_what_was_written(tmp_path, monkeypatch, capsys):
    result = ClassificationResult(
        photo=Photo(np.zeros((9, 9, 3), np.uint8), name="x"),
        labels=np.array([1]),
        probabilities=np.array([0.5]),
        names=["b"],
    )

    def interrupted() -> None:
        with PredictionFiles(tmp_path, ["json", "csv", "overlays"]) as files:
            files.write(result)
            raise KeyboardInterrupt

    monkeypatch.setattr(commandline, "main", interrupted)
    assert predict.command() == 130
    assert "stopped" in capsys.readouterr().err
    assert json.loads((tmp_path / "predictions.json.part").read_text())[0]["scores"] == [0.5]
    assert not (tmp_path / "predictions.json").exists()
    assert (tmp_path / "overlays" / "x.jpg").is_file()


# ---- boxes


def test_an_image_without_entry_is_a_failure_and_the_rest_goes_on(pose_run, tmp_path):
    annotations = SAMPLE / "coco" / "annotations" / "person_keypoints_val2017.json"
    (stranger,) = photos(tmp_path / "in", (40, 50))
    known = sorted((SAMPLE / "coco" / "val2017").glob("*.jpg"))[0]
    words = [str(pose_run), str(stranger), str(known), "--boxes", str(annotations), "--output", str(tmp_path / "out")]
    (failure,) = predict.main(words)
    assert failure.path == stranger
    assert "0.png" in str(failure.error)
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())


def finding_detector(name, image):
    """A detector that finds persons and other things in an image (1, 3, H, W), though it has not been trained.

    At random weights its signal fades and everything is background: each layer is scaled to deviations of 1.
    """
    from torchvision.models import get_model

    torch.manual_seed(1)
    model = get_model(name, weights=None, weights_backbone=None).eval()
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)]

    def to_unit(layer, inputs, output):
        scale = output.std()
        layer.weight.div_(scale)
        return output / scale

    with torch.no_grad():
        hooks = [layer.register_forward_hook(to_unit) for layer in layers]
        for layer in layers:
            if layer.bias is not None:
                layer.bias.zero_()
        model(image)
        for hook in hooks:
            hook.remove()
        model.roi_heads.box_predictor.cls_score.weight.mul_(2)
        model.roi_heads.box_predictor.cls_score.bias[1] = 4
    return model


def test_torchvision_detector_of_a_file(tmp_path):
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    photo = Photo(np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8))
    model = finding_detector(name, torch.from_numpy(photo.image).permute(2, 0, 1)[None] / 255)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    with torch.inference_mode():  # by torchvision's own documentation: RGB in [0, 1]
        whole = model([torch.from_numpy(photo.image).permute(2, 0, 1) / 255])[0]
    persons = whole["labels"] == 1
    boxes, scores = whole["boxes"][persons].double().numpy(), whole["scores"][persons].double().numpy()
    assert len(boxes) > 5
    assert len(whole["labels"].unique()) > 1
    assert scores.max() - scores.min() > 0.05
    middle = float(np.median(scores))
    detector = TorchvisionDetector(name, tmp_path / "weights.pth", device=torch.device("cpu"), threshold=middle)
    for threshold in (middle, 0.5, 1.0):
        detector.threshold = threshold
        found = detector(photo)
        np.testing.assert_allclose(found.corners, boxes[scores >= threshold], atol=1e-4)
        np.testing.assert_allclose(found.scores, scores[scores >= threshold], atol=1e-6)
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        assert (np.diff(found.scores) <= 0).all()
    assert inspect.signature(TorchvisionDetector).parameters["threshold"].default == 0.5
    with pytest.raises(ConfigError, match="did you mean fasterrcnn_resnet50_fpn"):
        TorchvisionDetector("fasterrcnn_resnet50fpn", tmp_path / "weights.pth", device=torch.device("cpu"))
    (tmp_path / "text.pth").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="damaged or not a PyTorch checkpoint"):
        TorchvisionDetector("ssdlite320_mobilenet_v3_large", tmp_path / "text.pth", device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="does not fit"):
        TorchvisionDetector("ssdlite320_mobilenet_v3_large", tmp_path / "weights.pth", device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["RUN", "nowhere.jpg"], "nowhere.jpg"),
        (["nowhere", "IMAGE"], "nowhere"),
        (["RUN", "IMAGE", "--boxes", "x.json"], "boxes are for pose"),
        (["RUN", "IMAGE", "--save", "masks"], "--save masks"),
        (["POSE", "IMAGE", "--boxes", "x.json"], "x.json"),
        (["POSE", "IMAGE", "--detector", "fasterrcnn_resnet50_fpn"], "weights.pth"),
        (["POSE", "IMAGE", "--box_threshold", "0.5"], "--box_threshold"),
        (["RUN", "IMAGE", "--device", "gpu"], "--device gpu cannot be used"),
        (["POSE", "IMAGE", "--image_size", "0", "0"], "image_size (0, 0)"),
        (["RUN", "IMAGE", "--output", "IMAGE"], "choose another by --output"),
    ],
)
def test_a_users_mistake_is_one_message_and_status_2(words, said, classifier, pose_run, tmp_path, monkeypatch, capsys):
    tasks.save_task(classifier, tmp_path / "bare.ckpt")
    (image,) = photos(tmp_path, (40, 50))
    known = {"RUN": str(tmp_path / "bare.ckpt"), "POSE": str(pose_run), "IMAGE": str(image)}
    words = ["--image_size", "32", "32", "--output", str(tmp_path / "o"), *(known.get(word, word) for word in words)]
    monkeypatch.setattr(sys, "argv", ["predict", *words])
    assert predict.command() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error


# ---- reading ahead


def test_images_are_read_ahead_but_not_far(tmp_path):
    sources = find_sources([str(path) for path in photos(tmp_path, *[(8, 8)] * 40)])
    opened: list[Path] = []

    def size_of(path: Path) -> None:
        opened.append(path)

    stream = read_photos(sources, size_of=size_of)
    assert next(stream).path == sources[0].path
    time.sleep(0.1)
    assert len(opened) <= 6
    assert [photo.path for photo in stream] == [source.path for source in sources[1:]]
