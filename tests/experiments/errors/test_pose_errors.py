"""Every kind of error is found on hand-made persons, agrees with a plain loop, and costs the AP that mending brings."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.errors.pose_errors import ERRORS, KINDS, PoseErrors, average_precision
from tasks.metrics.coco_keypoints import CocoKeypoints

SKELETON = {
    "names": ["nose", "left_hand", "right_hand", "left_foot", "right_foot"],
    "sigmas": [0.05, 0.06, 0.06, 0.08, 0.08],
    "flip_pairs": [[1, 2], [3, 4]],
}
PARTNER = [0, 2, 1, 4, 3]
AREA = 10000.0
PLACES = np.array([[100.0, 20], [60, 80], [140, 80], [70, 180], [130, 180]])


def moved(x, y):
    return PLACES + np.array([x, y])


def person(number, places, image_id=1, visible=2, **changes):
    points = np.concatenate([places, np.broadcast_to(visible, (5,))[:, None]], axis=1)
    low, high = places.min(0), places.max(0)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "keypoints": points.ravel().tolist(),
        "num_keypoints": int(np.count_nonzero(np.broadcast_to(visible, (5,)))),
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "area": AREA,
        "iscrowd": 0,
        **changes,
    }


def pose(places, image_id=1, score=0.9):
    keypoints = np.concatenate([places, np.full((5, 1), 0.7)], axis=1).ravel().tolist()
    return {"image_id": image_id, "category_id": 1, "keypoints": keypoints, "score": score}


def truth(*persons, images=None):
    images = images or sorted({p["image_id"] for p in persons})
    return {"images": [{"id": i} for i in images], "annotations": list(persons), "categories": [{"id": 1}]}


def distance(k, similarity):
    """Pixels from the right place at which key point k has this similarity."""
    return math.sqrt(-2 * math.log(similarity) * AREA) * 2 * SKELETON["sigmas"][k]


def kinds_of(errors):
    assert errors.kinds.shape == (1, 5)
    return ["unlabelled" if kind < 0 else KINDS[kind] for kind in errors.kinds[0]]


def test_each_kind_on_a_hand_made_pair_of_persons():
    own, other = PLACES, moved(600, 0)
    found = own.copy()
    found[0] += [distance(0, 0.86), 0]  # good, just
    found[1] += [distance(1, 0.84), 0]  # jitter, just
    found[2] = [300, 400]  # near nothing
    found[3] = own[4] + [3, 0]  # the other foot
    found[4] = other[3] - [0, 3]  # the other person's other foot
    errors = PoseErrors(truth(person(7, own), person(8, other)), [pose(found)], SKELETON)
    assert kinds_of(errors) == ["good", "jitter", "miss", "inversion", "swap"]
    assert errors.pose.tolist() == [0]
    assert errors.person.tolist() == [0]
    assert errors.false_negatives.tolist() == [1]
    assert errors.oks == pytest.approx([(0.86 + 0.84 + 2 * 0) / 5], abs=0.01)


@pytest.mark.parametrize(
    ("similarity", "kind"), [(0.851, "good"), (0.849, "jitter"), (0.501, "jitter"), (0.499, "miss")]
)
@pytest.mark.parametrize("angle", [0.0, 2.0])
def test_thresholds(similarity, kind, angle):
    found = PLACES.copy()
    found[0] += distance(0, similarity) * np.array([math.cos(angle), math.sin(angle)])
    assert kinds_of(PoseErrors(truth(person(1, PLACES)), [pose(found)], SKELETON)) == [kind, *["good"] * 4]


def test_the_same_key_point_of_another_person_is_a_swap():
    other = moved(400, 0)
    found = PLACES.copy()
    found[1] = other[1]
    errors = PoseErrors(truth(person(1, PLACES), person(2, other)), [pose(found)], SKELETON)
    assert kinds_of(errors) == ["good", "swap", "good", "good", "good"]


def test_a_good_point_stays_good_although_another_place_is_nearer():
    hands = PLACES.copy()
    hands[2] = hands[1] + [2, 0]
    found = hands.copy()
    found[1] = hands[2]
    assert kinds_of(PoseErrors(truth(person(1, hands)), [pose(found)], SKELETON))[1] == "good"


def test_between_its_own_place_and_its_counterpart_the_nearer_one_decides():
    near = PLACES.copy()
    near[2] = near[1] + [distance(1, 0.6) + distance(1, 0.7), 0]
    for to_own, kind in ((0.7, "jitter"), (0.6, "inversion")):
        found = near.copy()
        found[1] = near[1] + [distance(1, to_own), 0]
        assert kinds_of(PoseErrors(truth(person(1, near)), [pose(found)], SKELETON))[1] == kind


def test_a_key_point_near_an_unlike_one_of_the_same_person_is_a_miss():
    found = PLACES.copy()
    found[0] = PLACES[3]
    assert kinds_of(PoseErrors(truth(person(1, PLACES)), [pose(found)], SKELETON))[0] == "miss"


def test_unlabelled_points_are_neither_judged_nor_places_to_be_confused_with():
    visible = np.array([2, 0, 2, 2, 2])
    found = PLACES.copy()
    found[1] += 300
    found[2] = PLACES[1]
    errors = PoseErrors(truth(person(1, PLACES, visible=visible)), [pose(found)], SKELETON)
    assert kinds_of(errors) == ["good", "unlabelled", "miss", "good", "good"]
    assert errors.oks == pytest.approx([3 / 4], abs=0.01)
    assert errors.per_keypoint()[1]["labelled"] == 0
    assert math.isnan(errors.per_keypoint()[1]["good"])


def test_neither_crowds_nor_other_images_are_swapped_with():
    elsewhere, crowd = person(2, moved(400, 0), image_id=2), person(3, moved(400, 0), iscrowd=1)
    found = PLACES.copy()
    found[0] = PLACES[0] + [400, 0]
    errors = PoseErrors(truth(person(1, PLACES), elsewhere, crowd), [pose(found)], SKELETON)
    assert kinds_of(errors)[0] == "miss"


def test_background_leaves_out_crowds_unlabelled_persons_and_poses_beyond_twenty():
    unlabelled = person(2, moved(0, 900), visible=0)
    annotations = truth(person(1, PLACES), unlabelled, person(3, PLACES, image_id=5))
    nowhere = [pose(moved(2000, 2000 + i), score=0.1 - 0.001 * i) for i in range(25)]
    results = [pose(PLACES), pose(moved(0, 900), score=0.8), *nowhere]
    errors = PoseErrors(annotations, results, SKELETON)
    assert errors.false_positives.tolist() == list(range(2, 20))
    assert errors.false_negatives.tolist() == [2]
    rows = errors.background()
    assert [row["name"] for row in rows] == ["false positive"] * 18 + ["false negative"]
    assert rows[0]["score"] == pytest.approx(0.1)
    assert (rows[-1]["image_id"], rows[-1]["annotation"], rows[-1]["labelled"]) == (5, 3, 5)


# ---- a slow plain loop as reference


def plain_loop(annotations, results):
    """{row of the result: (row of the annotation, kinds)} by COCO's greedy matching, written out."""

    def similarity(point, labels, k, area):
        return math.exp(-((point - labels[k, :2]) ** 2).sum() / (2 * area * (2 * SKELETON["sigmas"][k]) ** 2))

    labels = [np.reshape(a["keypoints"], (5, 3)) for a in annotations]
    points = [np.reshape(r["keypoints"], (5, 3))[:, :2] for r in results]
    real = [row for row, a in enumerate(annotations) if not a["iscrowd"] and (labels[row][:, 2] > 0).any()]
    taken, found = set(), {}
    for row in sorted(range(len(results)), key=lambda row: -results[row]["score"]):
        best, match = 0.1, None
        for g in real:
            if g in taken or annotations[g]["image_id"] != results[row]["image_id"]:
                continue
            known = [k for k in range(5) if labels[g][k, 2] > 0]
            value = np.mean([similarity(points[row][k], labels[g], k, annotations[g]["area"]) for k in known])
            if value >= best:
                best, match = value, g
        if match is None:
            continue
        taken.add(match)
        kinds = []
        for k in range(5):
            if labels[match][k, 2] == 0:
                kinds.append(-1)
                continue
            sigma = 2 * SKELETON["sigmas"][k]
            options = []  # (similarity, kind), in order of preference
            for g in [match, *(g for g in real if g != match)]:
                if annotations[g]["image_id"] != results[row]["image_id"]:
                    continue
                for j in dict.fromkeys([k, PARTNER[k]]):
                    if labels[g][j, 2] > 0:
                        squared = ((points[row][k] - labels[g][j, :2]) ** 2).sum()
                        kind = "swap" if g != match else "jitter" if j == k else "inversion"
                        options.append((math.exp(-squared / (2 * annotations[g]["area"] * sigma**2)), kind))
            right = options[0][0]
            value, kind = max(options, key=lambda option: option[0])
            kinds.append(KINDS.index("good" if right >= 0.85 else kind if value >= 0.5 else "miss"))
        found[row] = (match, kinds)
    return found


