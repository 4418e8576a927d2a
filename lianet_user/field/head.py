"""The head: trainable 3x3 convolutions on frozen features (paper, section 3.4), and the context that it can read."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lianet_user.field.config import ClosedFormConfig, HeadConfig
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


class ClosedForm(nn.Module):
    """A linear model and a kernel machine on the channels of one pixel, solved rather than trained, and mixed.

    What is chosen and how it is solved stands in :mod:`lianet_user.finetuning.closed_form`.

    Attributes:
        channels: int64 (channels,), which of the head's channels it reads.
        linear: (outputs, channels), with `linear_offset` (outputs,).
        landmarks: (landmarks, channels), the pixels that a pixel is compared with: exp(-|scale * x - landmark|^(2 * power)).
        kernel: (outputs, landmarks), with `kernel_offset` (outputs,): what these similarities weigh.
        mix: share of the kernel in the answer.
        low: the lowest number that it answers; `high` the highest.
    """

    channels: Tensor
    linear: Tensor
    linear_offset: Tensor
    scale: Tensor
    power: Tensor
    landmarks: Tensor
    kernel: Tensor
    kernel_offset: Tensor
    mix: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, config: ClosedFormConfig, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("channels", torch.zeros(config.channels, dtype=torch.int64))
        shapes = {
            "linear": (outputs, config.channels),
            "linear_offset": (outputs,),
            "scale": (),
            "power": (),
            "landmarks": (config.landmarks, config.channels),
            "kernel": (outputs, config.landmarks),
            "kernel_offset": (outputs,),
            "mix": (),
            "low": (),
            "high": (),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))

    def forward(self, inputs: Tensor, logits: bool) -> Tensor:
        """Standardised inputs (B, C, h, w) to answers (B, outputs, h, w): logarithms of probabilities, or numbers."""
        batch, _, height, width = inputs.shape
        with torch.autocast(inputs.device.type, enabled=False):
            pixels = inputs.float().index_select(1, self.channels).movedim(1, -1).flatten(0, -2)
            answers = torch.cat([self._answered(part, logits) for part in pixels.split(AT_ONCE)])
        return answers.view(batch, height, width, -1).movedim(-1, 1)

    def _answered(self, pixels: Tensor, logits: bool) -> Tensor:
        linear = torch.addmm(self.linear_offset, pixels, self.linear.T)
        scaled = pixels * self.scale
        near = torch.addmm(self.landmarks.square().sum(1), scaled, self.landmarks.T, alpha=-2)
        near = near.add_(scaled.square().sum(1, keepdim=True)).clamp_min_(0)
        near = (near if self.power == 1 else near.pow_(self.power)).neg_().exp_()
        kernel = torch.addmm(self.kernel_offset, near, self.kernel.T)
        if not logits:
            return torch.lerp(linear, kernel, self.mix).clamp(self.low, self.high)
        return _mixed(linear.log_softmax(1), kernel.log_softmax(1), self.mix)


AT_ONCE = 32_768
"""Pixels that are compared with the landmarks together, so that memory does not follow the window."""


def _mixed(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """The logarithm of (1 - share) * exp(one) + share * exp(other)."""
    return torch.logaddexp(one + torch.log1p(-share), other + share.log())


class HeadEnsemble(nn.Module):
    """Layers of one shape, trained from different seeds, and a closed form that answer together.

    Attributes:
        halo: pixels of surroundings a decision depends on, on each side.
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
        self.closed_form = ClosedForm(config.closed_form, config.outputs) if config.closed_form else None
        self.register_buffer("mean", torch.zeros(config.in_channels, 1, 1))
        self.register_buffer("std", torch.ones(config.in_channels, 1, 1))
        self.halo = head_halo(len(config.widths), config.scale) if config.members else 0
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs forget it

    def attach(self, closed_form: ClosedForm) -> None:
        """Let another closed form answer beside the layers, in place of the one there was."""
        self.config = self.config.model_copy(update={"closed_form": closed_form.config})
        self.closed_form = closed_form.to(self.mean.device)

    def drop_members(self) -> None:
        """Let the closed form answer alone."""
        self.config = self.config.model_copy(update={"members": 0, "closed_form_share": 1.0})
        self.members, self.halo = nn.ModuleList(), 0

    @torch.no_grad()
    def weigh(self, closed_form_share: float, sharpness: float) -> None:
        """Give the closed form a share in the answer, and multiply the layers' logits."""
        self.config = self.config.model_copy(update={"closed_form_share": closed_form_share})
        for member in self.members:
            assert isinstance(member, HeadLayers)
            for parameter in member[-1].parameters():
                parameter.mul_(sharpness)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (B, C, h, w) as a region gives them to answers (B, outputs, scale * h, scale * w).

        Classes: the logarithm of the members' mean probabilities. Numbers: the members' mean. The closed form has its share.
        """
        return self.together((inputs - self.mean).div_(self.std))

    def together(self, inputs: Tensor) -> Tensor:
        """The answers of :meth:`forward` to inputs that are standardised already."""
        logits = self.config.output == "logits"
        if self.closed_form is None or not self.members:
            return self.of_layers(inputs) if self.closed_form is None else self.closed_form(inputs, logits)
        layers, closed = self.of_layers(inputs), self.closed_form(inputs, logits)
        share = torch.tensor(self.config.closed_form_share, device=inputs.device)
        return _mixed(layers, closed, share) if logits else torch.lerp(layers, closed, share)

    def each(self, inputs: Tensor) -> Tensor:
        """The answers of every member, and of the closed form as one more: (members, B, outputs, scale * h, scale * w)."""
        inputs = (inputs - self.mean).div_(self.std)
        parts = [self._scores(inputs)] if self.members else []
        if self.closed_form is not None:
            parts.append(self.closed_form(inputs, self.config.output == "logits")[None])
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
