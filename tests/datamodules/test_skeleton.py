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


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("coco", 17),
        ("mpii", 16),
        ("crowdpose", 14),
        ("ap10k", 17),
        ("union", 22),
        ("wflw", 98),
        ("w300", 68),
        ("cofw", 29),
        ("aflw", 19),
    ],
)
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


def test_others_have_the_sigmas_of_their_authors_evaluations() -> None:
    parts = {"shoulder": 0.79, "elbow": 0.72, "wrist": 0.62, "hip": 1.07, "knee": 0.87, "ankle": 0.89}
    crowdpose = [value / 10 for value in parts.values() for _ in "lr"] + [0.079, 0.079]  # head and neck
    assert Skeleton.load("crowdpose").sigmas == pytest.approx(crowdpose)
    legs = [0.079, 0.072, 0.062] * 2 + [0.107, 0.087, 0.089] * 2
    assert Skeleton.load("ap10k").sigmas == pytest.approx([0.025, 0.025, 0.026, 0.035, 0.035, *legs])


@pytest.mark.parametrize(
    ("name", "normaliser"), [("wflw", (60, 72)), ("w300", (36, 45)), ("cofw", (8, 9)), ("aflw", "box"), ("coco", None)]
)
def test_faces_are_measured_by_their_outer_eye_corners_or_their_box(name: str, normaliser) -> None:
    skeleton = Skeleton.load(name)
    assert skeleton.normaliser == normaliser
    if isinstance(normaliser, tuple):
        assert [skeleton.names[index] for index in normaliser] == ["right_eye_outer", "left_eye_outer"]


def test_the_normaliser_is_named_like_other_points(tmp_path) -> None:
    text = "names: [l, nose, r]\nsigmas: 0.1\nnormaliser: "
    for pair in ("[l, r]", "[0, 2]", "[l, 2]"):
        assert load(tmp_path, text + pair).normaliser == (0, 2)
    assert load(tmp_path, text + "box").normaliser == "box"


def test_skeletons_of_older_checkpoints_have_no_normaliser() -> None:
    stored = Skeleton.load("coco").to_dict()
    assert stored.pop("normaliser") is None
    assert Skeleton(**stored) == Skeleton.load("coco")


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


def load(folder, text: str) -> Skeleton:
    path = folder / "own.yaml"
    path.write_text(text)
    return Skeleton.load(path)


@pytest.mark.parametrize("names", ["[1, 2, 3, 4]", "['1', '2', '3', '4']", "[1, '2', 3, '4']"])
@pytest.mark.parametrize("pair", ["[1, 2]", "['1', 2]", "['1', '2']"])
def test_a_number_that_is_a_name_is_the_name(tmp_path, names: str, pair: str) -> None:
    text = f"names: {names}\nflip_pairs: [{pair}, [4, 3]]\nlimbs: [{pair}, [2, 4]]\nupper_body: [4, 1]\nsigmas: 0.05\n"
    skeleton = load(tmp_path, text)
    assert skeleton.names == ("1", "2", "3", "4")
    assert skeleton.flip_pairs == ((0, 1), (3, 2))
    assert skeleton.flip_permutation == [1, 0, 3, 2]
    assert skeleton.limbs == ((0, 1), (1, 3))
    assert skeleton.upper_body == (3, 0)


def test_numbers_in_another_order_are_names_too(tmp_path) -> None:
    text = "names: [3, 1, 0, 2]\nflip_pairs: [[0, 1]]\nlimbs: [[3, 0]]\nupper_body: [2]\nsigmas: 0.05\n"
    skeleton = load(tmp_path, text)
    assert (skeleton.flip_pairs, skeleton.limbs, skeleton.upper_body) == (((2, 1),), ((0, 2),), (3,))


def test_indices_stay_indices_beside_words(tmp_path) -> None:
    skeleton = load(tmp_path, "names: [nose, 7, tail, 0]\nflip_pairs: [[1, 7.5]]\nsigmas: 0.05\n".replace("7.5", "2"))
    assert skeleton.flip_pairs == ((1, 2),)
    skeleton = load(tmp_path, "names: [nose, 7, tail, 0]\nflip_pairs: [[7, 2]]\nlimbs: [[0, nose]]\nsigmas: 0.05\n")
    assert (skeleton.flip_pairs, skeleton.limbs) == (((1, 2),), ((3, 0),))


