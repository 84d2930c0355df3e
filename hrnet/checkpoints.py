"""Where weights come from: a file of any kind, a run folder, or timm's download, read into names -> tensors.

Nothing in a file is ever executed. Use: `state = read_checkpoint("pose_hrnet_w32_256x192.pth")`, then
`layouts.translate` for the names.
"""

import logging
import mmap
import re
import socket
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from torch import Tensor

logger = logging.getLogger("hrnet")
State = dict[str, Tensor]

FILE_SUFFIXES = {".pth", ".pt", ".tar", ".ckpt", ".safetensors", ".bin"}
TIMM_NAME = re.compile(r"hrnet_\w+(\.\w+)?")
WRAPPERS = ("state_dict_ema", "state_dict", "model_state_dict", "best_state_dict", "model")
COMPILED = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Files keep scores as NumPy scalars, facts about data sets as arrays: plain data, named otherwise under NumPy 1 and 2.
_SCALAR, _ARRAY = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
NUMPY_DATA: list[Any] = [
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "uint8", "bool")),
]
BYTES_OF_ANY_SIZE = re.compile(rb"c(__builtin__|builtins)\nbytearray\n")
"""Plain data too, but a number in the file then says how many gigabytes of zeros are made."""
MOST_LEVELS = 100
IN_A_RUN = ("checkpoints/best.ckpt", "checkpoints/last.ckpt")


def read_checkpoint(source: str | Path) -> State:
    """Tensors of a checkpoint by their names in it, without the dicts around them.

    Args:
        source: Path of a .pth, .pt, .pth.tar, .ckpt, .bin or .safetensors file, a run folder (its best checkpoint, else
            its last), or a timm name such as `hrnet_w32.ms_in1k`.

    Raises:
        ValueError: If the source does not exist, is damaged, holds more than plain data, or cannot be downloaded.
    """
    return tensors_in(read_content(source), source)


def read_content(source: str | Path) -> Any:
    """All that a checkpoint holds; for the argument and the errors see `read_checkpoint`."""
    path = Path(source).expanduser()
    if is_timm_name(source):
        return _download(str(source))
    file = path if path.is_file() else checkpoint_of_run(path)
    if file is None:
        what = f"a folder without {' or '.join(IN_A_RUN)}" if path.is_dir() else "not there"
        raise ValueError(
            f"The checkpoint {path} is {what} (current folder: {Path.cwd()}); give a .pth, .pt, .pth.tar, .ckpt, .bin "
            "or .safetensors file, a run folder, or a timm name such as hrnet_w32.ms_in1k."
        )
    return read_file(file)


def is_timm_name(source: str | Path) -> bool:
    """Whether timm, and no file or folder here, is asked for weights."""
    path = Path(source).expanduser()
    named = TIMM_NAME.fullmatch(str(source)) and path.suffix not in FILE_SUFFIXES
    return bool(named) and not path.is_file() and checkpoint_of_run(path) is None


def checkpoint_of_run(folder: Path) -> Path | None:
    """Best checkpoint of a run folder, else the last, else None."""
    return next((folder / name for name in IN_A_RUN if (folder / name).is_file()), None)


def read_file(path: Path) -> Any:
    """Content of a checkpoint file, plain data only, without circles.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If the file is damaged, does not fit into memory, or holds more than plain data.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (PermissionError, FileNotFoundError):
            raise
        except Exception as error:  # a damaged file is read as anything
            raise ValueError(
                f"{path} is not a readable safetensors file ({_cut(error)}); download or save it again."
            ) from error
    try:
        culprit = "bytearray" if BYTES_OF_ANY_SIZE.search(_pickle_of(path)) else None
        if culprit is None:
            with torch.serialization.safe_globals(NUMPY_DATA):
                content = torch.load(path, map_location="cpu", weights_only=True)
            _refuse_circles(content, ())
            return content
    except (PermissionError, FileNotFoundError):
        raise
    except MemoryError as error:
        raise ValueError(f"{path} does not fit into memory, or is damaged; download or save it again.") from error
    except Exception as error:  # likewise
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise ValueError(f"{path} is damaged or not a PyTorch checkpoint; download or save it again.") from error
        culprit = found[1]
    raise ValueError(
        f"{path} holds Python objects ({culprit}) beside tensors, as a whole pickled module does, and opening "
        "such a file runs code from it, so it was not opened. If you trust it, convert it once where its code can "
        "be imported: content = torch.load(path, weights_only=False), then torch.save(network.state_dict(), "
        "new_path) for the network in it."
    )


def _pickle_of(path: Path) -> bytes | mmap.mmap:
    """The part of a file that says what is built of it; all of a file that is no archive."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise ValueError("it is packed, which PyTorch never does, and may unpack to any size")
        return b"".join(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))


def _refuse_circles(value: Any, holders: tuple[int, ...]) -> None:
    if not isinstance(value, dict | list | tuple):
        return
    if id(value) in holders or len(holders) > MOST_LEVELS:
        raise ValueError("it refers to itself, or is nested too deeply")
    for inner in value.values() if isinstance(value, dict) else value:
        _refuse_circles(inner, (*holders, id(value)))


