"""An offline W&B run, read back by W&B's own reader, has what a comparison needs; a report has its panels."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb

from experiments import run, wandb_report
from experiments.config import ConfigError, WandbSpec
from experiments.run import main
from experiments.training.loggers import make_wandb_logger, wanted_mode, why_offline
from tests.conftest import OFFLINE, ROOT

QUICK = ["pose_coco.yaml", "sample.yaml", "debug.yaml"]
KEY = "0123456789" * 4
POSES = "pose (truth, prediction, target, heatmaps)"


def records(folder: Path) -> list[list[dict[str, Any]]]:
    """Of each offline run in a run folder, oldest first, the records of its file."""
    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"), key=lambda file: file.parent.name)
    read = [sys.executable, "-m", "wandb", "leet", "inspect", "--json"]
    outputs = [subprocess.run([*read, str(f)], capture_output=True, text=True, check=True).stdout for f in files]
    return [[json.loads(line) for line in output.splitlines()] for output in outputs]


def of_kind(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in found if record["type"] == kind]


def rows(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record["item"] for record in of_kind(found, "history")]


def summary_of(found: list[dict[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for record in of_kind(found, "summary"):
        values |= record.get("update", {})
    return values


@dataclass
class Trained:
    """A run of one epoch, moved, and resumed for a second one."""

    folder: Path
    name: str
    summary: dict[str, Any]  # summary.json of the first part
    first: list[dict[str, Any]]
    second: list[dict[str, Any]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.delenv("WANDB_MODE", raising=False)
        patch.delenv("WANDB_API_KEY", raising=False)
        runs = tmp_path_factory.mktemp("runs")
        patch.setenv("NETRC", str(runs / "none"))
        folder = Path(main([*QUICK, "--runs", str(runs), "--wandb.log_model", "true"]).default_root_dir)
        summary = json.loads((folder / "summary.json").read_text())
        moved = folder.rename(runs / "moved")
        main(["--resume", str(moved), "--trainer.max_epochs", "2"])
    return Trained(moved, folder.name, summary, *records(moved))


def test_run_has_group_tags_type_config_code_and_machine(trained):
    (record,) = of_kind(trained.first, "run")
    assert record["run_group"] == "pose_coco"
    assert record["job_type"] == "fit"
    assert set(record["tags"]) == {"PoseTask", "CocoPose", "w18_small_v1"}
    assert record["project"] == "hrnet"
    config = record["config"]["update"]
    assert config["model"]["init_args"]["optimizer"]["lr"] == 0.004
    assert config["data"]["init_args"]["image_size"] == [128, 96]
    environment = config["environment"]
    assert environment["libraries"]["torch"] == torch.__version__.split("+")[0]
    assert environment["cpus"] >= 1
    assert set(environment["git"]) == {"revision", "changed"}


def test_best_values_and_their_epoch_are_in_the_summary(trained):
    summary = summary_of(trained.first)
    assert trained.summary["best"]["val/loss"] > 0
    for name, value in trained.summary["best"].items():
        assert summary[f"best/{name}"] == pytest.approx(value)
    assert summary["best/epoch"] == trained.summary["best_epoch"] == 0
    assert summary["parameters"] == trained.summary["parameters"]


def test_history_has_curves_pictures_and_tables(trained):
    found = rows(trained.first)
    steps = [row["trainer/global_step"] for row in found if "train/loss" in row]
    assert steps == [0, 1]
    assert sum("val/AP" in row for row in found) == 2  # after the epoch, and of the best checkpoint
    files = {str(path.relative_to(trained.folder / "wandb")) for path in trained.folder.glob("wandb/**/media/**/*")}
    assert sum("/images/val/pose" in name for name in files) >= 2
    assert any("/metadata/boxes2D/val/point_names" in name for name in files)
    shown = [key for row in found for key, value in row.items() if str(value).startswith("images/")]
    # One panel a kind, filled after the epoch and at the end with the same samples.
    assert sorted(shown) == ["val/point_names._type"] * 2 + [f"val/{POSES}._type"] * 2
    first, second = [row["val/point_names.captions"] for row in found if "val/point_names.captions" in row]
    assert first == second
    assert len(set(first)) == 4
    assert any("/table/val/keypoints" in name for name in files)
    axis = {record.get("glob_name", record.get("name")): record for record in of_kind(trained.first, "metric")}
    assert axis["*"]["step_metric"] == "trainer/global_step"


def test_a_table_has_the_samples_as_rows_and_the_epochs_as_columns(trained):
    name, captions = "val/point_names by epoch", []
    for found, epoch in ((trained.first, 0), (trained.second, 1)):
        assert any(f"{name}.path" in row for row in rows(found))
        contents = [
            artifact["manifest"]["contents"] for artifact in of_kind(found, "artifact") if "manifest" in artifact
        ]
        stored = [{entry["path"]: entry["local_path"] for entry in entries} for entries in contents]
        (files,) = (each for each in stored if f"{name}.table.json" in each)
        table = json.loads(Path(files[f"{name}.table.json"]).read_text())
        assert table["columns"] == ["sample", f"epoch {epoch}"]
        assert len(table["data"]) == 4
        for caption, image in table["data"]:
            assert "instance" in caption
            assert image["_type"] == "image-file"
            assert Path(files[image["path"]]).is_file()
            assert set(image["boxes"]) == {"truth", "prediction"}
        captions.append([row[0] for row in table["data"]])
    assert captions[0] == captions[1]


def test_checkpoints_are_versions_of_an_artifact(trained):
    models = [a for a in of_kind(trained.first, "artifact") if a["name"] == f"model-{trained.name}"]
    assert ["best" in model["aliases"] for model in models] == [True, False]
    assert "latest" in models[-1]["aliases"]
    assert json.loads(models[0]["metadata"])["val/loss"] == pytest.approx(trained.summary["best"]["val/loss"])


def test_resumed_run_goes_on_with_the_same_run_although_the_folder_was_renamed(trained):
    (before,), (after,) = of_kind(trained.first, "run"), of_kind(trained.second, "run")
    for key in ("run_id", "project", "run_group", "display_name"):
        assert after[key] == before[key]
    assert after["run_id"] == trained.name != trained.folder.name
    checkpoint = torch.load(trained.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["wandb_run"]["id"] == trained.name
    assert json.loads((trained.folder / "environment.json").read_text())["wandb_run"] == trained.name


def test_resumed_run_goes_on_along_the_step_axis(trained):
    both = rows(trained.first) + rows(trained.second)
    numbers = [row["_step"] for row in both]
    assert numbers == sorted(set(numbers))
    steps = [row["trainer/global_step"] for row in both]
    assert steps == sorted(steps)
    assert [row["trainer/global_step"] for row in both if "train/loss" in row] == [0, 1, 2, 3]


def test_validation_of_a_run_is_a_run_of_its_own_type(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = ["validate", *QUICK, "--checkpoint", str(trained.folder), "--runs", str(tmp_path)]
    folder = Path(main(arguments).default_root_dir)
    ((found,),) = [of_kind(part, "run") for part in records(folder)]
    assert found["job_type"] == "validate"
    assert found["run_id"] == folder.name != trained.name


class Refuse(http.server.BaseHTTPRequestHandler):
    """A server that knows nobody."""

    def do_POST(self) -> None:
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b'{"errors": [{"message": "invalid key"}]}')

    do_GET = do_POST

    def log_message(self, *_) -> None:
        """Quiet."""


@pytest.fixture
def online(monkeypatch, tmp_path):
    """A key, and the address of a server in its place; both forgotten afterwards."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))

    def at(port: int) -> None:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        wandb.teardown()

    yield at
    wandb.finish()
    wandb.teardown()


