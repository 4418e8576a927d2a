"""The head: trainable 3x3 convolutions on frozen features (paper, section 3.4), and the context that it can read."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lianet_user.field.config import HeadConfig, PixelModelsConfig
from lianet_user.field.norms import NORMS


class HeadLayers(nn.Sequential):
    """3x3 convolutions to `widths` and then to `outputs`, with a norm and ReLU between them.

    With `norm="group"` it is the paper's; the others have no statistics over space, so that its answers do not
    depend on how an area is cut into windows. With `scale=4` the window is doubled twice on the way, bilinearly.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...], outputs: int, norm: str, scale: int = 1) -> None:
        layers: list[nn.Module] = []
        doublings = doubled_after(len(widths), scale)
        for number, width in enumerate(widths):
            layers += [
                *(nn.Upsample(scale_factor=2, mode="bilinear") for after in doublings if after == number),
                nn.Conv2d(in_channels, width, 3, padding=1),
                NORMS[norm](width),
                nn.ReLU(inplace=True),
            ]
            in_channels = width
        layers += [nn.Upsample(scale_factor=2, mode="bilinear") for after in doublings if after == len(widths)]
        super().__init__(*layers, nn.Conv2d(in_channels, outputs, 3, padding=1))


def doubled_after(hidden: int, scale: int) -> tuple[int, ...]:
    """After how many of its hidden convolutions a head doubles its window: two and four fifths of them.

    That is after the second and the fourth of the paper's five, and the fourth and the eighth of the deeper head's ten.
    """
    return () if scale == 1 else (round(0.4 * hidden), round(0.8 * hidden))


def head_halo(hidden: int, scale: int) -> int:
    """Pixels of the grid, on each side, that an answer depends on."""
    doublings = doubled_after(hidden, scale)
    reach, pixel = 0.0, 1.0
    for number in range(hidden + 1):
        for _ in range(doublings.count(number)):
            reach += pixel  # bilinear: the neighbour on either side
            pixel /= 2
        reach += pixel
    return math.ceil(reach)


class PixelModels(nn.Module):
    """Linear models and kernels on the channels of one pixel that answer together, and with their neighbours.

    Labelled ground comes in patches: a mean over the neighbours' answers is right more often than each of them.

    How they are solved, and why these, stands in :mod:`lianet_user.finetuning.pixel_models`.

    Attributes:
        landmarks: (landmarks, in_channels), the pixels that the kernels compare a pixel with.
        sets: the models on each set of channels.
        shares: (models,), of the models in the answer, set by set: first the linear ones, then the kernel.
        offset: (outputs,), added to the logarithms of the mean probabilities.
        low: the lowest number that a model answers; `high` the highest.
    """

    landmarks: Tensor
    shares: Tensor
    offset: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, config: PixelModelsConfig, in_channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.sets = nn.ModuleList(
            ChannelSet(channels, config.linear, config.landmarks, outputs) for channels in config.sets
        )
        self.register_buffer("landmarks", torch.zeros(config.landmarks, in_channels))
        models = len(config.sets) * (config.linear + 1)
        self.register_buffer("shares", torch.full((models,), 1 / models))
        self.register_buffer("offset", torch.zeros(outputs))
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, inputs: Tensor, logits: bool) -> Tensor:
        """Standardised inputs (B, C, h, w) to answers (B, outputs, h, w): logarithms of probabilities, or numbers."""
        batch, _, height, width = inputs.shape
        with torch.autocast(inputs.device.type, enabled=False):
            pixels = inputs.float().movedim(1, -1).flatten(0, -2)
            answers = torch.cat([self._answered(part, logits) for part in pixels.split(AT_ONCE)])
            answers = answers.view(batch, height, width, -1).movedim(-1, 1)
            if not self.config.smoothing:
                return answers
            return self._smoothed(answers.exp()).clamp_min_(_LEAST).log_() if logits else self._smoothed(answers)

    def _smoothed(self, answers: Tensor) -> Tensor:
        """Means (B, outputs, h, w) over neighbours inside the window, weighted by a bell.

        They are summed up in the same order for every pixel, so that a window changes nothing.
        """
        offsets = torch.arange(-self.config.halo, self.config.halo + 1)
        bell = torch.exp(-0.5 * (offsets / self.config.smoothing) ** 2).tolist()
        weights = torch.ones_like(answers[:1, :1])
        for axis in (2, 3):
            answers, weights = (_weighted(values, bell, axis) for values in (answers, weights))
        return answers / weights

    def _answered(self, pixels: Tensor, logits: bool) -> Tensor:
        answers = torch.stack([answer for each in self.sets for answer in each(pixels, self.landmarks)])
        if not logits:
            return torch.einsum("m,mno->no", self.shares, answers.clamp_(self.low, self.high))
        mean = torch.einsum("m,mno->no", self.shares, answers.softmax(2))
        return mean.clamp_min_(_LEAST).log_().add_(self.offset).log_softmax(1)


