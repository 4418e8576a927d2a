"""What a head on a region file is compared with: models that read imagery, or features that another model computed from it.

A contender consists of what is read of a window at a date, and of a learner that is trained on that and on labels. All get
the same labels, the same split and, where they are networks, the same training loop. Nothing is chosen on the ground that they
are judged on: every network is trained to its last step.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lianet_user.errors import ImageryError, InputError, listed
from lianet_user.field.head import CONTEXT_HALO, HeadLayers, context
from lianet_user.files.checkpoint import Checkpoint
from lianet_user.files.header import AnyScores
from lianet_user.finetuning.finetune import new_layers, train_alone
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.samples import Sample, labelled_pixels, moments, standardized
from lianet_user.finetuning.settings import FinetuneSettings
from lianet_user.finetuning.trainer import Step, fit
from lianet_user.finetuning.validation import judge
from lianet_user.geo.grid import Window
from lianet_user.imagery import Imagery
from lianet_user.imagery.features import FeatureRaster
from lianet_user.imagery.grids import describe_grid, same_grid
from lianet_user.imagery.statistics import Listener, measure
from lianet_user.labels import Labels
from lianet_user.region import Region

TREES, LEAF_PIXELS, FOREST_PIXELS = 300, 2, 30_000
"""A random forest's trees, the fewest pixels of a leaf, and the most pixels that it is grown from."""

BoolArray = NDArray[np.bool_]


class ImageryBands:
    """A region's imagery as a model reads it: every band standardised, and 0 where any of them is not valid.

    Args:
        imagery: of the region's dates or some of them, with any bands.
        region: whose grid it is on.
        dates: that will be read.
        listener: called after every tile that is measured.

    Raises:
        ImageryError: another grid, a date is missing, or the imagery cannot be measured.
    """

    def __init__(
        self, imagery: Imagery, region: Region, dates: Sequence[dt.date], listener: Listener | None = None
    ) -> None:
        if not same_grid(imagery.geobox, region.geobox):
            raise ImageryError(
                f"the imagery has {describe_grid(imagery.geobox)}, the region {region.header.name!r}"
                f" {describe_grid(region.geobox)}: give imagery on the region's grid, or `grid` to resample it"
            )
        held = [acquisition.date for acquisition in imagery.acquisitions]
        if missing := [str(date) for date in dates if date not in held]:
            raise ImageryError(
                f"the imagery lacks {listed(missing)}, which the labels describe: it holds"
                f" {listed([str(date) for date in held], 6)}; give imagery of these dates, or choose others with `dates`"
            )
        self.imagery = imagery.only([held.index(date) for date in dates])
        self.dates = tuple(dates)
        moments = measure(self.imagery, listener=listener)
        self._mean, self._std = (values.astype(np.float32)[:, None, None] for values in (moments.mean, moments.std))

    def __call__(self, window: Window, date: dt.date) -> Tensor:
        patch = self.imagery.read(self.dates.index(date), window)
        standardised = (patch.reflectance - self._mean) / self._std
        return torch.from_numpy(np.where(patch.valid.all(0), standardised, np.float32(0)))

    def valid(self, window: Window, date: dt.date) -> BoolArray:
        """Where all bands are valid: bool (height, width)."""
        valid: BoolArray = np.logical_and.reduce(self.imagery.read(self.dates.index(date), window).valid)
        return valid

    def with_context(self, window: Window, date: dt.date) -> Tensor:
        """The bands, and their means and standard deviations in three neighbourhoods."""
        outer = window.expanded(CONTEXT_HALO, 1, self.imagery.shape)
        bands = self(outer, date)
        both = torch.cat([bands, context(bands[None])[0]])
        return both[(slice(None), *window.within(outer).slices)]

    def of_all_dates(self, window: Window, _: dt.date) -> Tensor:
        """The bands of every date, one after the other."""
        return torch.cat([self(window, date) for date in self.dates])


