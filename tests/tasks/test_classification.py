"""ClassificationTask: timm's logits for timm's weights, mixed batches, and accuracies against plain counting."""

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch

from hrnet import load_weights
from tasks import ClassificationTask
from tests.hrnet.published import PUBLISHED

LARGE = {"w40", "w44", "w48", "w64"}
SMALL = {"variant": "w18_small_v1"}


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in PUBLISHED]
)
def test_copied_timm_weights_give_timm_logits(variant, tmp_path):
    torch.manual_seed(0)
    reference = timm.create_model(PUBLISHED[variant].timm, num_classes=7).eval()
    torch.save(reference.state_dict(), tmp_path / "timm.pth")
    task = ClassificationTask({"variant": variant}, 7).eval()
    assert load_weights(task, tmp_path / "timm.pth").complete
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, found = reference(images), task(images)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_accuracies_equal_plain_counting():
    torch.manual_seed(0)
    task = ClassificationTask(SMALL, 8)
    labels, shares = torch.randint(0, 7, (60,)), torch.rand(60, 8).softmax(1)  # class 7 never occurs
    for part in range(0, 60, 20):
        task.update({"probabilities": shares[part : part + 20]}, {"label": labels[part : part + 20]})
    found, order = task.compute(), shares.argsort(1, descending=True)
    assert found["top1"] == pytest.approx((order[:, 0] == labels).float().mean().item())
    assert found["top5"] == pytest.approx((order[:, :5] == labels[:, None]).any(1).float().mean().item())
    per_class = [(order[labels == c, 0] == c).float().mean().item() for c in range(7)]
    assert found["mean_class_accuracy"] == pytest.approx(sum(per_class) / 7)
    rows = task.tables()["classes"]
    assert [row["images"] for row in rows] == torch.bincount(labels, minlength=8).tolist()
    task.reset()
    assert task.metric.confusion().sum() == 0


@pytest.mark.parametrize("options", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_mixed_batches_have_shares_that_sum_to_one(options):
    torch.manual_seed(0)
    task = ClassificationTask(SMALL, 5, **options)
    batch = {"image": torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8), "label": torch.tensor([0, 1, 2, 3])}
    images, mixed = task.mix(task.normalize(batch["image"]), batch)
    torch.testing.assert_close(mixed["target"].sum(1), torch.ones(4))
    loss = task.losses(task(images), mixed)["cross_entropy"]
    expected = -(mixed["target"] * task(images).log_softmax(1)).sum(1).mean()
    assert loss.isfinite()
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-4)


def test_another_number_of_classes_names_the_key():
    with pytest.raises(ValueError, match=r"model.init_args.num_classes to 3"):
        ClassificationTask(SMALL, 4).attach(SimpleNamespace(num_classes=3, class_names=["a", "b", "c"]))


# ---- every option reaches what it is an option of


def some_batch(count: int = 4, classes: int = 5) -> dict:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (count, 3, 64, 64), generator=generator, dtype=torch.uint8)
    return {"image": image, "image_id": torch.arange(10, 10 + count), "label": torch.arange(count) % classes}


