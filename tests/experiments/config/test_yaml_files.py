"""Files and flags become one mapping: what merges, what is replaced, what is said of it, and what is no YAML."""

from pathlib import Path

import pytest

from datamodules import Skeleton
from datamodules.base import DataError
from datamodules.loading.text_files import ConfigError
from experiments.config.files import Rules, combine, find, find_all, merge, read, split_flags

KEPT = {("Base", "Derived"): {"root", "batch_size"}}


def kept(before: str, now: str) -> set[str]:
    return KEPT.get((before, now), set())


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_key_with_an_equals_sign_replaces_the_whole_mapping():
    base = {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}, "schedule": {"name": "poly"}}
    assert merge(base, {"optimizer=": {"name": "adam", "lr": 0.2}}) == {
        "optimizer": {"name": "adam", "lr": 0.2},
        "schedule": {"name": "poly"},
    }


@pytest.mark.parametrize("where", ["model", "data"])
def test_a_whole_section_is_replaced(where):
    base = {where: {"class_path": "A", "init_args": {"x": 1}}, "trainer": {"max_epochs": 1}}
    found = merge(base, {f"{where}=": {"class_path": "A", "init_args": {"y": 2}}})
    assert found == {where: {"class_path": "A", "init_args": {"y": 2}}, "trainer": {"max_epochs": 1}}


@pytest.mark.parametrize("suffix", ["+", "="])
def test_suffixes_mean_the_same_where_nothing_lies_below(suffix):
    assert merge({}, {"trainer": {f"callbacks{suffix}": ["EMA"]}}) == {"trainer": {"callbacks": ["EMA"]}}
    assert merge({"model": 1}, {"trainer": {f"callbacks{suffix}": ["EMA"]}})["trainer"] == {"callbacks": ["EMA"]}


@pytest.mark.parametrize(
    "flags",
    [["--data.images=", "{train: new}"], ["--data.images=={train: new}"], ["--data.images==", "{train: new}"]],
)
def test_flags_replace_whole_mappings_too(flags):
    found = combine([{"data": {"images": {"train": "old", "val": "old"}}}], split_flags(flags)[0])
    assert found == {"data": {"images": {"train": "new"}}}


def test_a_flag_with_an_empty_value_is_null_and_appending_stays_appending():
    assert split_flags(["--model.schedule=", "--trainer.max_epochs", "3"])[0] == [
        ("model.schedule", None),
        ("trainer.max_epochs", 3),
    ]
    assert split_flags(["--wandb.tags+=", "[a]"])[0] == [("wandb.tags+", ["a"])]
    assert split_flags(["--wandb.tags+=[a]"])[0] == [("wandb.tags+", ["a"])]


def test_a_table_of_ids_is_replaced_and_what_went_is_said():
    rules = Rules(kept)
    found = merge({"data": {"id_map": {0: 0, 1: 1, 7: 2}}}, {"data": {"id_map": {0: 0, 1: 5}}}, rules)
    assert found == {"data": {"id_map": {0: 0, 1: 5}}}
    (sentence,) = rules.dropped
    assert "data.id_map" in sentence
    assert "7" in sentence


@pytest.mark.parametrize("base", [{"class_path": "A", "init_args": {}}, {"init_args": {}}])
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--data.id_map", "{3: 1}"], {0: 0, 5: 1, 3: 1}),
        (["--data.id_map.5", "2"], {0: 0, 5: 2}),
        (["--data.id_map=", "{3: 1}"], {3: 1}),
        (["--data.init_args.id_map=={3: 1}"], {3: 1}),
    ],
)
def test_a_flag_changes_entries_of_a_table_and_replaces_it_by_an_equals_sign(base, flags, expected):
    content = {"data": {**base, "init_args": {"id_map": {0: 0, 5: 1}}}}
    assert combine([content], split_flags(flags)[0])["data"]["init_args"]["id_map"] == expected


