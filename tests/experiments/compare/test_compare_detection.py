"""Detection runs in a comparison: their figures, which way these go, their classes, and images in pairs."""

import json
from pathlib import Path
from typing import Any

from experiments.compare.runs import read_run
from experiments.compare.tables import make_tables
from hrnet import HRNet
from tasks import DetectionTask
from tests.experiments.compare.test_compare import make_run, write_csv


def detection_run(folder: Path, ap: float) -> Path:
    """As a run of DetectionTask leaves it: with the directions that the task says, classes and images."""
    made = make_run(folder, ap=ap, task="DetectionTask", samples={i: ap - 0.01 * (i % 3) for i in range(30)})
    task = DetectionTask(HRNet("w18_small_v1"), 2, detector="fcos", channels=32)
    figures = {"val/AP": ap, "val/AP50": ap + 0.2, "val/APS": ap - 0.3, "val/loss": 1 - ap}
    summary: dict[str, Any] = json.loads((made / "summary.json").read_text())
    summary |= {"best": figures, "last": figures, "mode": task.mode, "modes": task.modes}
    (made / "summary.json").write_text(json.dumps(summary))
    rows = [
        {"name": n, "objects": 7, "detections": 9, "AP": ap + x, "AP50": ap + 0.2} for n, x in (("a", 0), ("b", 0.1))
    ]
    write_csv(made / "predictions" / "val_classes.csv", rows)
    (made / "predictions" / "val_keypoints.csv").unlink()
    return made


def test_detection_runs_are_compared_by_box_ap_class_by_class_and_image_by_image(tmp_path: Path) -> None:
    runs = [read_run(detection_run(tmp_path / "det" / name, ap)) for name, ap in (("a", 0.5), ("b", 0.6))]
    for run in runs:
        assert run.monitor == "val/AP"
        assert [run.mode(f"val/{name}") for name in ("AP", "AP50", "APS", "APL", "AR")] == ["max"] * 5
        assert run.notes == ()
    tables = make_tables(runs, ["val/AP", "val/AP"])
    text = {name: json.dumps(table.rows) for name, table in tables.items()}
    assert any("val/APS" in rows for rows in text.values())
    classes = {row["name"]: row for row in tables["val_classes AP"].rows}
    assert classes["b"]["1"] == 0.6
    assert "val_classes AP50" in tables
    assert "val_classes objects" not in tables
    assert tables["paired"].rows[0]["p"] < 0.001
    assert not any("keypoint" in name for name in tables)