class ChannelSet(nn.Module):
    """What :class:`PixelModels` make of one set of channels.

    Attributes:
        channels: int64 (channels,), which of the head's channels it reads.
        linear: (models, outputs, channels), with `linear_offset` (models, outputs).
        kernel: (outputs, landmarks), what similarities weigh, with `kernel_offset` (outputs,).
        width: of the kernel exp(-(width * d)^power), where d is the squared distance of a pixel to a landmark.
        power: see there.
    """

    channels: Tensor
    linear: Tensor
    linear_offset: Tensor
    kernel: Tensor
    kernel_offset: Tensor
    width: Tensor
    power: Tensor

    def __init__(self, channels: int, linear: int, landmarks: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("channels", torch.zeros(channels, dtype=torch.int64))
        shapes = {
            "linear": (linear, outputs, channels),
            "linear_offset": (linear, outputs),
            "kernel": (outputs, landmarks),
            "kernel_offset": (outputs,),
            "width": (),
            "power": (),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))

    def forward(self, pixels: Tensor, landmarks: Tensor) -> list[Tensor]:
        """The answers of the models to pixels (n, in_channels): (n, outputs) each."""
        pixels, landmarks = pixels.index_select(1, self.channels), landmarks.index_select(1, self.channels)
        linear = [torch.addmm(b, pixels, w.T) for w, b in zip(self.linear, self.linear_offset, strict=True)]
        near = torch.addmm(landmarks.square().sum(1), pixels, landmarks.T, alpha=-2)
        near = near.add_(pixels.square().sum(1, keepdim=True)).clamp_min_(0).mul_(self.width)
        near = (near.sqrt_() if self.power == 0.5 else near if self.power == 1 else near.pow_(self.power)).neg_().exp_()
        return [*linear, torch.addmm(self.kernel_offset, near, self.kernel.T)]


def _weighted(values: Tensor, weights: list[float], axis: int) -> Tensor:
    """The weighted sums of neighbours along an axis, as far as there are any."""
    reach, length = len(weights) // 2, values.shape[axis]
    result = torch.zeros_like(values)
    for offset, weight in enumerate(weights, -reach):
        if abs(offset) < length:
            start, count = max(0, -offset), length - abs(offset)
            result.narrow(axis, start, count).add_(values.narrow(axis, start + offset, count), alpha=weight)
    return result


AT_ONCE = 32_768
"""Pixels that are compared with the landmarks together, so that memory does not follow the window."""
_LEAST = 1e-12  # of a mean probability, where its logarithm is taken


