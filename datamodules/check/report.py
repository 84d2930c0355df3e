"""What the data doctor writes down: findings by kind with what to do about each, counts, and the tables of both.

`doctor.py` makes one `Report` of the facts that a DataModule yields; the command shows it.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from datamodules.findings import Count, Fact, Finding, Note
from datamodules.images.looking import Seen
from datamodules.loading.text_files import visible

ADVICE = {
    "unreadable data": "Correct the file or folder, or the key that names it; the rest of this split was left out.",
    "malformed entry": "Correct these entries of the JSON file: they do not have COCO's form.",
    "malformed row": "Correct these rows of the list: columns, numbers and file names as the message expects them.",
    "repeated id": "Give every image and annotation an id of its own.",
    "repeated name": "Give each category a name of its own, or make one of those that mean the same.",
    "repeated file name": "List every image once, and move its annotations to that entry.",
    "unknown image": "Add the image to `images`, or remove these entries.",
    "unknown category": "Add the category to `categories`, or correct category_id.",
    "categories disagree": "Use the same categories, key points and order everywhere, and a `skeleton` that has them.",
    "class absent from a split": "Split the data anew, so that every class is both learned and scored.",
    "class without samples": "Remove the class, or correct the ids, colours or folders that stand for it.",
    "box without area": "Draw the boxes again or remove them; they are x, y, width, height in pixels, not in shares.",
    "box outside of the image": "Correct the boxes; they are x, y, width, height in pixels of the stored image.",
    "boxes beside their images": "Write x, y, width, height in pixels; two corners, or another size, come out so.",
    "area absent or not positive": "Write the object's area in square pixels: scores (OKS, AP by size) need it.",
    "wrong number of key points": "Give x, y, visibility of every key point of the skeleton, or set `skeleton`.",
    "key point outside of the image": "Correct the point, or set x, y and visibility to 0.",
    "key points beside their boxes": "Give x, y in pixels of the image, as boxes have them, not in shares of it.",
    "visibility not 0, 1 or 2": "Write 0 for not labelled, 1 for labelled but hidden, 2 for visible.",
    "num_keypoints disagrees": "Write the number of key points whose visibility is not 0.",
    "no usable sample": "Give at least one annotation a box with area, and of poses key points too.",
    "wrong segmentation": "Write polygons of 3 or more points, or a run-length code of the image's size.",
    "missing image": "Fetch the file, correct its name (case counts), or remove its entry.",
    "file name spelled otherwise": "Write the names as the files have them; here they are found, elsewhere not.",
    "missing mask": "Put the mask there, or remove the image.",
    "mask without image": "Put the image there, or remove the mask.",
    "ambiguous name": "Two files differ in their ending alone: rename or remove one.",
    "unreadable image": "Fetch or export the file again, or remove it.",
    "image of another size": "Correct height and width, or the image: boxes and points would be misplaced.",
    "image of many bands": "Export grey or RGB; the readers do not choose among bands.",
    "image of an unknown range": "State `reading: {value_range: [lowest, highest]}` of the data, or export 8 bits.",
    "image almost black": "Look at it: 8-bit values this low are often ids, or deeper values cut off.",
    "orientation not decided": "EXIF says to turn it, annotations fit both ways: set `reading: {upright: true}` if "
    "they were made on the turned picture, else `false`.",
    "orientations disagree": "Its annotation is of the stored pixels, that of others of the turned picture.",
    "unreadable mask": "Fetch or export the file again, or remove it and its image.",
    "mask of another size": "Export image and mask at one size; do not interpolate class ids.",
    "unknown label": "Correct the mask or the class names; FolderSegmentation has `id_map`, `ignore_label`, `palette`.",
    "unknown class folder": "Rename or remove the folder, or add the class to train.",
    "file outside of the class folders": "Move the image into the folder of its class.",
    "one image, two classes": "Keep the file in one of the folders.",
    "image in two splits": "Keep each image in one split: scores on images that were learned say nothing.",
    "refused by the loader": "Do what the message says; training would stop with it.",
}
"""Every kind of finding, and what to do."""


@dataclass
class Report:
    """Findings and counts of a data set, in the order in which they were come upon."""

    findings: list[Finding] = field(default_factory=list)
    looked_at: dict[str, Counter] = field(default_factory=dict)
    """Split -> how many images, annotations, ... were looked at."""
    statistics: dict[str, dict[str, Counter]] = field(default_factory=dict)
    """Table -> split -> name -> count."""
    notes: list[str] = field(default_factory=list)
    """What is no defect, but good to know: files that were left out, images that are turned."""
    part: str = ""
    """Task of a joint run whose data are being looked at."""
    root: str = ""
    """Folder of these data, which files are named relative to."""

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def record(self, fact: Fact) -> None:
        """Write down what a DataModule says of itself."""
        match fact:
            case Finding(kind, split, item, found):
                self.findings.append(Finding(kind, self._named(split), self._below(item), self._below(found)))
            case Note(split, text):
                self.notes.append(f"{self._named(split)}: {text}")
            case Seen(split, problem=(kind, found)):
                self.record(Finding(kind, split, fact.item, found))
            case Count(split, None, counts):
                self._add(self.looked_at, self._named(split), counts)
            case Count(split, table, counts):
                table = f"{self.part}: {table}" if self.part else table
                self._add(self.statistics.setdefault(table, {}), split, counts)

    @staticmethod
    def _add(columns: dict[str, Counter], split: str, counts: Counter) -> None:
        columns.setdefault(split, Counter()).update(counts)

    def _named(self, split: str) -> str:
        """The split with the task it belongs to."""
        return f"{self.part} {split}".strip()

    def _below(self, text: str) -> str:
        """A text with files named relative to the folder of the data."""
        return text.replace(f"{self.root}/", "") if self.root else text

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: clean, looked_at, findings, advice of the kinds found, statistics."""
        kinds = dict.fromkeys(finding.kind for finding in self.findings)
        return {
            "clean": self.clean,
            "looked_at": {split: dict(counts) for split, counts in self.looked_at.items()},
            "notes": self.notes,
            "findings": [vars(finding) for finding in self.findings],
            "advice": {kind: ADVICE[kind] for kind in kinds if kind in ADVICE},
            "statistics": {
                table: {split: dict(counts) for split, counts in splits.items()}
                for table, splits in self.statistics.items()
            },
        }


