"""The configuration of fields and heads: the part of a header from which they are rebuilt. No torch here.

Architectures are enumerated, never named by a class path: a file chooses among the fields this package knows how to
build, and nothing it says is imported or executed.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable
from typing import Annotated, Literal, Self, get_args

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from lianet_user.errors import printable


class Schema(BaseModel):
    """Strict, immutable, and no field that the schema does not name."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _steers_nothing(text: str) -> str:
    if printable(text) != text:
        raise ValueError("it holds control characters")
    return text


Words = Annotated[str, AfterValidator(_steers_nothing)]
"""A text that can be printed as it stands: it steers no terminal and turns no reading direction."""


class EncodingConfig(Schema):
    """A multi-resolution hash grid (paper, section 3.1): level l has `n_min * growth**l` cells across `extent` pixels."""

    levels: Annotated[int, Field(ge=1, le=24)]
    n_min: Annotated[int, Field(ge=1, le=65536)]
    growth: Annotated[float, Field(ge=1, le=16)] = 2.0
    """How much finer each level is than the one before it: 2 in the paper."""
    features: Annotated[int, Field(ge=1, le=1024)]
    """Features per table entry (F)."""
    table_size: Annotated[int, Field(ge=1, le=2**26)]
    """Entries a level may have at most (T)."""
    extent: Annotated[int, Field(ge=1, le=2**24)]
    """Pixels that `n_min` cells of level 0 span, on both axes (E)."""
    pixel_origin: Literal["center", "corner"]
    """Where a pixel is looked up: at (x + 0.5, y + 0.5) as in the paper's release, or at (x, y) as in later ones."""
    sizing: Literal["uniform", "fitted"]
    """`uniform`: every level has `table_size` hashed entries (paper). `fitted`: a level whose nodes over `shape` fit into
    `table_size` has exactly those, addressed directly; only larger levels are hashed."""
    tables: Literal["per-level", "shared"] = "per-level"
    """`per-level`: a table for each level (paper). `shared`: one table that all levels read, each with its own hash, as
    in later releases."""
    interpolation: Literal["bilinear", "mean"] = "bilinear"
    """How a pixel weighs its four nodes: by distance (paper), or equally, which some later releases do."""
    shape: Annotated[tuple[int, int], Field(strict=False)]
    """Height and width in pixels of the area that is encoded, padded to the decoder's stride."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.cells(self.levels - 1) > 2**40:
            raise ValueError(f"the finest of {self.levels} levels has more than 2**40 cells across the extent")
        if self.sizing == "fitted" and (self.tables, self.interpolation) != ("per-level", "bilinear"):
            raise ValueError("fitted tables belong to one level each and are interpolated bilinearly")
        return self

    def cells(self, level: int) -> int:
        """Cells of a level across the extent (N_l)."""
        return round(self.n_min * self.growth**level)

    def nodes(self, level: int) -> tuple[int, int]:
        """Rows and columns of nodes that the pixels of `shape` touch at a level."""
        offset = 0.5 if self.pixel_origin == "center" else 0.0
        # One float32 product, as the encoding computes it: its rounding decides which node the last pixel reaches.
        step = np.float32(self.cells(level) / self.extent)
        rows, cols = (math.floor(np.float32(size - 1 + offset) * step) + 2 for size in self.shape)
        return rows, cols

    def is_direct(self, level: int) -> bool:
        """Whether every node of the level has an entry of its own."""
        rows, cols = self.nodes(level)
        return self.sizing == "fitted" and rows * cols <= self.table_size

    def entries(self, level: int) -> int:
        """Table entries of a level."""
        rows, cols = self.nodes(level)
        return rows * cols if self.is_direct(level) else self.table_size

    @property
    def channels(self) -> int:
        """Length of the encoding of one pixel (L * F)."""
        return self.levels * self.features


class IndexTime(Schema):
    """A learned vector per acquisition, added to every pixel's encoding (paper, 3.1)."""

    kind: Literal["index"]
    count: Annotated[int, Field(ge=1, le=100_000)]
    """Acquisitions the field holds."""


class SinusoidalTime(Schema):
    """Sines and cosines of the days at the frequencies 1, 2, 4, ... radians a day, through a linear layer."""

    kind: Literal["sinusoidal"]
    frequencies: Annotated[int, Field(ge=1, le=64)]


class FourierTime(Schema):
    """As `sinusoidal`, but the frequencies are learned."""

    kind: Literal["fourier"]
    frequencies: Annotated[int, Field(ge=1, le=4096)]


