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

from hrnet import VARIANTS, HRNet, Variant
from hrnet.backbone import ExchangeUnit
from tests.hrnet.published import PUBLISHED

PARTS = ("stem", "layer1", "transition1", "stage2", "transition2", "stage3", "transition3", "stage4")


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


def parts_of(variant: str) -> tuple[int, ...]:
    """Parameters of the parts of the network, as `Figures.parts` has them."""
    network = on_meta(variant)
    counts = [count(getattr(network, part)) for part in PARTS[1:]]
    one_output = count(on_meta(variant, multi_scale_output=False).stage4)
    return count(network) - sum(counts), *counts, one_output


def by_formula(row: Variant) -> tuple[int, ...]:
    """The same from the paper's description: convolutions without bias, each with a scale and a shift a channel."""

    def conv(inputs: int, outputs: int, kernel: int) -> int:
        return inputs * outputs * kernel**2 + 2 * outputs

    def bottleneck(inputs: int) -> int:
        width, outputs = row.stage1_width, 4 * row.stage1_width
        shortcut = conv(inputs, outputs, 1) if inputs != outputs else 0
        return conv(inputs, width, 1) + conv(width, width, 3) + conv(width, outputs, 1) + shortcut

    def stage(streams: int, units: int, outputs: int) -> int:
        unit = sum(2 * row.blocks * conv(c, c, 3) for c in channels[:streams])
        ways = [sum(way(source, target) for source in range(streams)) for target in range(streams)]
        return units * (unit + sum(ways)) - sum(ways[outputs:])

    def way(source: int, target: int) -> int:
        if source >= target:
            return conv(channels[source], channels[target], 1) if source > target else 0
        halvings = (target - source - 1) * conv(channels[source], channels[source], 3)
        return halvings + conv(channels[source], channels[target], 3)

    channels = [row.width * 2**i for i in range(4)]
    wide = 4 * row.stage1_width
    same = conv(wide, channels[0], 3) if wide != channels[0] else 0
    return (
        conv(3, 64, 3) + conv(64, 64, 3),
        bottleneck(64) + (row.stage1_blocks - 1) * bottleneck(wide),
        same + conv(wide, channels[1], 3),
        stage(2, row.units[0], 2),
        conv(channels[1], channels[2], 3),
        stage(3, row.units[1], 3),
        conv(channels[2], channels[3], 3),
        stage(4, row.units[2], 4),
        stage(4, row.units[2], 1),
    )


def test_all_published_variants_are_here() -> None:
    assert VARIANTS.keys() >= PUBLISHED.keys()
    assert len(PUBLISHED) == 9


@pytest.mark.parametrize("variant", PUBLISHED)
def test_parameters_of_every_part_are_as_published(variant: str) -> None:
    assert parts_of(variant) == PUBLISHED[variant].parts
    assert count(on_meta(variant)) == PUBLISHED[variant].trunk


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_of_every_part_follow_from_the_row(variant: str) -> None:
    assert parts_of(variant) == by_formula(VARIANTS[variant])


@pytest.mark.parametrize(
    ("variant", "keys"), [("w18", 1830), ("w64", 1830), ("w18_small_v1", 426), ("w18_small_v2", 864)]
)
def test_state_dict_has_as_many_keys_as_the_published_trunk(variant: str, keys: int) -> None:
    assert len(on_meta(variant).state_dict()) == keys


def test_convolutions_begin_with_the_spread_that_keeps_gradients_at_their_size() -> None:
    """He et al. 2015: variance 2 / (outputs x kernel area), also where inputs and outputs differ in number."""
    torch.manual_seed(0)
    for name, module in HRNet("w18_small_v1").named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            expected = (2 / (module.out_channels * module.kernel_size[0] * module.kernel_size[1])) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05), name


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