class RasterFeatures:
    """The bands of a feature raster, standardised, and 0 where they are not valid; the same at every date."""

    def __init__(self, raster: FeatureRaster) -> None:
        self.raster = raster
        moments = raster.moments()
        self._mean, self._std = (values.astype(np.float32)[:, None, None] for values in (moments.mean, moments.std))

    def __call__(self, window: Window, _: dt.date) -> Tensor:
        values, valid = self.raster.read(window)
        return torch.from_numpy(np.where(valid, (values - self._mean) / self._std, np.float32(0)))

    def valid(self, window: Window, _: dt.date) -> BoolArray:
        """Where all bands are valid: bool (height, width)."""
        return self.raster.read(window)[1]


@dataclass(frozen=True)
class Result:
    """How right a trained model is where it is judged."""

    scores: AnyScores
    """Every label counts at each of its dates."""
    of_mean: AnyScores | None = None
    """Of the answers' mean over the dates; None where there is only one date, or the learner takes no mean."""


Report = Callable[[float, float], None]
"""Called with how much of how much is done."""


class Learner(Protocol):
    """Learns from samples and is judged on others; what takes long is kept in a checkpoint."""

    def __call__(
        self,
        training: Sequence[Sample],
        judged: Sequence[Sample],
        goal: Goal,
        settings: FinetuneSettings,
        report: Report,
        checkpoint: Checkpoint | None = None,
    ) -> Result: ...


@dataclass(frozen=True)
class Networks:
    """Networks of one kind, from different seeds, whose answers are averaged: as `finetune` trains six layers.

    Attributes:
        make: builds one for a number of channels and a number of outputs.
        device: to train on.
    """

    make: Callable[[int, int], nn.Module]
    device: str = "cpu"

    def __call__(
        self,
        training: Sequence[Sample],
        judged: Sequence[Sample],
        goal: Goal,
        settings: FinetuneSettings,
        report: Report,
        checkpoint: Checkpoint | None = None,
    ) -> Result:
        torch.manual_seed(settings.seed)
        channels = training[0].inputs.shape[0]
        members = [self.make(channels, goal.outputs).to(self.device) for _ in range(settings.members)]
        if settings.standardize:
            mean, std = moments(training)
            training, judged = standardized(training, mean, std), standardized(judged, mean, std)

        def listener(step: Step) -> None:
            report(step.done, step.total)

        fit(members, training, (), goal, settings, listener=listener, checkpoint=checkpoint)

        def answer(inputs: Tensor) -> Tensor:
            return goal.averaged([goal.activated(member(inputs).float())[0] for member in members])[None]

        judgement = judge(answer, judged, goal, device=self.device)
        return Result(judgement.scores(), judgement.of_mean.compute() if judgement.of_mean else None)


@dataclass(frozen=True)
class RegionHead:
    """A head as `finetune` trains it: pixel models, and layers beside them.

    Attributes:
        region: that the samples are of.
        labels: of all samples.
    """

    region: Region
    labels: Labels

    def __call__(
        self,
        training: Sequence[Sample],
        judged: Sequence[Sample],
        goal: Goal,
        settings: FinetuneSettings,
        report: Report,
        checkpoint: Checkpoint | None = None,
    ) -> Result:
        layers = new_layers(self.region, self.labels, goal, settings)
        if settings.standardize:
            mean, std = moments(training)
            training, judged = standardized(training, mean, std), standardized(judged, mean, std)
        train_alone(
            layers, training, self.region, goal, settings, lambda step: report(step.done, step.total), checkpoint
        )
        judgement = judge(layers.together, judged, goal, device=self.region.device)
        return Result(judgement.scores(), judgement.of_mean.compute() if judgement.of_mean else None)


def head_on(settings: FinetuneSettings) -> Callable[[int, int], nn.Module]:
    """Builds the layers that `finetune` trains, for any number of channels."""
    return lambda channels, outputs: HeadLayers(channels, settings.widths, outputs, settings.norm)