def test_mappings_with_names_still_merge():
    assert merge({"images": {"train": "a", "val": "b"}}, {"images": {"val": "c"}}) == {
        "images": {"train": "a", "val": "c"}
    }


@pytest.mark.parametrize("over", [{"class_path": "Derived", "init_args": {"extra": 1}}, {"class_path": "Derived"}])
def test_a_derived_class_keeps_what_it_takes_and_the_rest_is_named(over):
    base = {"class_path": "Base", "init_args": {"root": "r", "batch_size": 2, "gone": 3}}
    rules = Rules(kept)
    found = merge({"data": base}, {"data": over}, rules)
    assert found["data"]["class_path"] == "Derived"
    assert found["data"]["init_args"] == {"root": "r", "batch_size": 2, **over.get("init_args", {})}
    (sentence,) = rules.dropped
    assert all(word in sentence for word in ("data", "Derived", "Base", "gone"))
    assert "batch_size" not in sentence


def test_another_class_starts_afresh_and_names_what_it_drops():
    rules = Rules(kept)
    base = {"class_path": "Base", "init_args": {"root": "r"}}
    assert merge(base, {"class_path": "Other"}, rules) == {"class_path": "Other"}
    assert "root" in rules.dropped[0]
    assert merge({"data": base}, {"data": "Other"}, rules)["data"] == {"class_path": "Other"}
    assert merge(base, {"class_path": "Base", "init_args": {"x": 1}})["init_args"] == {"root": "r", "x": 1}


def test_a_class_named_without_arguments_gets_them_later():
    assert merge({"codec": "UDPCodec"}, {"codec": {"sigma": 3}}) == {
        "codec": {"class_path": "UDPCodec", "init_args": {"sigma": 3}}
    }


def test_appending_to_an_object_makes_a_list_and_to_anything_else_is_refused():
    one = {"class_path": "EMA"}
    assert merge({"callbacks": one}, {"callbacks+": [{"class_path": "Timer"}]})["callbacks"] == [
        one,
        {"class_path": "Timer"},
    ]
    with pytest.raises(ConfigError, match=r"optimizer\+ appends to a list"):
        merge({"optimizer": {"lr": 1}}, {"optimizer+": {"lr": 2}})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("5: x", ["section 5", "Sections"]),
        ("on: x", ["no section True"]),
        ("wandb: {notes: größer}".encode("cp1252"), ["UTF-8", "line 1", "0xf6"]),
        (b"model: {}\n# caf\xe9\n", ["UTF-8", "line 2"]),
        (b"\xff\xfem\x00o\x00d\x00e\x00l\x00", ["UTF-8"]),
        ("data: &a [*a]", ["alias"]),
        ("data: &a {x: *a}", ["alias"]),
        ("data: {{}: 1}", ["not valid YAML"]),
        ("data: {x: !!python/object:os.system {}}", ["not valid YAML"]),
        ("data: {x: !!set {a, b}}", ["set", "no number, text, list or mapping"]),
        ("data: {x: !!int abc}", ["not valid YAML"]),
        ("data: " + "[" * 400 + "]" * 400, ["nested too deeply"]),
        ("data: {x: [1}", ["not valid YAML", "line 1"]),
        ("", ["is empty"]),
        ("resume: runs/a", ["resume", "--resume"]),
        ("debug: true", ["debug", "--debug"]),
        ("\x00", ["not valid YAML"]),
    ],
)
def test_what_is_no_configuration_is_one_sentence(tmp_path, content, words):
    path = written(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_byte_order_mark_is_skipped(tmp_path):
    assert read(written(tmp_path, b"\xef\xbb\xbftrainer: {max_epochs: 3}")) == {"trainer": {"max_epochs": 3}}


def test_dates_are_text_and_anchors_are_followed(tmp_path):
    content = read(written(tmp_path, "data: {root: 2024-05-01, a: &x {b: 1}, c: *x}"))
    assert content == {"data": {"root": "2024-05-01", "a": {"b": 1}, "c": {"b": 1}}}
    assert split_flags(["--data.root", "2024-05-01"])[0] == [("data.root", "2024-05-01")]


def test_aliases_of_aliases_do_not_fill_the_memory(tmp_path):
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(ConfigError, match="aliases"):
        read(written(tmp_path, "data:\n  " + "\n  ".join(lines)))


@pytest.mark.parametrize("text", ["@home", "`x", "%x", "a: b: c", "*.yaml"])
def test_a_flag_takes_text_that_is_no_yaml(text):
    assert split_flags(["--runs", text])[0] == [("runs", text)]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model.optimizer={name: adam"], ["--model.optimizer", "not valid YAML"]),
        (["--data.root", "&a [*a]"], ["--data.root", "alias"]),
        (["--data.image_size", "256", "192"], ["'192'", "--data.image_size", "brackets"]),
        (["--runs", "--debug"], ["--runs lacks a value"]),
        (["--trainer.max_epochs", "3", "sample.yaml"], ["sample.yaml", "before the flags"]),
        (["-x", "3"], ["-x", "two dashes"]),
        (["--model..lr", "3"], ["--model..lr", "no flag"]),
        (["--", "3"], ["no flag"]),
    ],
)
def test_mistakes_in_flags_name_the_flag(flags, words):
    with pytest.raises(ConfigError) as caught:
        split_flags(flags)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "value"), [(["--debug"], True), (["--debug", "false"], False), (["--debug=true"], True)]
)
def test_debug_needs_no_value(flags, value):
    assert split_flags([*flags, "--runs", "x"])[0] == [("debug", value), ("runs", "x")]