def test_a_server_that_refuses_the_key_or_does_not_answer_means_offline(online, tmp_path, capsys):
    server = http.server.HTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    online(server.server_port)
    for name in ("refused", "away"):
        folder = tmp_path / name
        folder.mkdir()
        logger = make_wandb_logger(folder, "pose", "fit", [], {"wandb": {"mode": "online"}})
        logger.log_metrics({"loss": 1.0}, step=0)
        wandb.finish()
        assert list((folder / "wandb").glob("offline-run-*"))
        out = capsys.readouterr().out
        assert "W&B is offline (" in out
        assert "no API key" not in out
        assert ("(no answer from 127.0.0.1)" in out) == (name == "away")
        assert f"wandb sync {folder / 'wandb'}/offline-run-*" in out
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (None, "no API key"),
        ("machine elsewhere.example", "no API key"),
        ("machine 127.0.0.1", "no answer from 127.0.0.1"),
    ],
)
def test_a_key_may_stand_in_the_netrc_file_beside_its_server(line, why, online, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    online(port)  # nobody answers there any more
    if line is not None:
        (tmp_path / "none").write_text(f"{line} login user password {KEY}\n")
    assert why_offline() == why


def test_the_rate_is_one_key_beside_the_loss_of_its_step(trained):
    found = [row for row in rows(trained.first) + rows(trained.second) if "train/loss" in row]
    assert len(found) == 4
    assert all(0 <= row["lr"] <= 0.004 for row in found)
    assert len({row["lr"] for row in found}) >= 3  # it follows the schedule
    assert not any(key.startswith("lr") and key != "lr" for row in found for key in row)
    lines = [line.split(",") for line in (trained.folder / "metrics.csv").read_text().splitlines()]
    assert lines[0].count("lr") == 1
    assert "lr" not in trained.summary["last"]


@pytest.mark.parametrize(
    ("environment", "stated", "mode"),
    [
        ({"WANDB_DISABLED": "true"}, None, "disabled"),
        ({"WANDB_DISABLED": "1", "WANDB_MODE": "online"}, "online", "disabled"),
        ({"WANDB_DISABLED": "false"}, None, "online"),
        ({"WANDB_DISABLED": ""}, "offline", "offline"),
        ({"WANDB_MODE": "offline"}, None, "offline"),
        ({"WANDB_MODE": "offline"}, "disabled", "disabled"),
        ({"WANDB_MODE": "dryrun"}, None, "offline"),
        ({"WANDB_MODE": "disabled"}, None, "disabled"),
        ({}, None, "online"),
    ],
)
def test_the_environment_says_whether_wandb_is_used(environment, stated, mode, monkeypatch):
    for name in ("WANDB_DISABLED", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wanted_mode(stated) == mode


def test_a_mode_that_wandb_does_not_have_is_refused(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offlin")
    with pytest.raises(ConfigError, match="WANDB_MODE is 'offlin'"):
        wanted_mode(None)


def test_wandb_that_is_disabled_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DISABLED", "true")
    monkeypatch.setattr(wandb, "init", lambda **_: pytest.fail("W&B was started"))
    assert make_wandb_logger(tmp_path, "pose", "fit", [], {"wandb": {"project": "x"}}) is None
    assert not list(tmp_path.iterdir())


SETTINGS = {
    "project": "bees",
    "name": "first",
    "group": "hives",
    "tags": ["a", "b"],
    "notes": "of May",
    "entity": "team",
}


def recorded_init(folder: Path, monkeypatch, section: dict[str, Any] | None) -> dict[str, Any]:
    """What reaches `wandb.init` for a section `wandb` of the configuration."""
    told: dict[str, Any] = {}
    real = wandb.init

    def init(**options: Any) -> Any:
        told.update(options)
        return real(**{**options, "entity": None})

    monkeypatch.setattr(wandb, "init", init)
    make_wandb_logger(folder, "pose_coco", "fit", ["PoseTask"], {"wandb": section, "model": {"x": 1}})
    wandb.finish()
    return told


def test_every_key_of_the_section_reaches_wandb(tmp_path, monkeypatch):
    assert {*SETTINGS, "mode", "log_model"} == set(WandbSpec.__annotations__)
    told = recorded_init(tmp_path, monkeypatch, {**SETTINGS, "mode": "offline", "log_model": True})
    assert {key: told[key] for key in SETTINGS} == SETTINGS
    assert told["settings"].mode == "offline"
    assert told["job_type"] == "fit"
    assert told["config"]["model"] == {"x": 1}
    assert "log_model" not in told


@pytest.mark.parametrize("key", SETTINGS)
def test_a_key_that_is_not_given_has_its_default(key, tmp_path, monkeypatch):
    told = recorded_init(tmp_path, monkeypatch, {k: v for k, v in SETTINGS.items() if k != key} | {"mode": "offline"})
    defaults = {"project": "hrnet", "group": "pose_coco", "tags": ["PoseTask"], "name": tmp_path.name}
    assert told.get(key) == defaults.get(key)


def test_disabled_means_no_logger(tmp_path):
    assert make_wandb_logger(tmp_path, "pose", "fit", [], {"wandb": {"mode": "disabled"}}) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("task", wandb_report.KINDS)
def test_report_has_curves_configuration_bars_and_pictures(task):
    pytest.importorskip("wandb_workspaces")
    kind = wandb_report.KINDS[task]
    model = wandb_report.build("hrnet", "team", kind)._to_model()
    blocks = json.loads(model.spec.model_dump_json(by_alias=True))["blocks"]
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    panels = {panel["viewType"]: panel["config"] for g in grids for panel in g["panelBankSectionConfig"]["panels"]}
    assert set(panels) == {
        "Run History Line Plot",
        "Bar Chart",
        "Parallel Coordinates Plot",
        "Parameter Importance",
        "Vega2",
        "Media Browser",
    }
    assert grids[0]["runSets"][0]["grouping"] == [{"section": "run", "name": "group"}]
    assert panels["Run History Line Plot"]["xAxis"] == "trainer/global_step"
    columns = [column["accessor"] for column in panels["Parallel Coordinates Plot"]["columns"]]
    assert "config:model.value.init_args.optimizer.lr" in columns
    assert f"summary:best/{kind.metrics[0]}" in columns
    assert kind.table in json.dumps(panels["Vega2"])
    assert panels["Media Browser"]["mediaKeys"] == list(kind.pictures)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "experiment"),
    [
        ("pose", "pose_coco"),
        ("segmentation", "seg_folder"),
        ("classification", "cls_folder"),
        ("landmarks", "landmarks_wflw"),
    ],
)
def test_names_in_the_report_are_those_of_the_runs(task, experiment, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    kind = wandb_report.KINDS[task]
    trainer = main([f"{experiment}.yaml", *QUICK[1:], "--runs", str(tmp_path), "--wandb.mode", "disabled"])
    folder = Path(trainer.default_root_dir)
    assert type(trainer.lightning_module).__name__ == kind.tag
    assert set(kind.metrics) <= set((folder / "metrics.csv").read_text().splitlines()[0].split(","))
    table = (folder / "predictions" / f"{kind.table.replace('/', '_')}.csv").read_text()
    assert {"name", kind.value} <= set(table.splitlines()[0].split(","))
    pictures = [path.name for path in (folder / "pictures").iterdir()]
    for name in kind.pictures:
        assert any(picture.startswith(name.split(" ")[0].replace("/", "_")) for picture in pictures)


def test_report_without_a_key_is_one_message(monkeypatch, tmp_path, capsys):
    pytest.importorskip("wandb_workspaces")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr(sys, "argv", ["wandb_report", "hrnet"])
    assert run.command(wandb_report.main) == 2
    assert "no API key" in capsys.readouterr().err


@pytest.mark.slow
def test_an_offline_run_asks_for_no_name(tmp_path):
    notes = tmp_path / "notes"
    paths = os.pathsep.join(map(str, (OFFLINE, ROOT)))
    environment = os.environ | {"HRNET_TEST_NETWORK": str(notes), "PYTHONPATH": paths}
    words = [
        sys.executable,
        "-m",
        "experiments.run",
        *QUICK,
        "--wandb.mode",
        "offline",
        "--runs",
        str(tmp_path / "runs"),
    ]
    done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "runs").glob("*/*/wandb/offline-run-*"))
    assert not notes.exists(), notes.read_text()
