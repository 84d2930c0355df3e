"""HRNet against published parameter counts and against itself: sizes, checkpointing, compilation, export."""

import copy
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hrnet import VARIANTS, HRNet
from hrnet.backbone import ExchangeUnit

PARTS = ("stem", "layer1", "transition1", "stage2", "transition2", "stage3", "transition3", "stage4")
# Parameters of each part, counted on the official modules; the last column is stage 4 with one output (pose).
PARAMETERS = {
    "w18": (38_848, 286_208, 124_524, 124_092, 23_472, 2_162_880, 93_600, 6_708_636, 6_464_268),
    "w30": (38_848, 286_208, 207_540, 343_620, 65_040, 5_996_640, 259_680, 18_614_700, 17_937_780),
    "w32": (38_848, 286_208, 221_376, 390_848, 73_984, 6_821_632, 295_424, 21_177_216, 20_407_232),
    "w40": (38_848, 286_208, 276_720, 610_160, 115_520, 10_653_120, 461_440, 33_079_200, 31_877_040),
    "w44": (38_848, 286_208, 304_392, 738_056, 139_744, 12_887_776, 558_272, 40_021_344, 38_567_144),
    "w48": (38_848, 286_208, 332_064, 878_112, 166_272, 15_335_040, 664_320, 47_624_256, 45_894_048),
    "w64": (38_848, 286_208, 442_752, 1_559_936, 295_424, 27_250_176, 1_180_672, 84_643_584, 81_569_664),
    "w18_small_v1": (38_848, 24_192, 55_392, 51_680, 18_560, 233_056, 73_984, 982_208, 788_960),
    "w18_small_v2": (38_848, 145_408, 124_524, 65_340, 23_472, 884_304, 93_600, 2_485_224, 2_240_856),
}
TRUNKS = {
    "w18_small_v1": 1_477_920,
    "w18_small_v2": 3_860_720,
    "w18": 9_562_260,
    "w30": 25_812_276,
    "w32": 29_305_536,
    "w40": 45_521_216,
    "w44": 54_974_640,
    "w48": 65_325_120,
    "w64": 115_697_600,
}


def on_meta(variant: str, **options: bool) -> HRNet:
    with torch.device("meta"):
        return HRNet(variant, **options)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small(**options: object) -> HRNet:
    torch.manual_seed(0)
    return HRNet("w18_small_v1", **options)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def with_statistics(network: HRNet) -> HRNet:
    """Batch norms as after training (all different), in eval mode."""
    generator = torch.Generator().manual_seed(2)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(norm.bias, 0.0, 0.2, generator=generator)
            norm.momentum = 1.0
    with torch.no_grad():
        network.train()(images(2, network.in_channels, 64, 64))
    return network.eval()


