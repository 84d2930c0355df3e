"""Skeletons: mirroring twice changes nothing, files say what the constructor says, and mistakes are named."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from datamodules import DataError, Skeleton


@st.composite
def skeletons(draw: st.DrawFn) -> Skeleton:
    count = draw(st.integers(1, 20))
    order = draw(st.permutations(range(count)))
    pairs = draw(st.integers(0, count // 2))
    return Skeleton(
        names=tuple(f"p{i}" for i in range(count)),
        limbs=(),
        flip_pairs=tuple((order[2 * i], order[2 * i + 1]) for i in range(pairs)),
        sigmas=(0.05,) * count,
    )


@given(skeletons())
def test_mirroring_twice_is_the_identity(skeleton: Skeleton) -> None:
    permutation = skeleton.flip_permutation
    assert [permutation[index] for index in permutation] == list(range(skeleton.num_keypoints))
    assert all(permutation[left] == right for left, right in skeleton.flip_pairs)


@pytest.mark.parametrize(("name", "count"), [("coco", 17), ("mpii", 16)])
def test_published_skeletons_are_symmetric_and_survive_a_round_trip(name: str, count: int) -> None:
    skeleton = Skeleton.load(name)
    assert skeleton.num_keypoints == count
    swap = {"left": "right", "right": "left"}
    for index, mirrored in enumerate(skeleton.flip_permutation):
        side, _, part = skeleton.names[index].partition("_")
        expected = f"{swap[side]}_{part}" if side in swap else skeleton.names[index]
        assert skeleton.names[mirrored] == expected
        assert skeleton.sigmas[mirrored] == skeleton.sigmas[index]
    mirrored_limbs = {frozenset(skeleton.flip_permutation[i] for i in limb) for limb in skeleton.limbs}
    assert mirrored_limbs == {frozenset(limb) for limb in skeleton.limbs}
    assert Skeleton(**yaml.safe_load(yaml.safe_dump(skeleton.to_dict()))) == skeleton


def test_coco_has_the_sigmas_of_pycocotools() -> None:
    from pycocotools.cocoeval import Params

    assert Skeleton.load("coco").sigmas == pytest.approx(Params("keypoints").kpt_oks_sigmas.tolist())
    assert Skeleton.load("coco").upper_body == tuple(range(11))


def test_points_by_name_and_one_sigma_for_all(tmp_path) -> None:
    path = tmp_path / "paws.yaml"
    path.write_text(
        "names: [nose, l, r]\nlimbs: [[nose, l], [0, r]]\nflip_pairs: [[l, r]]\nsigmas: 0.1\nupper_body: [nose]\n"
    )
    expected = Skeleton(("nose", "l", "r"), ((0, 1), (0, 2)), ((1, 2),), (0.1, 0.1, 0.1), (0,))
    assert Skeleton.load(path) == Skeleton.load(str(path)) == expected


def test_missing_sigmas_are_a_default_that_is_said(tmp_path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text("names: [a, b]\n")
    with pytest.warns(UserWarning, match=r"no sigmas.*0\.05"):
        assert Skeleton.load(path).sigmas == (0.05, 0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["a", "a", "c"]}, "different names, found .*a"),
        ({"names": []}, "names"),
        ({"sigmas": [0.1]}, "3 names but 1 sigmas"),
        ({"sigmas": [0.1, 0.0, 0.1]}, "positive"),
        ({"sigmas": [0.1, float("nan"), 0.1]}, "positive"),
        ({"flip_pairs": [[0, 1], [1, 2]]}, "flip_pairs use .*b"),
        ({"flip_pairs": [[1, 1]]}, "different points"),
        ({"flip_pairs": [[0, 3]]}, r"\[3\].*0 to 2"),
        ({"limbs": [[0, 1, 2]]}, "pairs"),
        ({"limbs": [["a", "z"]]}, "z.*not among"),
        ({"upper_body": [-1]}, "upper_body"),
        ({"flips": [[0, 1]]}, "flips"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_file(tmp_path, change: dict, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"names": ["a", "b", "c"], "sigmas": 0.1} | change))
    with pytest.raises(DataError, match=message) as error:
        Skeleton.load(path)
    assert "mine.yaml" in str(error.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match="no skeleton mouse: give one of coco, mpii"):
        Skeleton.load("mouse")
