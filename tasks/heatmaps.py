"""Codecs between key points and heatmaps: the classic MSRA coding, DARK, UDP and that of HRNet's facial landmarks.

HRNet regresses one heatmap a key point at stride 4 (Sun et al., CVPR 2019, section 3; Wang et al., TPAMI 2020, section
4). A task calls `encode` for the training targets, `flip_back` on the maps of the mirrored image, and `decode` last.
All are batched, on the batch's device.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Codec(ABC):
    """What the codecs share: a Gaussian of `sigma` heatmap pixels around each key point, read back at its maximum.

    A subclass says where heatmap pixels lie in the image (`pixel`), how far the Gaussian is drawn (`reach`), and how
    the maximum is refined to a fraction of a pixel (`offset`).

    Args:
        stride: input pixels a heatmap pixel (4 for every published HRNet).
        sigma: standard deviation of the target in heatmap pixels; published: 2 for 256x192 inputs, 3 for 384x288.

    Raises:
        ValueError: if stride is below 1 or sigma is not positive.
    """

    stride: int = 4
    sigma: float = 2.0

    flip_shift: ClassVar[int]
    """Heatmap pixels by which `flip_back` moves the mirrored maps to the right."""
    # A product of two factors drawn to 9 sigma stays above the smallest normal float32; denormals are slow on CPUs.
    reach: ClassVar[float] = 9.0
    """Standard deviations from the centre beyond which the target is exactly zero (9: below 3e-18)."""

    def __post_init__(self) -> None:
        if self.stride < 1 or not self.sigma > 0:
            raise ValueError(
                f"{type(self).__name__} got stride={self.stride}, sigma={self.sigma}; "
                "expected a stride of at least 1 and a positive sigma in heatmap pixels."
            )

    def pixel(self, length: int) -> float:
        """Input pixels between two heatmap pixels along an axis of `length` heatmap pixels."""
        return float(self.stride)

    def centre(self, positions: Tensor) -> Tensor:
        """Where the Gaussian of a key point at these heatmap coordinates is centred."""
        return positions

    @abstractmethod
    def offset(self, heatmaps: Tensor, x: Tensor, y: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Sub-pixel corrections (dx, dy), each (B, K) in heatmap pixels, of the maxima at integers (x, y)."""

    @torch.no_grad()
    def encode(self, keypoints: Tensor, visible: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Heatmap targets with peak 1.

        Args:
            keypoints: (B, K, 2) points (x, y) in input pixels; may lie outside the image, anything where not visible.
            visible: (B, K); above zero means labelled (1 and 2 alike, as in the official code).
            size: (H, W) of the network's input in pixels; the maps are (h, w) = (ceil(H / stride), ceil(W / stride)).

        Returns:
            heatmaps (B, K, h, w) float32 in [0, 1] and weights (B, K) float32: 1 if the key point is labelled and its
            3-sigma window touches a pixel of the map, else 0, and the map is empty then.
        """
        weights = visible > 0
        factors = []
        for axis, extent in ((1, size[0]), (0, size[1])):
            length = math.ceil(extent / self.stride)
            centres = self.centre(keypoints[..., axis].float() / self.pixel(length))
            weights = weights & (centres >= -3 * self.sigma) & (centres <= length - 1 + 3 * self.sigma)
            distances = torch.arange(length, device=keypoints.device) - centres[..., None]
            gaussian = torch.exp(distances.square() / (-2 * self.sigma**2))
            factors.append(gaussian.where(distances.abs() <= self.reach * self.sigma, 0.0))
        rows, columns = (factor.where(weights[..., None], 0.0) for factor in factors)
        return rows[..., :, None] * columns[..., None, :], weights.float()

    @torch.no_grad()
    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Key points at the maxima of the maps, refined below a pixel.

        Args:
            heatmaps: (B, K, h, w) of any floating type and memory format; computed in float32.

        Returns:
            keypoints (B, K, 2), points (x, y) in input pixels, always finite, and scores (B, K) float32, the maxima.
            A map whose maximum is not positive (or is NaN) gives the point (0, 0), as in the official code.
        """
        heatmaps = heatmaps.float().contiguous()
        height, width = heatmaps.shape[-2:]
        x, y, scores = _maxima(heatmaps)
        dx, dy = (offset.nan_to_num(0.0, 0.0, 0.0) for offset in self.offset(heatmaps, x, y, scores))
        keypoints = torch.stack([(x + dx) * self.pixel(width), (y + dy) * self.pixel(height)], dim=-1)
        return keypoints.where(scores[..., None] > 0, 0.0), scores

    def flip_back(self, heatmaps: Tensor, permutation: Tensor) -> Tensor:
        """Maps of the mirrored image, brought back to the image's own frame.

        Args:
            heatmaps: (B, K, h, w) predicted on the mirrored image.
            permutation: (K,) int64 on the same device; entry k is the left/right partner of key point k, or k itself.

        Returns:
            (B, K, h, w): mirrored, left and right exchanged, then moved right by `flip_shift` (column 0 repeats).
        """
        mirrored = heatmaps[:, permutation].flip(-1)
        if not self.flip_shift:
            return mirrored
        first = mirrored[..., :1].expand(*mirrored.shape[:-1], self.flip_shift)
        return torch.cat([first, mirrored[..., : -self.flip_shift]], dim=-1)


@dataclass(frozen=True)
class MSRACodec(Codec):
    """The coding of the published HRNet and SimpleBaseline models (Xiao et al., ECCV 2018).

    The target is centred on the nearest heatmap pixel and cut off at 3 sigma; decoding moves the maximum by a quarter
    of a pixel towards the higher neighbour, unless it lies within a pixel of the border. Input pixel = stride x heatmap
    pixel, so mirrored maps sit 0.75 heatmap pixels to the left and are moved by one at the flip test.

    A point whose window ends just outside the map, left of or above it, weighs nothing; the published code trains its
    empty map with full weight.
    """

    flip_shift: ClassVar[int] = 1
    reach: ClassVar[float] = 3.0

    def centre(self, positions: Tensor) -> Tensor:
        """The nearest pixel; truncated towards zero left of and above the map, where the published targets do so."""
        return (positions + 0.5).trunc()

    def offset(self, heatmaps: Tensor, x: Tensor, y: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """A quarter of a pixel towards the higher neighbour."""
        height, width = heatmaps.shape[-2:]
        inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
        return _quarter_offset(heatmaps, x, y, inside)


@dataclass(frozen=True)
class FaceCodec(Codec):
    """The coding of the published facial landmark models (the official HRNet-Facial-Landmark-Detection).

    A heatmap pixel stands for all the input pixels that it covers, not for the one at its corner as in `MSRACodec`: the
    target is centred on the pixel that the point falls into, and decoding gives the middle of the maximum's pixel,
    moved by a quarter of a pixel towards the higher neighbour unless it lies on the border. Read as `MSRACodec` does, a
    published model is off by 2 input pixels. A mirrored image has the mirrored maps, so the flip test needs no shift.

    The published window has one row and column more above and left at sigma 1.5 (values of 0.004), and moves targets
    within 4 pixels of the left or upper border by one pixel; here it is the same on all sides, and everywhere.

    Args:
        stride: input pixels a heatmap pixel.
        sigma: standard deviation of the target in heatmap pixels; published: 1.5 (WFLW, COFW, AFLW) and 1.0 (300W).
    """

    sigma: float = 1.5

    flip_shift: ClassVar[int] = 0
    reach: ClassVar[float] = 3.0

    def centre(self, positions: Tensor) -> Tensor:
        """The pixel that the point falls into; truncated towards zero, as the published targets are."""
        return positions.trunc()

    def offset(self, heatmaps: Tensor, x: Tensor, y: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """To the middle of the pixel, and a quarter of a pixel towards the higher neighbour."""
        height, width = heatmaps.shape[-2:]
        inside = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
        dx, dy = _quarter_offset(heatmaps, x, y, inside)
        return dx + 0.5, dy + 0.5


@dataclass(frozen=True)
class DarkCodec(Codec):
    """Distribution-aware coding (Zhang et al., CVPR 2020) on the classic stride-4 grid.

    The target is centred on the exact position. Decoding blurs the map, takes its logarithm and makes one Newton step
    from the maximum (second differences at +-2 pixels), unless it lies within two pixels of the border. Targets without
    noise come back within 0.05 input pixels from 2.5 sigma off the border on; nearer, within a heatmap pixel (sigma 2).
    At the border itself the map is not blurred, and points up to 3 sigma outside are found again.
    """

    flip_shift: ClassVar[int] = 1

    def offset(self, heatmaps: Tensor, x: Tensor, y: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """One Newton step; none near the border."""
        inside = _inside(heatmaps, x, y)
        log = self._rescaled_window(heatmaps, x, y, scores, inside).clamp(min=1e-10).log()
        dx = 0.5 * (log[..., 2, 3] - log[..., 2, 1])
        dy = 0.5 * (log[..., 3, 2] - log[..., 1, 2])
        dxx = 0.25 * (log[..., 2, 4] - 2 * log[..., 2, 2] + log[..., 2, 0])
        dyy = 0.25 * (log[..., 4, 2] - 2 * log[..., 2, 2] + log[..., 0, 2])
        dxy = 0.25 * (log[..., 3, 3] - log[..., 1, 3] - log[..., 3, 1] + log[..., 1, 1])
        step_x, step_y = _newton_step(dx, dy, dxx, dxy, dyy)
        edge_x, edge_y = _edge_offset(heatmaps, x, y, scores, 3 * self.sigma)
        return step_x.where(inside, edge_x), step_y.where(inside, edge_y)

    def _rescaled_window(self, heatmaps: Tensor, x: Tensor, y: Tensor, scores: Tensor, inside: Tensor) -> Tensor:
        """(B, K, 5, 5) of the blurred maps around the maxima, rescaled to the old maxima where that matters.

        The logarithm turns the rescaling into a constant, which no difference sees unless the clamp at 1e-10 acts on
        some pixel (the factor is at least 1). Only those maps, of key points that are hardly seen, are blurred whole.
        """
        window = _blurred_window(heatmaps, x, y, 2, self.sigma)
        faint = inside & (scores > 0) & (window.amin((-2, -1)) < 1e-10)
        height, width = heatmaps.shape[-2:]
        rows, columns = (_blur_matrix(length, self.sigma, heatmaps.device) for length in (height, width))
        factors = scores[faint] / _product(rows, heatmaps[faint], columns).amax((-2, -1))
        window[faint] = window[faint] * factors[:, None, None]
        return window


@dataclass(frozen=True)
class UDPCodec(Codec):
    """Unbiased data processing (Huang et al., CVPR 2020), the variant with Gaussian heatmaps.

    The first and last pixel of image and map coincide: input pixel = (W - 1) / (w - 1) x heatmap pixel. Mirroring the
    image mirrors the map exactly, so the flip test needs no shift. To be used with a crop made by the same convention.
    Decoding makes one Newton step on the logarithm of the blurred map (second differences at +-1 pixel), at the border
    as well; accurate as DarkCodec, save that points on the very border come back up to 4.1 input pixels off (sigma 2).
    """

    flip_shift: ClassVar[int] = 0

    def pixel(self, length: int) -> float:
        """Input pixels from one map pixel to the next, the first and last of both coinciding."""
        return (self.stride * length - 1) / max(length - 1, 1)

    def offset(self, heatmaps: Tensor, x: Tensor, y: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """One Newton step, at the border too."""
        log = _blurred_window(heatmaps, x, y, 1, self.sigma).clamp(1e-3, 50.0).log()
        here, left, right = log[..., 1, 1], log[..., 1, 0], log[..., 1, 2]
        above, below = log[..., 0, 1], log[..., 2, 1]
        dxy = 0.5 * (log[..., 2, 2] - right - below + 2 * here - left - above + log[..., 0, 0])
        epsilon = torch.finfo(log.dtype).eps
        dxx, dyy = right - 2 * here + left + epsilon, below - 2 * here + above + epsilon
        step_x, step_y = _newton_step(0.5 * (right - left), 0.5 * (below - above), dxx, dxy, dyy)
        inside = _inside(heatmaps, x, y)
        edge_x, edge_y = _edge_offset(heatmaps, x, y, scores, 3 * self.sigma)
        return step_x.where(inside, edge_x), step_y.where(inside, edge_y)


def _quarter_offset(heatmaps: Tensor, x: Tensor, y: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """A quarter of a pixel towards the higher neighbour along each axis, zero where not `inside` (B, K)."""
    right, left = (_values(heatmaps, x + step, y) for step in (1, -1))
    below, above = (_values(heatmaps, x, y + step) for step in (1, -1))
    quarter = 0.25 * inside
    return quarter * torch.sign(right - left), quarter * torch.sign(below - above)


def _newton_step(dx: Tensor, dy: Tensor, dxx: Tensor, dxy: Tensor, dyy: Tensor) -> tuple[Tensor, Tensor]:
    """Minus the inverse Hessian times the gradient; not finite where the Hessian is singular (`decode` makes it 0)."""
    determinant = dxx * dyy - dxy.square()
    return (dxy * dy - dyy * dx) / determinant, (dxy * dx - dxx * dy) / determinant


def _inside(heatmaps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(B, K) whether two pixels of the map lie on every side of (x, y)."""
    height, width = heatmaps.shape[-2:]
    return (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)


def _edge_offset(heatmaps: Tensor, x: Tensor, y: Tensor, scores: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Offsets of maxima at the border, whose Gaussian may be centred outside the map, at most `limit` pixels.

    Blurring would mix in the zeros outside. The logarithm of a Gaussian is a parabola, and three pixels in a row of the
    map itself say where its top is; no correction where they do not bend downwards or one of them is next to nothing.
    """
    height, width = heatmaps.shape[-2:]
    offsets = []
    for axis, length, position in ((0, width, x), (1, height, y)):
        middle = position.clamp(1, length - 2)
        places = [(middle + step, y) if axis == 0 else (x, middle + step) for step in (-1, 0, 1)]
        values = torch.stack([_values(heatmaps, *place) for place in places], dim=-1)
        usable = (values > 1e-3 * scores[..., None]).all(-1)
        before, here, after = values.clamp(min=1e-10).log().unbind(-1)
        bend = before - 2 * here + after
        top = middle - 0.5 * (after - before) / bend
        offsets.append((top - position).clamp(-limit, limit).where(usable & (bend < 0), 0.0))
    return offsets[0], offsets[1]


def _maxima(heatmaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Position (x, y), int64, and value of the maximum of each map, (B, K) each; the first in reading order on ties."""
    batch, points, height, width = heatmaps.shape
    # On CPUs torch is 10 times slower at finding where a maximum is than what it is: find the band of rows by value,
    # then the place within that band alone.
    rows = math.gcd(height, 4)
    bands = heatmaps.reshape(batch * points, height // rows, rows * width)
    scores, band = bands.amax(-1).max(-1)
    index = bands[torch.arange(bands.shape[0], device=heatmaps.device), band].max(-1).indices + band * bands.shape[-1]
    x, y, scores = (values.view(batch, points) for values in (index % width, index // width, scores))
    return x, y, scores


def _values(heatmaps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(B, K) values of each map at integers (x, y), moved to the nearest pixel of the map."""
    batch, points, height, width = heatmaps.shape
    sample = torch.arange(batch, device=heatmaps.device)[:, None]
    point = torch.arange(points, device=heatmaps.device)
    return heatmaps[sample, point, y.clamp(0, height - 1), x.clamp(0, width - 1)]


def _blurred_window(heatmaps: Tensor, x: Tensor, y: Tensor, radius: int, sigma: float) -> Tensor:
    """The Gaussian-blurred maps (zero outside) at the (2 radius + 1)^2 pixels around (x, y); edge pixels repeat.

    Equal to blurring the whole maps for a tenth of the arithmetic: the blur is separable, one matrix for the rows and
    one for the columns, of which only the wanted lines are multiplied.
    """
    steps = torch.arange(-radius, radius + 1, device=heatmaps.device)
    height, width = heatmaps.shape[-2:]
    rows, columns = (
        _blur_matrix(length, sigma, heatmaps.device)[(position[..., None] + steps).clamp(0, length - 1)]
        for position, length in ((y, height), (x, width))
    )
    return _product(rows, heatmaps, columns)


def _product(rows: Tensor, heatmaps: Tensor, columns: Tensor) -> Tensor:
    """rows (..., r, h) @ heatmaps (..., h, w) @ columns (..., c, w) transposed, in float32 under autocast as well."""
    with torch.autocast(heatmaps.device.type, enabled=False):
        return rows @ heatmaps @ columns.mT


def _blur_matrix(length: int, sigma: float, device: torch.device) -> Tensor:
    """(length, length) banded matrix that blurs an axis with a kernel as wide as the target's Gaussian.

    DARK's kernels have 11 taps for sigma 2 and 17 for sigma 3, with the deviation 0.3 (radius - 1) + 0.8 that OpenCV
    gives them (2.0 and 2.9). Other sigmas: the radius whose deviation is nearest to sigma, at least 1.
    """
    radius = max(1, round((sigma - 0.5) / 0.3))
    deviation = 0.3 * (radius - 1) + 0.8
    positions = torch.arange(length, device=device)
    distances = positions[:, None] - positions
    total = sum(math.exp(-(step**2) / (2 * deviation**2)) for step in range(-radius, radius + 1))
    kernel = torch.exp(distances.square() / (-2 * deviation**2)) / total
    return kernel.where(distances.abs() <= radius, 0.0)