def show_findings(report: Report, console: Console, first: int | None = 5) -> None:
    """Print one line on what was looked at, then the findings by kind: count, the first few (None: all), what to do."""
    seen = "; ".join(
        f"{split} " + ", ".join(f"{n} {what}" for what, n in counts.items())
        for split, counts in report.looked_at.items()
    )
    console.print(Text(visible(f"looked at: {seen or 'nothing'}")), soft_wrap=True)
    for note in report.notes:
        console.print(Text(visible(note)), soft_wrap=True)
    if report.clean:
        console.print(Text("clean: nothing to put right", style="bold green"))
        return
    kinds = dict.fromkeys(finding.kind for finding in report.findings)
    for kind in sorted(kinds, key=[*ADVICE, *kinds].index):
        findings = [finding for finding in report.findings if finding.kind == kind]
        console.print(Text(visible(f"\n{kind}: {len(findings)}"), style="bold red"))
        if kind in ADVICE:
            console.print(Text(f"  {ADVICE[kind]}", style="italic"), soft_wrap=True)
        for finding in findings[:first]:
            console.print(Text(visible(f"  {finding.split}  {finding.item}: {finding.found}")), soft_wrap=True)
        if first is not None and len(findings) > first:
            console.print(f"  ... and {len(findings) - first} more (--all)")
    defects = f"{len(report.findings)} defect{'s' * (len(report.findings) != 1)}"
    console.print(Text(f"\n{defects} of {len(kinds)} kind{'s' * (len(kinds) != 1)}", style="bold red"))


def show_statistics(report: Report, console: Console) -> None:
    """Print the tables of counts: a row a class or size, a column a split, with shares."""
    for title, splits in report.statistics.items():
        table = Table(title=Text(visible(title)), title_justify="left")
        table.add_column("")
        for split in splits:
            table.add_column(Text(visible(split)), justify="right")
            table.add_column("share", justify="right")
        totals = {split: sum(counts.values()) for split, counts in splits.items()}
        for name in dict.fromkeys(name for counts in splits.values() for name in counts):
            cells = []
            for split, counts in splits.items():
                cells += [f"{counts[name]:,}", f"{100 * counts[name] / max(1, totals[split]):.1f} %"]
            if any(counts[name] for counts in splits.values()):
                table.add_row(Text(visible(name)), *cells)
        console.print(table)