def relative_difference(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def test_every_variant_has_a_published_count() -> None:
    assert set(PARAMETERS) == set(TRUNKS) == set(VARIANTS)


@pytest.mark.parametrize("variant", PARAMETERS)
def test_parameters_of_every_part_are_as_published(variant: str) -> None:
    network = on_meta(variant)
    counts = [count(getattr(network, part)) for part in PARTS[1:]]
    stem = count(network) - sum(counts)
    one_output = count(on_meta(variant, multi_scale_output=False).stage4)
    assert (stem, *counts, one_output) == PARAMETERS[variant]
    assert count(network) == TRUNKS[variant]


@pytest.mark.parametrize(
    ("variant", "keys"), [("w18", 1830), ("w64", 1830), ("w18_small_v1", 426), ("w18_small_v2", 864)]
)
def test_state_dict_has_as_many_keys_as_the_published_trunk(variant: str, keys: int) -> None:
    assert len(on_meta(variant).state_dict()) == keys


def test_one_output_drops_the_exchanges_nothing_reads() -> None:
    whole, one = (set(on_meta("w32", multi_scale_output=m).state_dict()) for m in (True, False))
    assert len(one) == 1752
    assert one < whole
    assert {key.rsplit(".fuse_layers.", 1)[0] for key in whole - one} == {"stage4.2"}
    assert {key.split(".fuse_layers.")[1][0] for key in whole - one} == {"1", "2", "3"}


@pytest.mark.parametrize("variant", ["w18_small_v1", "w18_small_v2", "w18"])
def test_streams_halve_in_size_and_double_in_channels(variant: str) -> None:
    network = HRNet(variant).eval()
    width = VARIANTS[variant].width
    with torch.no_grad():
        streams = network(images(1, 3, 64, 96))
    assert network.channels == [width, 2 * width, 4 * width, 8 * width]
    assert network.strides == [4, 8, 16, 32]
    for x, channels, stride in zip(streams, network.channels, network.strides, strict=True):
        assert x.shape == (1, channels, 64 // stride, 96 // stride)


def test_one_output_equals_the_finest_stream_of_the_whole_network() -> None:
    whole, one = with_statistics(small()), small(multi_scale_output=False).eval()
    one.load_state_dict(whole.state_dict(), strict=False)
    with torch.no_grad():
        (stream,) = one(images(2, 3, 64, 96))
        expected = whole(images(2, 3, 64, 96))[0]
    assert one.channels == [16]
    assert one.strides == [4]
    torch.testing.assert_close(stream, expected, rtol=0, atol=0)


def test_bilinear_takes_odd_sizes_and_rounds_up() -> None:
    network = small(upsample="bilinear").eval()
    with torch.no_grad():
        shapes = [tuple(x.shape[-2:]) for x in network(images(1, 3, 97, 129))]
    assert shapes == [(25, 33), (13, 17), (7, 9), (4, 5)]


@pytest.mark.parametrize(("upsample", "align_corners"), [("nearest", False), ("bilinear", False), ("bilinear", True)])
def test_exchange_is_the_sum_of_all_streams_at_each_size(upsample: str, align_corners: bool) -> None:
    torch.manual_seed(0)
    unit = ExchangeUnit([4, 8, 16, 32], 1, 4, upsample, align_corners).eval()
    streams = [images(2, 4 * 2**i, 32 // 2**i, 48 // 2**i) for i in range(4)]
    given = [x.clone() for x in streams]
    with torch.no_grad():
        outputs = unit(streams)
        inner = [branch(x) for branch, x in zip(unit.branches, given, strict=True)]
        for target, output in enumerate(outputs):
            total = inner[target].clone()
            for source, x in enumerate(inner):
                if source != target:
                    moved = unit.fuse_layers[target][source](x)
                    corners = align_corners if upsample == "bilinear" else None
                    if source > target:
                        moved = F.interpolate(moved, size=total.shape[-2:], mode=upsample, align_corners=corners)
                    total += moved
            torch.testing.assert_close(output, F.relu(total), rtol=1e-5, atol=1e-5)
    for x, before in zip(streams, given, strict=True):
        assert torch.equal(x, before), "the unit wrote into its input"


def test_nearest_names_the_next_valid_size() -> None:
    with pytest.raises(ValueError, match=r"97x129.*128x160.*bilinear"):
        small()(images(1, 3, 97, 129))


@pytest.mark.parametrize("shape", [(1, 4, 64, 64), (3, 64, 64)])
def test_a_wrong_number_of_channels_or_axes_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got \(.*64, 64\).*in_channels"):
        small()(images(*shape))


def test_unknown_arguments_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'w33'.*" + ", ".join(VARIANTS)):
        HRNet("w33")
    with pytest.raises(ValueError, match=r'"nearest" or "bilinear".*cubic'):
        HRNet("w32", upsample="cubic")


@pytest.mark.parametrize("in_channels", [1, 4])
def test_other_numbers_of_image_channels(in_channels: int) -> None:
    assert small(in_channels=in_channels).eval()(images(1, in_channels, 64, 64))[0].shape == (1, 16, 16, 16)


def test_batch_of_one_trains() -> None:
    streams = small()(images(1, 3, 64, 64))
    sum(x.mean() for x in streams).backward()
    assert all(x.isfinite().all() for x in streams)


def test_samples_of_a_batch_do_not_mix_in_eval_mode() -> None:
    network, batch = with_statistics(small()), images(3, 3, 64, 64)
    with torch.no_grad():
        together = network(batch)[0]
        for i in range(3):
            assert relative_difference(network(batch[i : i + 1])[0][0], together[i]) < 1e-4


def test_deepcopy_is_equal_and_independent() -> None:
    network = with_statistics(small())
    other = copy.deepcopy(network)
    with torch.no_grad():
        before = network(images(1, 3, 64, 64))[0]
        for p in other.parameters():
            p.zero_()
        assert torch.equal(network(images(1, 3, 64, 64))[0], before)
        assert not torch.equal(other(images(1, 3, 64, 64))[0], before)


def test_channels_last_in_gives_channels_last_out_and_the_same_values() -> None:
    network = with_statistics(small())
    with torch.no_grad():
        expected = network(images(2, 3, 64, 96))
        network = network.to(memory_format=torch.channels_last)
        streams = network(images(2, 3, 64, 96).contiguous(memory_format=torch.channels_last))
    for x, y in zip(streams, expected, strict=True):
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert relative_difference(x, y) < 1e-4


@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
def test_compiles_without_graph_breaks(upsample: str) -> None:
    network = with_statistics(small(upsample=upsample))
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images(2, 3, 64, 64)), network(images(2, 3, 64, 64)))


@pytest.mark.parametrize(
    ("upsample", "size", "other"), [("nearest", (64, 96), (64, 96)), ("bilinear", (97, 129), (75, 110))]
)
def test_exports_with_a_free_batch_and_with_bilinear_a_free_size(
    upsample: str, size: tuple[int, int], other: tuple[int, int]
) -> None:
    network = with_statistics(small(upsample=upsample))
    free = {0: torch.export.Dim("batch", max=64)}
    if upsample == "bilinear":
        free |= {2: torch.export.Dim("height", min=64, max=512), 3: torch.export.Dim("width", min=64, max=512)}
    program = torch.export.export(network, (images(2, 3, *size),), dynamic_shapes={"images": free})
    with torch.no_grad():
        for x, y in zip(program.module()(images(3, 3, *other)), network(images(3, 3, *other)), strict=True):
            assert relative_difference(x, y) < 1e-4


@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen stem"])
def test_checkpointing_changes_neither_gradients_nor_running_statistics(frozen: bool) -> None:
    plain, saving = small(), small(gradient_checkpointing=True)
    for network in (plain, saving):
        network.conv1.requires_grad_(not frozen)
    assert_same_step(plain, saving, saving)


@pytest.mark.slow
def test_checkpointing_changes_nothing_when_compiled_either() -> None:
    saving = small(gradient_checkpointing=True)
    assert_same_step(small(), saving, torch.compile(saving, backend="aot_eager", fullgraph=True))


def assert_same_step(plain: HRNet, saving: HRNet, run: Callable[[Tensor], list[Tensor]]) -> None:
    """One forward and backward of `plain`, and of `saving` through `run`: same loss, gradients and buffers."""
    saving.train().load_state_dict(plain.train().state_dict())
    losses = [sum((x**2).mean() for x in network(images(2, 3, 64, 64))) for network in (plain, run)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=0)
    for (name, p), q in zip(plain.named_parameters(), saving.parameters(), strict=True):
        if p.requires_grad:
            assert relative_difference(q.grad, p.grad) < 1e-6, name
    for (name, p), q in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert not name.endswith("num_batches_tracked") or q == 1
        torch.testing.assert_close(q, p, rtol=1e-6, atol=1e-6)


def test_checkpointing_spares_the_statistics_of_synchronised_batch_norms_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # Their forward needs several processes; what it would do to the running averages is told by the momentum.
    momenta = []

    def forward(norm: nn.SyncBatchNorm, x: Tensor) -> Tensor:
        momenta.append(norm.momentum)
        return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True)

    monkeypatch.setattr(nn.SyncBatchNorm, "forward", forward)
    network = nn.SyncBatchNorm.convert_sync_batchnorm(small(gradient_checkpointing=True))
    streams = network.train()(images(2, 3, 64, 64))
    assert set(momenta) == {0.1}
    momenta.clear()
    sum(x.mean() for x in streams).backward()
    assert set(momenta) == {0.0}
    assert {m.momentum for m in network.modules() if isinstance(m, nn.SyncBatchNorm)} == {0.1}


class LiveMemory(TorchDispatchMode):
    """Bytes of all tensors made inside the context that are alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        given = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        outputs = func(*args, **(kwargs or {}))
        for x in tree_leaves(outputs):
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in given:
                self._count(x.untyped_storage())
        return outputs

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage.data_ptr() not in self.alive:
            self.alive[storage.data_ptr()] = storage.nbytes()
            weakref.finalize(storage, self.alive.pop, storage.data_ptr())
            self.peak = max(self.peak, sum(self.alive.values()))


def activation_peak(network: HRNet, batch: Tensor) -> int:
    """Bytes at the worst moment of forward and backward, without the parameters and their gradients."""
    for p in network.parameters():
        p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    with LiveMemory() as memory:
        sum(x.mean() for x in network.train()(batch)).backward()
    return memory.peak


def test_live_memory_counts_what_is_alive() -> None:
    x = torch.zeros(1000)
    with LiveMemory() as memory:
        y = x + 1
        z = y.view(10, 100)
        del y
        z = z * 2
        z += 1
    assert memory.peak == 8000
    assert list(memory.alive.values()) == [4000]


def test_checkpointing_saves_two_fifths_of_the_activations_of_w48() -> None:
    plain, saving = (
        activation_peak(HRNet("w48", gradient_checkpointing=g), images(2, 3, 128, 96)) for g in (False, True)
    )
    assert saving < 0.6 * plain, f"peak {saving / 2**20:.0f} MiB against {plain / 2**20:.0f} MiB"


# Interpolation in every exchange unit


@pytest.mark.parametrize(
    ("upsample", "align_corners", "size"),
    [("nearest", False, (64, 96)), ("bilinear", False, (71, 97)), ("bilinear", True, (71, 97))],
)
@torch.inference_mode()
def test_every_exchange_unit_upsamples_as_asked(upsample: str, align_corners: bool, size: tuple[int, int]) -> None:
    network = small(upsample=upsample, align_corners=align_corners).eval()
    units = [module for module in network.modules() if isinstance(module, ExchangeUnit)]
    passed = []

    def keep(unit: ExchangeUnit, inputs: tuple[list[Tensor]], outputs: list[Tensor]) -> None:
        passed.append((unit, [x.clone() for x in inputs[0]], [x.clone() for x in outputs]))

    for unit in units:
        unit.register_forward_hook(keep)
    options = {"mode": upsample} | ({"align_corners": align_corners} if upsample == "bilinear" else {})
    network(images(1, 3, *size))
    assert [unit for unit, *_ in passed] == units
    for unit, inputs, outputs in passed:
        streams = [branch(x) for branch, x in zip(unit.branches, inputs, strict=True)]
        for target, found in enumerate(outputs):
            arrived = [path(x.clone()) for path, x in zip(unit.fuse_layers[target], streams, strict=True)]
            total = sum(F.interpolate(x, size=streams[target].shape[-2:], **options) for x in arrived)
            torch.testing.assert_close(found, total.relu(), rtol=1e-4, atol=1e-5)