def test_an_overlay_beside_its_experiment_comes_before_its_namesake(tmp_path, monkeypatch):
    for name in ("overlays/sample", "overlays/debug", "deer/sample", "deer/deer_small", "pose/pose_big"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").touch()
    monkeypatch.setattr("experiments.config.files.CONFIGS", tmp_path)

    def found(*names):
        return [path.relative_to(tmp_path).with_suffix("").as_posix() for path in find_all(names)]

    assert found("deer_small", "sample", "debug") == ["deer/deer_small", "deer/sample", "overlays/debug"]
    assert found("pose_big", "sample.yaml") == ["pose/pose_big", "overlays/sample"]
    assert found("sample") == ["overlays/sample"]
    mine = tmp_path.parent / "mine.yaml"
    mine.touch()
    assert find_all([str(mine), "sample"])[1] == tmp_path / "overlays" / "sample.yaml"


def test_files_are_found_without_their_ending_and_actions_are_no_files(tmp_path):
    assert find("pose_coco").name == "pose_coco.yaml"
    with pytest.raises(ConfigError, match=r"nor among the experiments\. Experiments"):
        find("nowhere.yaml")
    with pytest.raises(ConfigError, match=r"mean seg_folder.yaml\?"):
        find("seg_foldr")
    with pytest.raises(ConfigError, match="mean validate"):
        find("valdate")
    for word, action in (("train", "fit"), ("evaluate", "validate")):
        with pytest.raises(ConfigError, match=rf"mean {action}\?"):
            find(word)
    with pytest.raises(ConfigError, match="comes first"):
        find("validate")
    with pytest.raises(ConfigError, match=r"two dashes.*--model.lr=3"):
        find("model.lr=3")
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"is a folder.*config.yaml"):
        find(str(tmp_path))


def test_a_skeleton_in_another_encoding_is_one_sentence(tmp_path):
    path = written(tmp_path, "names: [Nase, Füße]".encode("cp1252"))
    with pytest.raises(DataError, match=r"mine.yaml.*UTF-8"):
        Skeleton.load(path)
    path.write_bytes(b"\xef\xbb\xbfnames: [a, b]\nsigmas: 0.1\n")
    assert Skeleton.load(path).names == ("a", "b")