def _cut(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def tensors_in(content: Any, source: str | Path) -> State:
    """The dict of tensors inside however many wrapping dicts; `source` is what errors call the checkpoint."""
    while isinstance(content, dict):
        inner = next((content[k] for k in WRAPPERS if isinstance(content.get(k), dict)), None)
        if inner is None:
            return {COMPILED.sub("", str(k)): x for k, x in content.items() if isinstance(x, Tensor)}
        content = inner
    raise ValueError(
        f"{source} holds a {type(content).__name__}, expected a state dict (names -> tensors), maybe wrapped."
    )


def refuse_unusable(found: State, own: State, name: str, computed_with: Collection[str] | None = None) -> None:
    """Raise ValueError for tensors that no network computes with: without values, packed, complex, NaN or infinite.

    Args:
        found: Of the checkpoint.
        own: Those of the module to fill. Values are looked at where the shape is the same: a few bytes may stand for a
            tensor of any size.
        name: What the message calls the checkpoint.
        computed_with: Names of parameters and statistics, by default all; other buffers may hold infinity for a reason.
    """
    for n, x in found.items():
        kind = _kind(x, own.get(n))
        if kind is not None:
            raise ValueError(
                f"{name} holds {n} as a {kind}: give the checkpoint with plain floating-point weights that it was "
                "made from."
            )
    finite = found.keys() if computed_with is None else computed_with
    fitting = {n: x for n, x in found.items() if n in own and n in finite and x.shape == own[n].shape}
    broken = [n for n, x in fitting.items() if x.is_floating_point() and not torch.isfinite(x.float()).all()]
    if broken:
        shown = ", ".join(broken[:3]) + ", ..." * (len(broken) > 3)
        raise ValueError(
            f"{name} holds NaN or infinity in {len(broken)} of {len(found)} tensors ({shown}): its training had "
            "diverged, or the file is damaged; give an earlier checkpoint, or download it again."
        )


def with_plain_scales(found: State, name: str, family: str) -> State:
    """With batch norm's scales as plain batch norm needs them, where InPlaceABN trained them (`load_weights`)."""
    if family not in ("segmentation", "ocr"):
        return found
    scales = {n: x for n, x in found.items() if n.endswith(".weight") and f"{n[:-6]}running_var" in found}
    file = Path(name).name.lower()
    if "torch04" in file:
        logger.info("%s was trained with InPlaceABN: batch norm's scales become |scale| + 1e-5.", name)
        return found | {n: x.abs() + 1e-5 for n, x in scales.items()}
    share = sum((x < 0).sum().item() for x in scales.values()) / max(1, sum(x.numel() for x in scales.values()))
    if share > 0.01 and "torch11" not in file:
        logger.warning(
            "%.0f %% of the batch-norm scales in %s are negative: if it was trained with InPlaceABN (PyTorch 0.4.1 "
            "branch), its scores are wrong until you add torch04 to its file name, which converts them.",
            100 * share,
            name,
        )
    return found


def _kind(x: Tensor, own: Tensor | None) -> str | None:
    """What a tensor is if none like `own`, weights by default, can be copied out of it."""
    if x.is_meta:
        return "tensor without values (on the meta device)"
    if x.is_quantized or (x.dtype in (torch.int8, torch.uint8) and (own is None or own.dtype != x.dtype)):
        return f"quantised tensor ({str(x.dtype).removeprefix('torch.')})"
    if x.layout is not torch.strided:
        return f"sparse tensor ({str(x.layout).removeprefix('torch.')})"
    return f"complex tensor ({str(x.dtype).removeprefix('torch.')})" if x.is_complex() else None


def _download(name: str) -> State:
    """State dict of a timm model, downloaded or from the cache of Hugging Face."""
    if name not in timm.list_models("hrnet*") + timm.list_pretrained("hrnet*"):
        known = ", ".join(timm.list_pretrained("hrnet*"))
        raise ValueError(f"There is neither a file nor a timm model {name!r}; timm has {known}.")
    # Without network the hub's client would retry for most of a minute before it says so.
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _hub_reachable()
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"timm could not download {name!r} from {constants.ENDPOINT} and has no copy in its cache; connect to the "
            "network, or fetch the checkpoint elsewhere and give the path of the file instead of the name, or null for "
            "a network that begins without it (--model.backbone.weights null)."
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before


def _hub_reachable() -> bool:
    if getproxies().keys() & {"https", "all"}:
        return True  # a proxy resolves names and connects for us, so trying ourselves would prove nothing
    host = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((host.hostname, host.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


def _data_set(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """What OpenMMLab's tools store of the data set, older ones in capitals."""
    found = meta.get("dataset_meta", meta)
    return {str(key).lower(): value for key, value in found.items()} if isinstance(found, Mapping) else {}


def classes_in(meta: Mapping[str, Any], count: int) -> dict[str, Any] | None:
    """Names and colours of so many classes in what OpenMMLab's tools store as `meta`, if they are there."""
    data = _data_set(meta)
    names, palette = _plain(data.get("classes")), _plain(data.get("palette"))
    if not isinstance(names, list) or len(names) != count:
        return None
    fits = isinstance(palette, list) and len(palette) == count
    return {"class_names": [str(name) for name in names], "palette": palette if fits else None}


def skeleton_in(meta: Mapping[str, Any], count: int) -> dict[str, Any] | None:
    """mmpose's description of the key points as a skeleton, if it has all parts of one."""
    data = {key: _plain(value) for key, value in _data_set(meta).items()}
    names, mirrored, sigmas = data.get("keypoint_id2name"), data.get("flip_indices"), data.get("sigmas")
    if not (isinstance(names, Mapping) and isinstance(mirrored, list) and isinstance(sigmas, list)):
        return None
    if not len(names) == len(mirrored) == len(sigmas) == count:
        return None
    return {
        "names": [str(names[index]) for index in sorted(names)],
        "limbs": data.get("skeleton_links") or [],
        "flip_pairs": [[i, j] for i, j in enumerate(mirrored) if i < j],
        "sigmas": sigmas,
        "upper_body": data.get("upper_body_ids") or [],
    }


def _plain(value: Any) -> Any:
    """Arrays and tuples as lists."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