class Forest:
    """A random forest on single pixels.

    Args:
        references: gives the labels that a sample is judged by, each as large as its window; None judges by its own.

    Raises:
        InputError: scikit-learn is not installed.
    """

    def __init__(self, references: Callable[[Sample], list[Tensor]] | None = None) -> None:
        _ensemble()
        self.references = references or (lambda sample: [sample.judged().labels])

    def __call__(
        self,
        training: Sequence[Sample],
        judged: Sequence[Sample],
        goal: Goal,
        settings: FinetuneSettings,
        report: Report,
        checkpoint: Checkpoint | None = None,
    ) -> Result:
        del checkpoint  # a forest grows in seconds
        values, labels, _ = labelled_pixels(training, FOREST_PIXELS, settings.seed)
        kind = _ensemble().RandomForestClassifier if goal.classes else _ensemble().RandomForestRegressor
        forest = kind(TREES, min_samples_leaf=LEAF_PIXELS, n_jobs=torch.get_num_threads(), random_state=settings.seed)
        forest.fit(values, labels)
        meter = goal.meter()
        for done, sample in enumerate(judged, 1):
            asked = sample.judged().labelled
            predicted = torch.zeros(asked.shape, dtype=torch.int64 if goal.classes else torch.float32)
            answers = forest.predict(sample.inputs[:, asked].T.float().numpy())
            predicted[asked] = torch.from_numpy(answers).to(predicted.dtype)
            for reference in self.references(sample):
                meter.update(reference, predicted)
            report(done, len(judged))
        return Result(meter.compute())


def _ensemble() -> Any:
    """Import scikit-learn's ensembles.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn import ensemble
    except ImportError as error:
        raise InputError(
            "random forests need scikit-learn, which is not installed: pip install 'lianet-user[compare]', or choose the"
            " others with `contenders`"
        ) from error
    return ensemble


# --- U-Nets that are trained on imagery from scratch, as the paper compares its heads with (section 4).
#
# The paper gives their sizes, 17.3 million parameters and 0.49 million, and no more. The shapes here are ours, chosen to have
# them: `UNET` is the U-Net of Ronneberger et al. (2015) with padded convolutions, BatchNorm, and bilinear up-sampling in
# place of transposed convolutions, which needs the narrower path down and up; `MICRO_UNET` is a level shallower and a quarter
# as wide.


@dataclass(frozen=True)
class UNetShape:
    """Channels on the way down and up."""

    down: tuple[int, ...]
    """Channels of both convolutions of every level, the full resolution first; each level halves the resolution."""
    up: tuple[tuple[int, int], ...]
    """Channels of the two convolutions after each doubling, the coarsest first; one pair fewer than there are levels."""

    @property
    def stride(self) -> int:
        """Pixels along the side of a pixel of the coarsest level."""
        return 2 ** (len(self.down) - 1)


UNET = UNetShape((64, 128, 256, 512, 512), ((512, 256), (256, 128), (128, 64), (64, 64)))
MICRO_UNET = UNetShape((16, 32, 64, 128), ((64, 64), (32, 32), (16, 16)))


class UNet(nn.Module):
    """Bands (B, channels, h, w) to answers (B, outputs, h, w), of windows of any size.

    A window is filled up to multiples of the stride by repeating its last row and column, and the answer is cropped.
    """

    def __init__(self, channels: int, outputs: int, shape: UNetShape = UNET) -> None:
        super().__init__()
        self.stride = shape.stride
        self.down = nn.ModuleList(
            _double(before, width, width) for before, width in zip((channels, *shape.down), shape.down, strict=False)
        )
        below = shape.down[-1]
        up = []
        for skip, (first, second) in zip(reversed(shape.down[:-1]), shape.up, strict=True):
            up.append(_double(below + skip, first, second))
            below = second
        self.up = nn.ModuleList(up)
        self.last = nn.Conv2d(below, outputs, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it

    def forward(self, bands: Tensor) -> Tensor:
        height, width = bands.shape[-2:]
        filling = (0, -width % self.stride, 0, -height % self.stride)
        x = functional.pad(bands, filling, mode="replicate")
        skips: list[Tensor] = []
        for level, convolutions in enumerate(self.down):
            x = convolutions(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for convolutions in self.up:
            doubled = functional.interpolate(x, scale_factor=2, mode="bilinear")
            x = convolutions(torch.cat([skips.pop(), doubled], 1))
        answers: Tensor = self.last(x)
        return answers[..., :height, :width]


def _double(before: int, first: int, second: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with its norm and ReLU."""
    layers: list[nn.Module] = []
    for width in (first, second):
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        before = width
    return nn.Sequential(*layers)