class MlpTime(Schema):
    """Days, and sine and cosine of the day of the year, through linear layers with GELU between them."""

    kind: Literal["mlp"]
    hidden: Annotated[int, Field(ge=1, le=4096)]
    layers: Annotated[int, Field(ge=1, le=16)]


class TemporalCovariance(Schema):
    """How alike two moments look (`covariance` in :mod:`lianet_user.field.encoding`): variances relative to the season's.
    The standard numbers are those of five years of Sentinel-2 over farmland and forest in Romania."""

    season_width: Annotated[float, Field(gt=0, le=100)] = 0.6
    """Width of a season, in sines of half the angle between two days of the year: 0.6 is about five weeks."""
    season_days: Annotated[float, Field(gt=0, le=1e6)] = 3000.0
    """After so many days a season resembles its return e times less."""
    years: Annotated[float, Field(gt=0, le=1e6)] = 0.4
    years_days: Annotated[float, Field(gt=0, le=1e6)] = 700.0
    """Slow change, and how many days it takes."""
    weeks: Annotated[float, Field(gt=0, le=1e6)] = 0.25
    weeks_days: Annotated[float, Field(gt=0, le=1e6)] = 50.0
    """Passing change, and how many days it lasts."""
    scene: Annotated[float, Field(gt=0, le=1e6)] = 0.4
    """What a scene shares with no other: haze, light, registration."""


class KrigedTime(Schema):
    """Ours: a learned code per acquisition that steers the projection; the code of any other moment is the best linear
    estimate from them. The season is in what they share, the scene in what each has alone."""

    kind: Literal["kriged"]
    days: Annotated[tuple[float, ...], Field(strict=False, min_length=1, max_length=4096)]
    """Days of the acquisitions since `EPOCH`, in the order of their codes."""
    codes: Annotated[int, Field(ge=1, le=4096)]
    """Length of a code."""
    covariance: TemporalCovariance = TemporalCovariance()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.days)) < len(self.days):
            raise ValueError("two acquisitions have the same time")
        return self

    @property
    def count(self) -> int:
        return len(self.days)


TimeConfig = Annotated[IndexTime | SinusoidalTime | FourierTime | MlpTime | KrigedTime, Field(discriminator="kind")]
"""How the date enters: by the number of the acquisition (paper), or by the days since `EPOCH` (later releases, and ours)."""

EPOCH = dt.datetime(2015, 1, 1)
"""Day 0 of the continuous time encodings (later releases), in UTC."""


def days_since_epoch(moment: dt.datetime) -> float:
    """Days and fractions of a day from `EPOCH` to a moment in UTC, given without a time zone."""
    return (moment - EPOCH).total_seconds() / 86_400


class DecoderConfig(Schema):
    """The convolutional decoder that turns an encoded window into features (paper, section 3.2)."""

    architecture: Literal["resunet", "lite", "flat"]
    """`resunet`: the paper's ResNet-UNet with GroupNorm. `lite`: a light U-Net with BatchNorm for two CPU cores. `flat`:
    residual blocks at full resolution, the light decoder of later releases."""
    encoder: Literal["resnet18", "resnet50", "resnet101"] | None
    """None for `flat`, which has none."""
    depth: Annotated[int, Field(ge=0, le=5)]
    """How often the encoder halves the window: the decoder's stride is `2**depth`."""
    projection: Annotated[int, Field(ge=1, le=1024)] | None
    """Channels of the 1x1 convolution in front of the decoder; None where there is no such convolution."""
    widths: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(strict=False, max_length=64)]
    """Channels of the up-blocks, coarse to fine; for `flat` those of its first convolution and of each block."""
    features: Annotated[int, Field(ge=1, le=4096)]
    """Channels of the decoder's output."""
    halo: Annotated[int, Field(ge=0, le=1024)]
    """Pixels of surroundings that features and reconstruction depend on, on each side."""
    patch: Annotated[int, Field(ge=1, le=4096)] = 128
    """Pixels along the side of the windows it was trained on, 128 in the paper: where it normalises over space, it is
    computed in patches of that size."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.architecture == "flat":
            if self.encoder is not None or self.depth or len(set(self.widths)) != 1:
                raise ValueError("a flat decoder has no encoder, depth 0 and one width throughout")
        elif self.encoder is None or self.depth < 2:
            raise ValueError(f"a {self.architecture} decoder has an encoder that halves the window at least twice")
        if self.architecture == "lite" and self.projection is None:
            raise ValueError("a lite decoder has a projection")
        return self

    @property
    def stride(self) -> int:
        return int(2**self.depth)

    @property
    def spatial_norm(self) -> bool:
        """Whether it has statistics over space (GroupNorm), so that a pixel depends on the window it is computed in."""
        return self.architecture != "lite"

    def patch_within(self, shape: tuple[int, int]) -> int:
        """Side of the patches in an area of `shape` (height, width): as trained, or as large as fits in whole strides."""
        return max(self.stride, min(self.patch, *shape) // self.stride * self.stride)


class FieldConfig(Schema):
    """Everything needed to rebuild a field except its weights."""

    preset: Annotated[Words, Field(max_length=64)]
    encoding: EncodingConfig
    time: TimeConfig
    decoder: DecoderConfig
    bands: Annotated[int, Field(ge=1, le=1024)]
    activation: Literal["relu", "none"] = "relu"
    """What follows the reconstruction layer: ReLU in the paper, nothing in most later releases."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.decoder.architecture == "lite" and self.activation != "relu":
            raise ValueError("a lite field ends with relu")
        if self.decoder.architecture != "lite" and self.time.kind == "kriged":
            raise ValueError("time codes steer the projection of a lite decoder, and no other")
        if any(size % self.decoder.stride for size in self.encoding.shape):
            raise ValueError(f"encoded shape {self.encoding.shape} is no multiple of the stride {self.decoder.stride}")
        return self

    @property
    def rectified(self) -> bool:
        """Whether heads read ReLU(features).

        The published heads take the reconstruction layer's place and keep what follows it. In `lite` the features carry
        the projected encoding, whose sign says something.
        """
        return self.decoder.architecture != "lite" and self.activation == "relu"