def scene(seed, images=6):
    """Persons that overlap, and poses with every kind of error, some on nobody."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for image_id in range(1, images + 1):
        people = [PLACES * rng.uniform(0.6, 1.4) + rng.uniform(0, 250, 2) for _ in range(rng.integers(0, 5))]
        for places in people:
            visible = rng.choice([0, 1, 2], 5, p=[0.2, 0.2, 0.6])
            if rng.random() < 0.1:
                visible[:] = 0
            number = 10 + 3 * len(annotations)
            changes = {"area": float(rng.uniform(3000, 20000))}
            annotations.append(person(number, places, image_id, visible, **changes))
            found = places + rng.normal(0, rng.choice([2, 8]), (5, 2))
            where = rng.random(5)
            found[where < 0.15] = found[PARTNER][where < 0.15]
            elsewhere = people[rng.integers(len(people))]
            found[where > 0.85] = elsewhere[where > 0.85]
            found[(where > 0.5) & (where < 0.6)] += 200
            results.append(pose(found, image_id, float(rng.random())))
        if rng.random() < 0.5:
            results.append(pose(rng.uniform(500, 900, (5, 2)), image_id, float(rng.random())))
    return truth(*annotations, images=list(range(1, images + 1))), results


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_agrees_with_a_plain_loop(seed):
    annotations, results = scene(seed)
    errors = PoseErrors(annotations, results, SKELETON)
    expected = plain_loop(annotations["annotations"], results)
    found = {
        int(pose): (int(person), kinds.tolist())
        for pose, person, kinds in zip(errors.pose, errors.person, errors.kinds, strict=True)
    }
    assert found == expected


def test_scenes_have_every_kind():
    kinds = np.concatenate([PoseErrors(*scene(seed), SKELETON).kinds.ravel() for seed in range(5)])
    assert set(kinds.tolist()) == {-1, 0, 1, 2, 3, 4}


# ---- what a kind costs


def ap_by_hand(annotations, results):
    """AP by `CocoKeypoints`, fed one pose at a time."""
    metric = CocoKeypoints(annotations, SKELETON["sigmas"], SKELETON["names"], oks_threshold=1.0)
    for row, result in enumerate(results):
        points = torch.tensor(result["keypoints"]).view(1, 5, 3)
        score, image = torch.tensor([result["score"]]), torch.tensor([result["image_id"]])
        metric.update(image, torch.tensor([row]), points[..., :2], torch.ones(1, 5), score, torch.ones(1))
    return metric.compute()["AP"]


def corrected_by_hand(annotations, results, kinds):
    fixed = copy.deepcopy(results)
    for row, (match, found) in plain_loop(annotations["annotations"], results).items():
        for k, kind in enumerate(found):
            if kind >= 0 and KINDS[kind] in kinds:
                fixed[row]["keypoints"][3 * k : 3 * k + 2] = annotations["annotations"][match]["keypoints"][
                    3 * k : 3 * k + 2
                ]
    return fixed


def test_gains_are_those_of_predictions_corrected_by_hand():
    annotations, results = scene(3, images=12)
    totals = {row["name"]: row for row in PoseErrors(annotations, results, SKELETON).totals()}
    now = ap_by_hand(annotations, results)
    assert 0.05 < now < 0.9
    assert totals["good"]["AP"] == pytest.approx(now, abs=1e-9)
    for name, kinds in [*((kind, [kind]) for kind in ERRORS), ("all four", ERRORS)]:
        expected = ap_by_hand(annotations, corrected_by_hand(annotations, results, kinds))
        assert totals[name]["AP"] == pytest.approx(expected, abs=1e-9), name
        assert totals[name]["gain"] == pytest.approx(expected - now, abs=1e-9)
    assert totals["all four"]["gain"] > max(totals[kind]["gain"] for kind in ERRORS) > 0.01


def test_gain_of_background_false_positives():
    results = [pose(PLACES + 2000, score=0.9), pose(PLACES, score=0.5)]
    totals = {row["name"]: row for row in PoseErrors(truth(person(1, PLACES)), results, SKELETON).totals()}
    positives = totals["background false positive"]
    assert (positives["count"], positives["share"]) == (1, 0.5)
    assert positives["AP"] == pytest.approx(1.0)
    assert positives["gain"] == pytest.approx(0.5)


def test_gain_of_background_false_negatives():
    annotations, results = scene(3, images=12)
    totals = {row["name"]: row for row in PoseErrors(annotations, results, SKELETON).totals()}
    persons = annotations["annotations"]
    found = {match for match, _ in plain_loop(persons, results).values()}
    kept = [a for row, a in enumerate(persons) if row in found or a["num_keypoints"] == 0]
    negatives = totals["background false negative"]
    assert negatives["count"] == len(persons) - len(kept) > 0
    labelled = [a for a in persons if a["num_keypoints"] and not a["iscrowd"]]
    assert negatives["share"] == pytest.approx(negatives["count"] / len(labelled))
    assert len(labelled) < len(persons)
    assert negatives["AP"] == pytest.approx(ap_by_hand({**annotations, "annotations": kept}, results), abs=1e-9)


def test_a_perfect_pose_has_nothing_to_gain():
    totals = PoseErrors(truth(person(1, PLACES)), [pose(PLACES)], SKELETON).totals()
    assert [row["count"] for row in totals] == [5, 0, 0, 0, 0, 0, 0, 0]
    assert [row["AP"] for row in totals] == pytest.approx([1.0] * 8)
    assert totals[0]["share"] == 1.0


def test_shares_of_a_key_point_add_up():
    errors = PoseErrors(*scene(1), SKELETON)
    for row in errors.per_keypoint():
        assert sum(row[kind] for kind in KINDS) == pytest.approx(1.0)
    assert sum(row["labelled"] for row in errors.per_keypoint()) == (errors.kinds >= 0).sum()
    rows = errors.persons()
    assert [row["OKS"] for row in rows] == sorted(row["OKS"] for row in rows)


def test_no_poses_at_all():
    errors = PoseErrors(truth(person(1, PLACES)), [], SKELETON)
    totals = {row["name"]: row for row in errors.totals()}
    assert totals["background false negative"]["count"] == 1
    assert totals["good"]["AP"] == 0.0
    assert math.isnan(totals["good"]["share"])


def test_ids_from_zero_and_not_in_order_are_kept():
    annotations = truth(person(0, PLACES, image_id=9), person(5, PLACES, image_id=2))
    rows = PoseErrors(annotations, [pose(PLACES + 4, 9), pose(PLACES, 2)], SKELETON).persons()
    assert [(row["image_id"], row["annotation"]) for row in rows] == [(9, 0), (2, 5)]


def test_ap_takes_results_as_they_are():
    annotations = truth(person(1, PLACES), person(2, moved(500, 0)))
    twice = [pose(PLACES, score=0.9), pose(PLACES, score=0.8), pose(moved(500, 0), score=0.7)]
    # Precision at full recall is 2 / 3: suppression would have dropped the repetition.
    assert average_precision(annotations, twice, SKELETON) == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_wrong_number_of_key_points_says_so():
    with pytest.raises(ValueError, match="51 numbers in keypoints, expected 15"):
        PoseErrors(truth(person(1, PLACES)), [{**pose(PLACES), "keypoints": [0.0] * 51}], SKELETON)
