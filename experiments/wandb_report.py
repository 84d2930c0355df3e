"""A saved report in W&B that compares the runs of a project, grouped by experiment; made once, it stays up to date.

python -m experiments.wandb_report hrnet                          # pose, of your default entity
python -m experiments.wandb_report hrnet --task segmentation --entity my-team

Curves, parallel coordinates of the configuration, importance, bars by key point or class, and pictures of the samples.
"""

import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import wandb

from experiments import cli
from experiments.config import ConfigError
from experiments.training.loggers import why_offline

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr

CONFIGURATION = (
    "model.init_args.backbone.init_args.variant",
    "model.init_args.optimizer.lr",
    "data.init_args.batch_size",
    "trainer.max_epochs",
)


@dataclass(frozen=True)
class Kind:
    """What is shown of a task: its tag, metrics (the first one leads), table and column for bars, and pictures."""

    tag: str
    metrics: tuple[str, ...]
    table: str
    value: str
    pictures: tuple[str, ...]


KINDS = {
    "pose": Kind(
        "PoseTask",
        ("val/AP", "val/AP50", "val/AP75", "val/loss", "train/loss"),
        "val/keypoints",
        "pck",
        ("val/pose (truth, prediction, target, heatmaps)", "val/point_names"),
    ),
    "segmentation": Kind(
        "SegmentationTask",
        ("val/mIoU", "val/pixel_accuracy", "val/mean_accuracy", "val/loss", "train/loss"),
        "val/classes",
        "IoU",
        ("val/segmentation (truth, prediction, errors)", "val/confusion"),
    ),
    "classification": Kind(
        "ClassificationTask",
        ("val/top1", "val/top5", "val/loss", "train/loss"),
        "val/classes",
        "accuracy",
        ("val/classes (truth, five best)", "val/confusion"),
    ),
    "detection": Kind(
        "DetectionTask",
        ("val/AP", "val/AP50", "val/AP75", "val/loss", "train/loss"),
        "val/classes",
        "AP",
        ("val/detection (truth, prediction)",),
    ),
    "landmarks": Kind(
        "LandmarkTask",
        ("val/NME", "val/FR@0.10", "val/AUC@0.10", "val/loss", "train/loss"),
        "val/landmarks",
        "normalised_error",
        ("val/pose (truth, prediction, target, heatmaps)", "val/point_names"),
    ),
}


def build(project: str, entity: str, kind: Kind) -> "wr.Report":
    """The report, not yet saved; needs no network.

    Raises:
        ConfigError: If wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
    except ModuleNotFoundError:
        raise ConfigError(
            "A report needs wandb-workspaces: pip install wandb-workspaces, or this project with its extra [report]."
        ) from None
    what = "key point" if kind.table == "val/keypoints" else "class"
    best = wr.SummaryMetric(f"best/{kind.metrics[0]}")
    curves = [wr.LinePlot(title=name, x="trainer/global_step", y=[name]) for name in kind.metrics]
    columns = [
        wr.ParallelCoordinatesPlotColumn(wr.Config(key), display_name=key.rsplit(".", 1)[-1]) for key in CONFIGURATION
    ]
    columns.append(wr.ParallelCoordinatesPlotColumn(best, display_name=f"best {kind.metrics[0]}"))
    bars = wr.CustomChart(
        query={"summaryTable": {"tableKey": kind.table}},
        chart_name="wandb/bar/v0",
        chart_fields={"label": "name", "value": kind.value},
        chart_strings={"title": f"{kind.value} by {what}"},
    )

    def panels(title: str, panels: list, group: bool = False) -> list:
        runs = wr.Runset(name=kind.tag, filters=f"Tags('{kind.tag}') = True", groupby=["group"] if group else [])
        return [wr.H2(title), wr.PanelGrid(runsets=[runs], panels=panels)]

    return wr.Report(
        project=project,
        entity=entity,
        title=f"{kind.tag}: comparison of runs",
        description="Grouped by experiment; `best` is the evaluation of the best checkpoint.",
        width="fluid",
        blocks=[
            *panels("Curves by experiment", curves, group=True),
            *panels("Best value of each run", [wr.BarPlot(metrics=[best], title=f"best {kind.metrics[0]}")]),
            *panels(
                "Configuration",
                [
                    wr.ParallelCoordinatesPlot(columns=columns),
                    wr.ParameterImportancePlot(with_respect_to=f"best/{kind.metrics[0]}"),
                ],
            ),
            *panels(f"By {what}", [bars]),
            *panels("Samples", [wr.MediaBrowser(media_keys=list(kind.pictures), num_columns=2)]),
        ],
    )


def save(
    project: str,
    *,
    entity: str | None = None,
    task: Literal["pose", "segmentation", "classification", "detection"] = "pose",
) -> str:
    """Make and save the report; its address.

    Args:
        project: W&B project of the runs; the runner's is hrnet.
        entity: User or team; else your default one.
        task: What the runs have learned.

    Raises:
        ConfigError: Without a key, a network or wandb-workspaces, or if W&B refuses.
    """
    report = build(project, entity or "", KINDS[task])  # what is missing here is told first
    if why := why_offline():
        raise ConfigError(
            f"A report is kept by W&B's server, and there is {why}: run `wandb login` where there is one."
        )
    try:
        report.entity = entity or wandb.Api().default_entity
        report.save()
    except (wandb.Error, ValueError) as error:
        raise ConfigError(f"W&B did not accept the report on {project}: {error}") from error
    print(f"report: {report.url}")
    return report.url


main = partial(cli.call, save)
command = partial(cli.run, save)

if __name__ == "__main__":
    sys.exit(command())