def _mixed(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """The logarithm of (1 - share) * exp(one) + share * exp(other)."""
    return torch.logaddexp(one + torch.log1p(-share), other + share.log())


class HeadEnsemble(nn.Module):
    """Layers of one shape, trained from different seeds, and pixel models that answer together.

    Attributes:
        mean: (channels, 1, 1), taken off what is read before the members see it; `std` divides it then. 0 and 1 unless they
            were set: the channels of a field differ by two orders of magnitude, and small ones are hardly learned from.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(
            HeadLayers(config.in_channels, config.widths, config.outputs, config.norm, config.scale)
            for _ in range(config.members)
        )
        models = config.pixel_models
        self.pixel_models = PixelModels(models, config.in_channels, config.outputs) if models else None
        self.register_buffer("mean", torch.zeros(config.in_channels, 1, 1))
        self.register_buffer("std", torch.ones(config.in_channels, 1, 1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs forget it

    def attach(self, pixel_models: PixelModels) -> None:
        """Let other pixel models answer beside the layers, in place of those there were."""
        self.config = self.config.model_copy(update={"pixel_models": pixel_models.config})
        self.pixel_models = pixel_models.to(self.mean.device)

    def drop_members(self) -> None:
        """Let the pixel models answer alone."""
        self.config = self.config.model_copy(update={"members": 0, "pixel_share": 1.0})
        self.members = nn.ModuleList()

    @property
    def halo(self) -> int:
        """Pixels of surroundings that an answer depends on, on each side."""
        config = self.config
        layers = head_halo(len(config.widths), config.scale) if config.members else 0
        return max(layers, config.pixel_models.halo if config.pixel_models else 0)

    @torch.no_grad()
    def weigh(self, pixel_share: float, sharpness: float) -> None:
        """Give the pixel models a share in the answer, and multiply the layers' logits."""
        self.config = self.config.model_copy(update={"pixel_share": pixel_share})
        for member in self.members:
            assert isinstance(member, HeadLayers)
            for parameter in member[-1].parameters():
                parameter.mul_(sharpness)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (B, C, h, w) as a region gives them to answers (B, outputs, scale * h, scale * w).

        Classes: the logarithm of the members' mean probabilities. Numbers: the members' mean. Pixel models have their share.
        """
        return self.together((inputs - self.mean).div_(self.std))

    def together(self, inputs: Tensor) -> Tensor:
        """The answers of :meth:`forward` to inputs that are standardised already."""
        logits = self.config.output == "logits"
        if self.pixel_models is None or not self.members:
            return self.of_layers(inputs) if self.pixel_models is None else self.pixel_models(inputs, logits)
        layers, pixels = self.of_layers(inputs), self.pixel_models(inputs, logits)
        share = torch.tensor(self.config.pixel_share, device=inputs.device)
        return _mixed(layers, pixels, share) if logits else torch.lerp(layers, pixels, share)

    def each(self, inputs: Tensor) -> Tensor:
        """The answers of every member, and of the pixel models as one more: (members, B, outputs, scale * h, scale * w)."""
        inputs = (inputs - self.mean).div_(self.std)
        parts = [self._scores(inputs)] if self.members else []
        if self.pixel_models is not None:
            parts.append(self.pixel_models(inputs, self.config.output == "logits")[None])
        return torch.cat(parts)

    def of_layers(self, inputs: Tensor) -> Tensor:
        """The answers of the layers alone, to inputs that are standardised already."""
        scores = self._scores(inputs)
        if self.config.output != "logits":
            return scores.mean(0)
        return scores.log_softmax(2).logsumexp(0) - torch.tensor(float(len(self.members))).log()

    def _scores(self, inputs: Tensor) -> Tensor:
        scores = torch.stack([member(inputs).float() for member in self.members])
        return functional.leaky_relu(scores) if self.config.output == "number" else scores


# --- Context, one of the inputs of a head: means and standard deviations of the bands in square neighbourhoods.
#
# A head of six 3x3 convolutions sees 13 pixels and must learn from a few polygons what texture is. Handing it the first two
# moments of three neighbourhoods spares it that; they are computed from the reconstruction, so they cost no parameter.

NEIGHBOURHOODS = (3, 7, 15)
"""Sides of the neighbourhoods in pixels."""
CONTEXT_HALO = max(NEIGHBOURHOODS) // 2
STATISTICS = 2 * len(NEIGHBOURHOODS)
"""Context channels per band."""

_FLOOR = 1e-4  # keeps the square root smooth where a neighbourhood is uniform


def context(bands: Tensor) -> Tensor:
    """Neighbourhood statistics of bands (B, C, h, w): (B, STATISTICS * C, h, w), mean then deviation per neighbourhood.

    At the edge of the array a neighbourhood is the part of it that lies inside.
    """
    both = torch.cat([bands, bands**2], 1)
    ones = torch.ones_like(both[:1, :1])
    parts = []
    for side in NEIGHBOURHOODS:
        mean, square = (_box_sum(both, side) / _box_sum(ones, side)).chunk(2, 1)
        parts += [mean, (square - mean**2).clamp_min(0.0).add(_FLOOR).sqrt()]
    return torch.cat(parts, 1)


def _box_sum(values: Tensor, side: int) -> Tensor:
    """Sums over a square, one axis after the other."""
    half = side // 2
    rows = functional.avg_pool2d(values, (side, 1), 1, (half, 0), divisor_override=1)
    return functional.avg_pool2d(rows, (1, side), 1, (0, half), divisor_override=1)
