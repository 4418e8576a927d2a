"""`used_parameters.json`: the options a field of the authors' code was built with, as a configuration of ours.

Two classes of theirs exist. `LIANet` (release v1.0.1) is the paper's field. `LIANetLight` (v1.1.0 and later) has a flat
decoder, one table for all levels and four time encodings. Their releases read some options differently and do not write
down which of them they are; what that leaves open has to be said in :class:`About`.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from lianet_user.errors import ArtifactError
from lianet_user.field.config import (
    DecoderConfig,
    EncodingConfig,
    FieldConfig,
    FourierTime,
    IndexTime,
    MlpTime,
    Schema,
    SinusoidalTime,
)
from lianet_user.paper_import.about import About

OPTIONS_FILE = "used_parameters.json"
_MAX_BYTES = 2**20
_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
_NOTHING = object()

Count = Annotated[int, Field(ge=1, le=2**26)]
Activation = Literal["ReLU", "none"] | None


class _Options(Schema):
    """Options that both classes have."""

    timestamp_dim: Count
    levels: Count
    n_min: Count
    growth: float
    table_size: Count
    feat_dim: Count
    out_channels: Count
    preproj_channels: Count | None


class LIANetOptions(_Options):
    """Of the paper's field."""

    complete_tile_size: Count
    resunet_backbone_size: Literal["small", "large"]
    bilinear: bool
    """Read by nothing in that class: it always interpolates."""
    final_activation: Activation = "ReLU"


class LIANetLightOptions(_Options):
    """Of the later releases' field; which of the options there are depends on the release."""

    time_mode: Literal["index", "sinusoidal", "fourier_learned", "mlp"]
    num_time_frequencies: Count
    time_input_dim: Count | None
    time_mlp_hidden: Count
    complete_tile_size: Count | None = None
    """Up to v4.2.0; later the extent is an argument of every call."""
    resunet_backbone_size: str = "small"
    """Read by nothing in that class."""
    bilinear: bool = True
    hash_vectorized: bool = True
    """From v3.0.0. Without it the release mixes up pixels and levels of a window, so that nothing can be read from it."""
    final_activation: Activation = None
    n_blocks: Annotated[int, Field(ge=0, le=63)] | None = None
    """From v4.0.0; before, two (v1.1.0) or three (v3.0.0) blocks."""
    num_regions: Count | None = None
    """After v4.2.0."""


Options = LIANetOptions | LIANetLightOptions
_CLASSES: dict[str, type[LIANetOptions] | type[LIANetLightOptions]] = {
    "models.LIANet.LIANet": LIANetOptions,
    "models.LIANet.LIANetLight": LIANetLightOptions,
}


def read_options(path: Path) -> Options:
    """Read the options of the model in a `used_parameters.json`.

    Values that refer to others (`${num_channels}`) are looked up, as their configuration library does.

    Raises:
        ArtifactError: the file cannot be read, or an option is unknown, missing or has a value that is none.
    """
    document = _read_json(path)
    model = document.get("model")
    if not isinstance(model, dict):
        raise ArtifactError(
            f"{path} has no object 'model': expected the file that the training wrote beside its results"
        )
    values = {name: _resolved(value, document, f"{path}: model.{name}") for name, value in model.items()}
    target = values.pop("_target_", None)
    if not isinstance(target, str) or target not in _CLASSES:
        raise ArtifactError(f"{path}: model._target_ is {target!r}, expected one of {', '.join(_CLASSES)}")
    schema = _CLASSES[target]
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"][:1]))
        if first["type"] == "extra_forbidden":
            known = ", ".join(schema.model_fields)
            problem = f"is an option that this program does not know, expected none but {known}"
        elif first["type"] == "missing":
            problem = "is missing"
        else:
            problem = f"is {first['input']!r}: {first['msg']}"
        raise ArtifactError(f"{path}: model.{name} {problem}") from error