def mixed_by(task: ClassificationTask, seed: int, count: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalised images before and after, and the shares of the classes."""
    batch = some_batch(count)
    np.random.seed(seed)
    before = task.normalize(batch["image"])
    after, mixed = task.mix(before.clone(), batch)
    return before, after, mixed["target"]


def share_of_own(target: torch.Tensor, smoothing: float = 0.0) -> float:
    """What is left of the first image, from the shares of the classes of a batch of classes 0, 1, 2, 3 out of 5."""
    off = smoothing / 5
    share = (target[0, 0] - off) / (1 - smoothing)
    expected = torch.full((4, 5), off)
    for i in range(4):
        expected[i, i] += share * (1 - smoothing)
        expected[i, 3 - i] += (1 - share) * (1 - smoothing)
    torch.testing.assert_close(target, expected)
    return share.item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixup_blends_each_image_with_its_partner_as_the_target_says(smoothing):
    task = ClassificationTask(SMALL, 5, mixup=0.8, label_smoothing=smoothing)
    shares = []
    for seed in range(5):
        before, after, target = mixed_by(task, seed)
        shares.append(share_of_own(target, smoothing))
        torch.testing.assert_close(after, shares[-1] * before + (1 - shares[-1]) * before.flip(0), atol=1e-4, rtol=1e-4)
    assert len({round(share, 4) for share in shares}) == 5


def test_cutmix_pastes_as_large_a_box_as_the_target_says():
    task, boxes = ClassificationTask(SMALL, 5, cutmix=1.0), 0
    for seed in range(5):
        before, after, target = mixed_by(task, seed)
        own, partner = ((after == x).all(1) for x in (before, before.flip(0)))
        assert (own | partner).all()
        rows, columns = (~own[0]).any(1).nonzero()[:, 0], (~own[0]).any(0).nonzero()[:, 0]
        area = len(rows) * len(columns)
        assert (~own[0]).sum() == area  # a box
        assert 1 - share_of_own(target) == pytest.approx(area / 64**2, abs=1e-5)
        boxes += area > 0
    assert boxes > 2


def test_with_both_each_batch_takes_one_of_them():
    task, kinds = ClassificationTask(SMALL, 5, mixup=0.8, cutmix=1.0), set()
    for seed in range(20):
        before, after, _ = mixed_by(task, seed)
        kinds.add(bool(((after == before) | (after == before.flip(0))).all()))
    assert kinds == {True, False}


@pytest.mark.parametrize(("probability", "least", "most"), [(0.0, 0, 0), (0.3, 8, 32), (1.0, 60, 60)])
def test_as_large_a_share_of_the_batches_is_mixed_as_asked(probability, least, most):
    task = ClassificationTask(SMALL, 5, mixup=0.8, mix_probability=probability)
    changed = 0
    np.random.seed(0)
    for _ in range(60):
        batch = some_batch()
        before = task.normalize(batch["image"])
        after, mixed = task.mix(before.clone(), batch)
        changed += not torch.equal(before, after)
        assert (mixed["target"].max() == 1) == torch.equal(before, after)
    assert least <= changed <= most


def test_training_mixes_and_evaluation_does_not():
    torch.manual_seed(0)
    task, batch = ClassificationTask(SMALL, 5, mixup=1.0, label_smoothing=0.2).eval(), some_batch()
    with torch.no_grad():
        np.random.seed(1)
        images, mixed = task.mix(task.normalize(batch["image"]), batch)
        expected = -(mixed["target"] * task(images).log_softmax(1)).sum(1).mean()
        np.random.seed(1)
        assert task.training_losses(batch)["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-4)
        outputs = task.outputs(batch)
        torch.testing.assert_close(outputs, task(task.normalize(batch["image"])))
        plain = -outputs.log_softmax(1)[torch.arange(4), batch["label"]].mean()
        assert task.losses(outputs, batch)["cross_entropy"].item() == pytest.approx(plain.item(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_labels_are_smoothed_in_training_only(smoothing):
    task, batch = ClassificationTask(SMALL, 5, label_smoothing=smoothing), some_batch()
    outputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    logs = outputs.log_softmax(1)
    own, all_classes = logs[torch.arange(4), batch["label"]].mean(), logs.mean()
    expected = -(1 - smoothing) * own - smoothing * all_classes
    assert task.train().losses(outputs, batch)["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert task.eval().losses(outputs, batch)["cross_entropy"].item() == pytest.approx(-own.item(), rel=1e-5)


def test_an_odd_batch_cannot_be_mixed_and_says_so():
    task = ClassificationTask(SMALL, 5, mixup=1.0)
    with pytest.raises(ValueError, match=r"of 3 images.*even.*batch_size"):
        mixed_by(task, 0, count=3)


@pytest.mark.parametrize(("classes", "top5"), [(3, 1.0), (5, 1.0), (6, 0.5)])
def test_head_and_top5_have_as_many_classes_as_asked(classes, top5):
    task = ClassificationTask(SMALL, classes)
    assert task(torch.zeros(2, 3, 64, 64)).shape == (2, classes)
    ranks = torch.arange(classes, 0, -1.0).softmax(0).expand(2, classes)  # the last class is the least likely
    labels = torch.tensor([classes - 1, 0])
    task.update({"probabilities": ranks}, {"label": labels})
    assert (task.compute()["top1"], task.compute()["top5"]) == (0.5, top5)
    task.reset()
    task.update({"probabilities": ranks}, {"label": torch.tensor([0, 0])})
    assert task.compute() == {"top1": 1.0, "top5": 1.0, "mean_class_accuracy": 1.0}


def test_names_are_those_given_or_those_of_the_data():
    task = ClassificationTask(SMALL, 2, class_names=["bee", "wasp"])
    shares = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6]])
    batch = {"label": torch.tensor([0, 1, 1]), "image_id": torch.tensor([4, 5, 6])}
    task.update({"probabilities": shares}, batch)
    assert task.tables()["classes"] == [
        {"name": "bee", "images": 1, "accuracy": 1.0},
        {"name": "wasp", "images": 2, "accuracy": 0.5},
    ]
    assert task.tables()["confusion_matrix"] == [
        {"truth": "bee", "bee": 1, "wasp": 0},
        {"truth": "wasp", "bee": 1, "wasp": 1},
    ]
    found = task.scores({"probabilities": shares}, batch)
    assert found["sample"].tolist() == [4, 5, 6]
    assert found["score"].tolist() == [1.0, 0.0, 1.0]
    assert found["label"] == ["bee", "wasp", "wasp"]
    assert found["prediction"] == ["bee", "bee", "wasp"]
    assert found["confidence"].tolist() == pytest.approx([0.9, 0.7, 0.6])
    task.attach(SimpleNamespace(num_classes=2, class_names=["x", "y"]))
    assert task.hparams["class_names"] == ["bee", "wasp"]
    assert [row["name"] for row in task.tables()["classes"]] == ["bee", "wasp"]
    task = ClassificationTask(SMALL, 2)
    assert task.scores({"probabilities": shares}, batch)["prediction"] == ["0", "0", "1"]
    for names in (["x", "y"], ["u", "v"]):
        task.attach(SimpleNamespace(num_classes=2, class_names=names))
        assert task.hparams["class_names"] == names
        assert [row["name"] for row in task.tables()["classes"]] == names
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        ClassificationTask(SMALL, 3, class_names=["bee", "wasp"])


def test_pictures_say_the_true_class_and_the_five_best(monkeypatch):
    drawn = []
    picture = torch.zeros(3, 64, 400, dtype=torch.uint8)
    monkeypatch.setattr("tasks.classification.draw_labels", lambda images, captions: drawn.extend(captions) or picture)
    task, batch = ClassificationTask(SMALL, 6, class_names=list("abcdef")), some_batch(2)
    shares = torch.tensor([[0.1, 0.3, 0.2, 0.05, 0.25, 0.1 - 0.001], [0.5, 0.1, 0.12, 0.13, 0.14, 0.01]])
    task.draw(None, {"probabilities": shares}, batch, count=2)
    assert [line.split() for line in drawn[0]] == [
        ["is", "a"],
        *(["b", "0.30"], ["e", "0.25"], ["c", "0.20"], ["a", "0.10"], ["f", "0.10"]),
    ]
    assert drawn[1][0] == "is b"
    assert [line[0] for line in drawn[1][1:]] == list("aedcb")


def test_pictures_of_a_few_classes_name_them_all(monkeypatch):
    drawn = []
    picture = torch.zeros(3, 64, 400, dtype=torch.uint8)
    monkeypatch.setattr("tasks.classification.draw_labels", lambda images, captions: drawn.extend(captions) or picture)
    task, batch = ClassificationTask(SMALL, 3, class_names=list("abc")), some_batch(1, classes=3)
    task.draw(None, {"probabilities": torch.tensor([[0.2, 0.5, 0.3]])}, batch, count=1)
    assert [line[0] for line in drawn[0][1:]] == list("bca")


def test_predictions_are_probabilities():
    outputs = torch.tensor([[0.0, np.log(3.0)]])
    found = ClassificationTask(SMALL, 2).predict(outputs, {})["probabilities"]
    assert found.tolist()[0] == pytest.approx([0.25, 0.75])
