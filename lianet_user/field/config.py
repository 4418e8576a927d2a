"""What a neural field is made of, in numbers: the part of a region file that says how to rebuild it. No torch here.

Architectures are enumerated, never named by a class path: a file chooses among the fields this package knows how to
build, and nothing it says is imported or executed.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator


class Schema(BaseModel):
    """Strict, immutable, and no field that the schema does not name."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class EncodingConfig(Schema):
    """A multi-resolution hash grid (paper, section 3.1): level l has `n_min * 2**l` cells across `extent` pixels."""

    levels: Annotated[int, Field(ge=1, le=24)]
    n_min: Annotated[int, Field(ge=1, le=65536)]
    features: Annotated[int, Field(ge=1, le=16)]
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
    shape: Annotated[tuple[int, int], Field(strict=False)]
    """Height and width in pixels of the area that is encoded, padded to the decoder's stride."""

    def cells(self, level: int) -> int:
        """Cells of a level across the extent (N_l)."""
        return self.n_min * 2**level

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


class TimeConfig(Schema):
    """How the date enters: `index`, a learned vector per acquisition added to every pixel's encoding (paper, 3.1)."""

    kind: Literal["index"]
    count: Annotated[int, Field(ge=1, le=100_000)]
    """Acquisitions the field holds."""


class DecoderConfig(Schema):
    """The convolutional decoder that turns an encoded window into features (paper, section 3.2)."""

    architecture: Literal["resunet", "lite"]
    """`resunet`: the paper's ResNet-UNet with GroupNorm. `lite`: a light U-Net with BatchNorm for two CPU cores."""
    encoder: Literal["resnet18", "resnet50", "resnet101"]
    depth: Annotated[int, Field(ge=2, le=5)]
    """How often the encoder halves the window: the decoder's stride is `2**depth`."""
    projection: Annotated[int, Field(ge=1, le=1024)]
    """Channels of the 1x1 convolution in front of the encoder."""
    widths: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(strict=False)]
    """Channels of the up-blocks, coarse to fine."""
    features: Annotated[int, Field(ge=1, le=4096)]
    """Channels of the decoder's output."""
    halo: Annotated[int, Field(ge=0, le=1024)]
    """Pixels of surroundings that features and reconstruction depend on, on each side."""

    @property
    def stride(self) -> int:
        return int(2**self.depth)


class FieldConfig(Schema):
    """Everything needed to rebuild a field except its weights."""

    preset: Annotated[str, Field(max_length=64)]
    encoding: EncodingConfig
    time: TimeConfig
    decoder: DecoderConfig
    bands: Annotated[int, Field(ge=1, le=1024)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(size % self.decoder.stride for size in self.encoding.shape):
            raise ValueError(f"encoded shape {self.encoding.shape} is no multiple of the stride {self.decoder.stride}")
        return self


HeadInput = Literal["features", "bands", "context"]


class HeadConfig(Schema):
    """The six trainable layers: their widths and what they read (paper, section 3.4)."""

    inputs: Annotated[tuple[HeadInput, ...], Field(strict=False, min_length=1, max_length=3)]
    in_channels: Annotated[int, Field(ge=1, le=8192)]
    widths: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(strict=False, min_length=1, max_length=16)
    """Channels after each hidden 3x3 convolution (the paper: 128, 128, 64, 64, 32)."""
    outputs: Annotated[int, Field(ge=1, le=255)]
    norm: Literal["group", "batch"]
    members: Annotated[int, Field(ge=1, le=64)] = 1
    """Heads trained from different seeds whose probabilities are averaged."""


PRESETS = ("lite", "base", "large")


def preset(name: str, *, height: int, width: int, dates: int, bands: int, table_size: int | None = None) -> FieldConfig:
    """The configuration of a preset for an area of `height` x `width` pixels.

    `base` and `large` are the paper's (section 3; 11 levels from 16 cells, 2**17 entries of 4 features, the extent
    max(height, width)). `lite` puts the finest level's nodes on the pixels themselves: five levels, each half as fine
    as the next, so that a coarse level describes the 16 pixels around a place and not the place.

    Raises:
        KeyError: no such preset.
    """
    depth = {"lite": 3, "base": 5, "large": 5}[name]
    stride = 2**depth
    padded = (math.ceil(height / stride) * stride, math.ceil(width / stride) * stride)
    if name == "lite":
        levels = 5
        coarsest = 2 ** (levels - 1)
        extent = math.ceil(max(padded) / coarsest) * coarsest
        encoding = EncodingConfig(
            levels=levels,
            n_min=extent // coarsest,
            features=4,
            table_size=table_size or 2**21,
            extent=extent,
            pixel_origin="corner",
            sizing="fitted",
            shape=padded,
        )
        decoder = DecoderConfig(
            architecture="lite",
            encoder="resnet18",
            depth=depth,
            projection=64,
            widths=(96, 64, 64),
            features=128,
            halo=72,
        )
    else:
        encoding = EncodingConfig(
            levels=11,
            n_min=16,
            features=4,
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
        )
    return FieldConfig(
        preset=name, encoding=encoding, time=TimeConfig(kind="index", count=dates), decoder=decoder, bands=bands
    )