HeadInput = Literal["features", "bands", "context", "encoding", "series"]
"""What a head can read of a place at a date; `encoding` is the hash grid's, before any date is added to it, and `series` the
reconstructed bands of all dates."""

HEAD_INPUTS: tuple[HeadInput, ...] = get_args(HeadInput)
"""All of them, in the order in which they are stacked."""
DATELESS: frozenset[HeadInput] = frozenset({"encoding", "series"})
"""Inputs that are the same at every date."""


def reads_a_date(inputs: Iterable[HeadInput]) -> bool:
    """Whether any of what is read depends on the date."""
    return not DATELESS.issuperset(inputs)


class PixelModelsConfig(Schema):
    """The part of a head that answers from the channels of a single pixel: linear models and kernels that answer together."""

    sets: tuple[Annotated[int, Field(ge=1, le=8192)], ...] = Field(strict=False, min_length=1, max_length=8)
    """Of the head's channels there are several sets; how many channels each has."""
    linear: Annotated[int, Field(ge=1, le=8)]
    """Linear models on each set, beside one kernel."""
    landmarks: Annotated[int, Field(ge=1, le=4096)]
    """Pixels that the kernels compare with."""
    smoothing: Annotated[float, Field(ge=0, le=8)] = 0.0
    """Standard deviation in pixels of the bell by which the answers of neighbours count; 0 takes each pixel alone."""

    @property
    def halo(self) -> int:
        """Pixels of surroundings that an answer depends on, on each side."""
        return math.ceil(3 * self.smoothing)


PAPER_WIDTHS = (128, 128, 64, 64, 32)
SLIM_WIDTHS = (64, 64, 64, 64, 32)
DEEP_WIDTHS = (128, 128, 128, 128, 64, 64, 64, 64, 32, 32)
"""The deeper head of the authors' later releases: eleven convolutions with the one to the outputs."""