def field_config(options: Options, about: About, blocks: int, path: Path) -> FieldConfig:
    """The configuration of the field that `options` describe.

    Args:
        options: as read.
        about: what they leave open.
        blocks: residual blocks that the checkpoint holds, for releases whose options do not say.
        path: of the options, for messages.

    Raises:
        ArtifactError: they contradict `about`, leave something open, or describe what this program cannot build.
    """
    light = isinstance(options, LIANetLightOptions)
    mode = options.time_mode if isinstance(options, LIANetLightOptions) else "index"
    counts = [("out_channels", options.out_channels, len(about.bands), "bands")]
    if mode == "index":
        counts.append(("timestamp_dim", options.timestamp_dim, len(about.dates), "dates"))
    elif timeless := [held.date for held in about.dates if held.time is None]:
        raise ArtifactError(
            f"{path}: model.time_mode is {mode!r}, which reads the time of day, and {timeless[0]} has none: give the dates as"
            " YYYY-MM-DDTHH:MM:SS in UTC"
        )
    if isinstance(options, LIANetLightOptions) and not options.hash_vectorized:
        raise ArtifactError(
            f"{path}: model.hash_vectorized is false, expected true: without it the authors' code mixes up the pixels of a"
            " window, so what the field computes depends on the window and cannot be reproduced at another place"
        )
    for option, said, given, what in counts:
        if said != given:
            raise ArtifactError(
                f"{path}: model.{option} is {said}, but {given} {what} were given: name all of them, in order"
            )
    stride = 1 if light else 32
    shape = (math.ceil(about.height / stride) * stride, math.ceil(about.width / stride) * stride)
    try:
        encoding = EncodingConfig(
            levels=options.levels,
            n_min=options.n_min,
            growth=options.growth,
            features=options.feat_dim,
            table_size=options.table_size,
            extent=_extent(options, about, path),
            pixel_origin=about.pixel_origin,
            sizing="uniform",
            tables="shared" if light else "per-level",
            interpolation=_interpolation(options, about, blocks, path),
            shape=shape,
        )
        return FieldConfig(
            preset="flat" if light else "base" if options.resunet_backbone_size == "small" else "large",
            encoding=encoding,
            time=_time(options, path),
            decoder=_decoder(options, blocks),
            bands=options.out_channels,
            activation="relu" if options.final_activation == "ReLU" else "none",
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "model"
        raise ArtifactError(f"{path} describes a field that cannot be built: {where}: {first['msg']}") from error


def _decoder(options: Options, blocks: int) -> DecoderConfig:
    if isinstance(options, LIANetLightOptions):
        count = blocks if options.n_blocks is None else options.n_blocks
        return DecoderConfig(
            architecture="flat",
            encoder=None,
            depth=0,
            projection=options.preproj_channels,
            widths=(256,) * (1 + count),
            features=128,
            halo=2 * count + 2,  # every 3x3 convolution reaches one pixel, two of them in the reconstruction layer
        )
    small = options.resunet_backbone_size == "small"
    return DecoderConfig(
        architecture="resunet",
        encoder="resnet50" if small else "resnet101",
        depth=5,
        projection=options.preproj_channels,
        widths=(512, 256, 256, 256) if small else (512, 512, 512, 512),
        features=128,
        halo=64,
    )


def _time(options: Options, path: Path) -> IndexTime | SinusoidalTime | FourierTime | MlpTime:
    if isinstance(options, LIANetOptions) or options.time_mode == "index":
        return IndexTime(kind="index", count=options.timestamp_dim)
    if options.time_mode == "mlp":
        if options.time_input_dim != 3:
            raise ArtifactError(
                f"{path}: model.time_input_dim is {options.time_input_dim}, expected 3 (days, and sine and cosine of the day"
                " of the year): what other inputs mean is not published"
            )
        return MlpTime(kind="mlp", hidden=options.time_mlp_hidden, layers=3)
    if options.time_mode == "sinusoidal":
        return SinusoidalTime(kind="sinusoidal", frequencies=options.num_time_frequencies)
    return FourierTime(kind="fourier", frequencies=options.num_time_frequencies)


def _extent(options: Options, about: About, path: Path) -> int:
    said = options.complete_tile_size
    extent = about.extent if said is None else said
    if extent is None:
        raise ArtifactError(
            f"{path} does not say model.complete_tile_size: give the extent, the mosaic_width it was trained with, in pixels"
        )
    if about.extent not in (None, extent):
        raise ArtifactError(f"{path}: model.complete_tile_size is {said}, but the extent was given as {about.extent}")
    return extent


def _interpolation(options: Options, about: About, blocks: int, path: Path) -> Literal["bilinear", "mean"]:
    """How four nodes are weighed.

    v1.0.1 to v2.1.0 always interpolate, v3.0 always takes the mean, later releases read `bilinear`. `n_blocks` came with
    v4.0.0; without it, two blocks are older than v3.0.0 and three are not. The extent per call came after v4.2.0.
    """
    said: Literal["bilinear", "mean"] | None = None
    if isinstance(options, LIANetOptions):
        said = "bilinear"
    elif options.n_blocks is not None or options.complete_tile_size is None:
        said = "bilinear" if options.bilinear else "mean"
    elif blocks == 2:
        said = "bilinear"
    elif not options.bilinear:
        said = "mean"
    if said is None and about.interpolation is None:
        raise ArtifactError(
            f"{path} does not say which release read model.bilinear: give the interpolation, mean for v3.0.0 and v3.0.1,"
            " bilinear for v4.0.0 and later"
        )
    if said is not None and about.interpolation not in (None, said):
        raise ArtifactError(f"{path} describes {said} interpolation, but it was given as {about.interpolation}")
    return said or about.interpolation or "bilinear"


def _read_json(path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"the key {twice[0]!r} appears twice")
        return dict(pairs)

    def no_constant(text: str) -> None:
        raise ValueError(f"{text} is no number")

    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise ArtifactError(f"{path} is {size} bytes long, expected at most {_MAX_BYTES}: it is no {OPTIONS_FILE}")
        document = json.loads(path.read_bytes(), object_pairs_hook=unique, parse_constant=no_constant)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise ArtifactError(f"{path} is no JSON object: expected the file that the training wrote beside its results")
    return document


def _resolved(value: Any, document: dict[str, Any], where: str) -> Any:
    for _ in range(16):
        if not isinstance(value, str) or "${" not in value:
            return value
        match = _REFERENCE.fullmatch(value)
        found: Any = document
        for key in match[1].split(".") if match else [value]:
            found = found.get(key, _NOTHING) if isinstance(found, dict) else _NOTHING
        if found is _NOTHING:
            raise ArtifactError(f"{where} is {value!r}, which refers to nothing in the file")
        value = found
    raise ArtifactError(f"{where} refers to itself")