def test_a_number_that_is_no_name_among_numbers_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match=r"flip_pairs hold \[0\], which are not among its names"):
        load(tmp_path, "names: [1, 2, 3]\nflip_pairs: [[0, 2]]\nsigmas: 0.05\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [yes, no, maybe]", "put quotes around yes, no, on, off"),
        ("names: [left, right, on]", "put quotes around yes, no, on, off"),
        ("names: [a, b]\nlimbs: [[a, off]]", "put quotes around yes, no, on, off"),
        ("names: [a, b, ~]", "the name None"),
        ("names: [a, b]\nsigmas: 1\nnormaliser: eyes", "normaliser is 'eyes': expected a pair of points, box"),
        ("names: [a, b]\nsigmas: 1\nnormaliser: [a, c]", r"normaliser hold \['c'\], which are not among"),
        ("names: [a, b]\nsigmas: 1\nnormaliser: [a, a]", r"normaliser hold \[0, 0\]: expected pairs of different"),
        ("names: [a, b]\nsigmas: 1\nnormaliser: [a]", r"normaliser hold \[0\]: expected pairs"),
        ("names: [a, b]\nsigmas: 1\nnormaliser: [0, 2]", r"normaliser name the key points \[2\]"),
        ("names: [a, [b]]", r"the name \['b'\]"),
        ("names: abc", "names hold 'abc': expected a list"),
        ("names: {a: 1}", "names hold .*expected a list"),
        ("names: [a, b]\nlimbs: [1]", "limbs hold 1: expected a list"),
        ("names: [a, b]\nlimbs: 7", "limbs hold 7: expected a list"),
        ("names: [a, b]\nflip_pairs: [[a, [b]]]", r"the name \['b'\]"),
        ("names: [a, b]\nflip_pairs: {a: b}", "flip_pairs hold .*expected a list"),
        ("names: [a, b]\nlimbs: [[0, 1.0]]", r"limbs hold \[1\.0\]"),
        ("names: [a, b]\nupper_body: a", "upper_body hold 'a': expected a list"),
        ("names: [a, b]\nupper_body: [[a]]", r"the name \['a'\]"),
        ("names: [a, b]\nsigmas: [null, 0.1]", "sigmas hold None: expected a number"),
        ("names: [a, b]\nsigmas: [yes, 0.1]", "sigmas hold True"),
        ("names: [a, b]\nsigmas: {a: 0.1, b: 0.2}", "sigmas hold .*expected a number"),
        ("names: [a, b]\nsigmas: wide", "sigmas hold 'wide'"),
        (f"names: [a, b]\nsigmas: {10**400}", "sigmas hold 1000"),
        ("names: " + "[" * 999 + "]" * 999, "is no skeleton"),
    ],
)  # fmt: skip
def test_what_yaml_makes_of_a_slip_is_named(tmp_path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        load(tmp_path, text if "sigmas" in text else f"{text}\nsigmas: 0.05")
    assert "own.yaml" in str(error.value)


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-32"])
def test_another_encoding_is_one_sentence(tmp_path, encoding: str) -> None:
    (tmp_path / "own.yaml").write_bytes("names: [é, b]\nsigmas: 0.05\n".encode(encoding))
    with pytest.raises(DataError, match=r"own\.yaml is not in UTF-8 .*: save it as UTF-8"):
        Skeleton.load(tmp_path / "own.yaml")


def test_a_byte_order_mark_and_umlauts_are_read(tmp_path) -> None:
    (tmp_path / "own.yaml").write_bytes("names: [é, b]\nsigmas: 0.05\n".encode("utf-8-sig"))
    assert Skeleton.load(tmp_path / "own.yaml").names == ("é", "b")


def test_a_relative_path_names_the_folder_that_was_looked_in(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"no skeleton my/bees.yaml in {tmp_path}: give one of"):
        Skeleton.load("my/bees.yaml")


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
    with pytest.raises(DataError, match=r"no skeleton mouse: give one of .*coco, .*mpii, "):
        Skeleton.load("mouse")
