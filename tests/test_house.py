"""How the house is built: no circle of imports, folders and files for one idea, every class by its public side.

The limits stand where the tree stands, and go down only: what is listed as known waits for its room's redesign.
"""

import ast
import json
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("hrnet", "tasks", "datamodules", "experiments")
ENTRIES = 14  # of a folder
LINES = 350  # of a file
CROWDED: dict[str, int] = {}
SINGLE_IMPORTERS = 18
# Commands that ask of which class a task or DataModule is, and how often.
LADDERS: dict[str, int] = {}
# Private members of other files that are read or written, by file.
PRIVATE = {
    "tasks/metrics/coco.py": {"_computed"},
    "tasks/optim.py": {"_average_model"},
}
# Imported once by nature: entry points, what commands and errors have for each task.
ENTRY_POINTS = {"experiments/run.py", "experiments/predictor.py"}
EACH_TASK = {
    f"experiments/{room}/{task}.py"
    for room in ("predict", "errors")
    for task in ("pose", "segmentation", "classification", "detection", "landmarks")
}
ITS_OWN = "hrnet/inference.py"  # the one place for private operators of torch, each with its plain fallback
NAMED_TUPLE = {"_replace", "_asdict", "_fields"}  # public in spite of their names


@cache
def trees() -> dict[str, ast.Module]:
    """Every file of the library, by its path, parsed."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return {str(file.relative_to(ROOT)): ast.parse(file.read_text()) for file in files}


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(tree: ast.Module, known: dict[str, str]) -> set[str]:
    """Files that a file imports, wherever in it; of `from package import name` the name's file, else the package's."""
    found: set[str | None] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {known.get(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {known.get(f"{node.module}.{a.name}", known.get(str(node.module))) for a in node.names}
    return {file for file in found if file is not None}


@cache
def imported() -> dict[str, set[str]]:
    known = {module_of(file): file for file in trees()}
    return {file: imports(tree, known) - {file} for file, tree in trees().items()}


@cache
def in_notebooks() -> dict[str, set[str]]:
    """Files that each notebook imports; a line that is IPython's own is left out."""
    known, found = {module_of(file): file for file in trees()}, {}
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(notebook.read_text())["cells"]
        lines = [line for cell in cells if cell["cell_type"] == "code" for line in "".join(cell["source"]).split("\n")]
        code = "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))
        found[notebook.name] = imports(ast.parse(code), known)
    return found


def circle(uses: dict[str, set[str]]) -> list[str]:
    """A chain of files that ends where it began, empty if there is none."""
    done: set[str] = set()

    def visit(file: str, path: list[str]) -> list[str]:
        if file in path:
            return [*path[path.index(file) :], file]
        if file in done:
            return []
        found = next((c for other in sorted(uses[file]) if (c := visit(other, [*path, file]))), [])
        done.add(file)
        return found

    return next((found for file in uses if (found := visit(file, []))), [])


def test_no_file_imports_what_imports_it() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]
    assert not circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    assert not circle({file: {f for f in files if Path(f).name != "__main__.py"} for file, files in imported().items()})


def test_a_folder_is_seen_at_a_glance() -> None:
    folders = [ROOT / package for package in PACKAGES]
    folders += [f for package in folders for f in package.rglob("*") if f.is_dir() and f.name != "__pycache__"]
    for folder in folders:
        entries = {f.name for f in folder.iterdir() if f.suffix != ".yaml"} - {"__init__.py", "__pycache__", "py.typed"}
        name = str(folder.relative_to(ROOT))
        assert len(entries) <= CROWDED.get(name, ENTRIES), f"{name} has {len(entries)} entries: {sorted(entries)}"


def test_few_files_serve_one_other_file_alone() -> None:
    """Classes that a package offers by name (tasks, data sets) apart; what a notebook imports serves its reader too."""
    importers = defaultdict(set)
    for file, others in {**imported(), **in_notebooks()}.items():
        for other in others:
            importers[other].add(file)
    offers = ("__init__.py", ".ipynb")
    offered = {file for file, users in importers.items() if all(user.endswith(offers) for user in users)}
    apart = offered | ENTRY_POINTS | EACH_TASK | {file for file in importers if Path(file).name == "__init__.py"}
    single = {file: min(users) for file, users in importers.items() if len(users) == 1 and file not in apart}
    listed = "\n".join(f"{file} <- {user}" for file, user in sorted(single.items()))
    assert len(single) <= SINGLE_IMPORTERS, f"{len(single)} files could be part of the one that imports them:\n{listed}"


def descendants(package: str, root: str) -> set[str]:
    """Names of the classes in a package that descend from `root`, itself included."""
    bases = {
        node.name: {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        for file, tree in trees().items()
        if file.startswith(f"{package}/")
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = {root}
    while more := {name for name, parents in bases.items() if parents & found} - found:
        found |= more
    return found


def questions(tree: ast.Module, classes: set[str]) -> Iterator[str]:
    """Where code asks whether something is of one of these classes."""
    for node in ast.walk(tree):
        named: list[ast.AST] = []
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            named = list(ast.walk(node.args[1]))
        elif isinstance(node, ast.MatchClass):
            named = [node.cls]
        if {ast.unparse(part).rpartition(".")[2] for part in named} & classes:
            yield f"line {getattr(node, 'lineno', '?')}: {ast.unparse(node)}"


def test_no_command_asks_of_which_class_a_task_or_its_data_are() -> None:
    classes = descendants("tasks", "Task") | descendants("datamodules", "BaseDataModule")
    assert {"PoseTask", "MultiTask", "CocoPose", "ImageNet"} <= classes
    source = "isinstance(x, (int, tasks.PoseTask)) or issubclass(y, CocoPose) or isinstance(z, dict)"
    assert len(list(questions(ast.parse(source), classes))) == 2
    for file, tree in trees().items():
        if file.startswith(("hrnet/", "experiments/")):
            found = list(questions(tree, classes))
            assert len(found) <= LADDERS.get(file, 0), f"{file}: {found}"


def foreign_members(tree: ast.Module) -> dict[str, int]:
    """Private names that a file reads, writes or imports and nowhere defines, with the line of one use."""
    used: dict[str, int] = {}
    own: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            used[node.attr] = node.lineno
            if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) in ("self", "cls"):
                own.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            used |= {alias.name: node.lineno for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
    private = {n: line for n, line in used.items() if n.startswith("_") and not n.startswith("__")}
    return {n: line for n, line in private.items() if n not in own | NAMED_TUPLE}


def test_private_members_are_used_in_their_own_file_alone() -> None:
    source = """
from torch.nn.modules.batchnorm import _BatchNorm
class A:
    _count = 0
    def __init__(self): self._mine = 1
    def read(self, other): return self._mine + self._count + other._theirs + self.__dict__
row._replace(x=1)
"""
    assert set(foreign_members(ast.parse(source))) == {"_BatchNorm", "_theirs"}
    for file, tree in trees().items():
        if file != ITS_OWN:
            found = {n: line for n, line in foreign_members(tree).items() if n not in PRIVATE.get(file, set())}
            assert not found, f"{file} uses {found} (name: line) of another file"


def test_a_file_is_read_in_one_go() -> None:
    for file in trees():
        lines = len((ROOT / file).read_text().splitlines())
        assert lines <= LINES, f"{file} has {lines} lines: what in it is an idea of its own?"
