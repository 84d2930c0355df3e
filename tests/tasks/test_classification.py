"""ClassificationTask: timm's logits for timm's weights, mixed batches, and accuracies against plain counting."""

from types import SimpleNamespace

import pytest
import timm
import torch

from hrnet import VARIANTS, load_weights
from tasks import ClassificationTask

TIMM = {name: f"hrnet_{name.replace('small_v1', 'small')}" for name in VARIANTS}
LARGE = {"w40", "w44", "w48", "w64"}
SMALL = {"variant": "w18_small_v1"}


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in VARIANTS]
)
def test_copied_timm_weights_give_timm_logits(variant, tmp_path):
    torch.manual_seed(0)
    reference = timm.create_model(TIMM[variant], num_classes=7).eval()
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
    assert task.confusion.compute().sum() == 0


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