class HeadConfig(Schema):
    """A head: what it reads, the six trainable layers (paper, section 3.4), and models of single pixels."""

    inputs: Annotated[tuple[HeadInput, ...], Field(strict=False, min_length=1, max_length=5)]
    in_channels: Annotated[int, Field(ge=1, le=8192)]
    widths: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(strict=False, min_length=1, max_length=16)
    """Channels after each hidden 3x3 convolution (the paper: 128, 128, 64, 64, 32)."""
    outputs: Annotated[int, Field(ge=1, le=255)]
    norm: Literal["group", "batch", "channel"]
    """`group` is the paper's, over groups of channels and a patch. `channel` is over the channels of one pixel, and `batch`
    is a fixed scale in a finished head: neither depends on how an area is cut into windows."""
    members: Annotated[int, Field(ge=0, le=64)] = 1
    """Layers trained from different seeds whose answers are averaged; 0 where models of single pixels answer alone."""
    pixel_models: PixelModelsConfig | None = None
    pixel_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of the pixel models in the answer."""
    scale: Literal[1, 4] = 1
    """Pixels of the answer per pixel of the grid along either axis; 4 is the paper's, for labels finer than the grid."""
    output: Literal["logits", "number", "linear"] = "logits"
    """`logits`: scores of classes, whose probabilities are averaged. `number`: a quantity with LeakyReLU, as the paper's.
    `linear`: a quantity as the last layer gives it."""
    patch: Annotated[int, Field(ge=1, le=4096)] = 128
    """Pixels of the grid along the side of the crops it was trained on: with `group`, maps are computed in patches of it."""

    @model_validator(mode="after")
    def _answers(self) -> Self:
        if self.members == 0 and self.pixel_models is None:
            raise ValueError("a head has layers, pixel models, or both")
        if self.pixel_models is None and self.pixel_share != 0:
            raise ValueError("a head without pixel models gives them no share in the answer")
        if self.pixel_models is not None:
            if self.members == 0 and self.pixel_share != 1:
                raise ValueError("in a head without layers the pixel models answer alone")
            if self.scale != 1 or self.norm == "group" or self.output == "number":
                raise ValueError("pixel models stand beside layers on the region's own grid that see single windows")
            if max(self.pixel_models.sets) > self.in_channels:
                raise ValueError("the pixel models read more channels than the head is given")
        return self


PRESETS = ("lite", "base", "large")


def preset(
    name: str,
    *,
    height: int,
    width: int,
    bands: int,
    dates: int = 1,
    time: TimeConfig | None = None,
    features: int | None = None,
    table_size: int | None = None,
    widths: tuple[int, int, int] | None = None,
    patch: int = 128,
) -> FieldConfig:
    """The configuration of a preset for an area of `height` x `width` pixels.

    `base` and `large` are the paper's (section 3; 11 levels from 16 cells, 2**17 entries of 4 features, the extent
    max(height, width)). `lite` puts the finest level's nodes on the pixels themselves: five levels, each half as fine
    as the next, so that a coarse level describes the 16 pixels around a place and not the place.

    Args:
        name: of the preset.
        height: of the area in pixels.
        width: of the area in pixels.
        bands: of the imagery.
        dates: acquisitions.
        time: how they enter; by default by their number.
        features: per table entry; by default 4. Where time codes mix them a place has a course of its own through the year:
            12 then, or as many as there are bands of all dates.
        table_size: entries a level may have.
        widths: of the decoder's up-blocks, for `lite`; the others are the paper's.
        patch: pixels along the side of the windows it is trained on.

    Raises:
        KeyError: no such preset.
    """
    depth = {"lite": 3, "base": 5, "large": 5}[name]
    stride = 2**depth
    padded = (math.ceil(height / stride) * stride, math.ceil(width / stride) * stride)
    time = time or IndexTime(kind="index", count=dates)
    features = features or (min(12, bands * time.count) if time.kind == "kriged" else 4)
    if name == "lite":
        levels = 5
        coarsest = 2 ** (levels - 1)
        extent = math.ceil(max(padded) / coarsest) * coarsest
        encoding = EncodingConfig(
            levels=levels,
            n_min=extent // coarsest,
            features=features,
            table_size=table_size or 2**21,
            extent=extent,
            pixel_origin="corner",
            sizing="fitted",
            shape=padded,
        )
        # The projection carries the encoding and, where codes mix it, what it makes of each band at that moment.
        projection = max(64, math.ceil((levels * features + bands) / 16) * 16) if time.kind == "kriged" else 64
        decoder = DecoderConfig(
            architecture="lite",
            encoder="resnet18",
            depth=depth,
            projection=projection,
            widths=(widths := widths or (96, 64, 64)),
            features=widths[-1] + projection,
            halo=72,
            patch=patch,
        )
    else:
        encoding = EncodingConfig(
            levels=11,
            n_min=16,
            features=features,
            table_size=table_size or 2**17,
            extent=max(height, width),
            pixel_origin="center",
            sizing="uniform",
            shape=padded,
        )
        decoder = DecoderConfig(
            architecture="resunet",
            encoder="resnet50" if name == "base" else "resnet101",
            depth=depth,
            projection=128,
            widths=(512, 256, 256, 256) if name == "base" else (512, 512, 512, 512),
            features=128,
            halo=64,
            patch=patch,
        )
    return FieldConfig(preset=name, encoding=encoding, time=time, decoder=decoder, bands=bands)
