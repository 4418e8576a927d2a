"""A checkpoint of the authors' code -> a region file: tensors only, every one of them expected by name and shape.

`used_parameters.json` says how the model was built. The authors have two classes. `LIANet` (release v1.0.1) is the paper's
field. `LIANetLight` (v1.1.0 and later) has a flat decoder, one table for all levels and four time encodings. Their releases
read some options differently and do not record their version; what that leaves open has to be given in :class:`About`.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import pickle
import re
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from lianet_user.errors import ArtifactError, InputError
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
from lianet_user.field.model import NeuralField
from lianet_user.field.weights import save_region
from lianet_user.files.artifact import refuse_existing, software_versions
from lianet_user.files.header import GridHeader, Provenance, RegionHeader
from lianet_user.paper_import.about import About

_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that distributed training and compilation add to every name."""

_SAME = (
    (r"^decoder\.projection\.", "preproj."),
    (r"^reconstruction\.layers\.", "final_layer."),
    (r"^grid\.tables$", "encoder.tables"),
)
_PAPER = (
    *_SAME,
    (r"^time\.", "time_emb."),
    (r"^decoder\.encoder\.conv1\.", "resunet.encoder.initial.0."),
    (r"^decoder\.encoder\.bn1\.", "resunet.encoder.initial.1."),
    (r"^decoder\.encoder\.layer(\d)\.", r"resunet.encoder.encoder\1."),
    (r"^decoder\.up\.(\d)\.", r"resunet.block_\1."),
    (r"^decoder\.last_up\.", "resunet.upsample_final.1."),
    (r"^decoder\.last_block\.", "resunet.res_block_final."),
    (r"^decoder\.out\.", "resunet.final_conv."),
)
_LIGHT = (
    *_SAME,
    (r"^time\.weight$", "time_encoder.emb.weight"),
    (r"^time\.frequencies$", "time_encoder.freqs"),
    (r"^time\.layer\.", "time_encoder.proj."),
    (r"^time\.layers\.", "time_encoder.net."),
    (r"^decoder\.out\.", "light_head.proj."),
    (r"^decoder\.(stem|blocks)\.", r"light_head.\1."),
)


def published_name(ours: str, architecture: str) -> str:
    """What the authors' code calls a tensor of a :class:`NeuralField` with a decoder of that architecture."""
    for pattern, theirs in _PAPER if architecture == "resunet" else _LIGHT:
        if re.match(pattern, ours):
            return re.sub(pattern, theirs, ours)
    raise KeyError(ours)


def import_checkpoint(
    folder: Path,
    output: Path,
    about: About,
    checkpoint: Path | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    overwrite: bool = False,
) -> RegionHeader:
    """Write the region file of a field that the authors' code encoded.

    Args:
        folder: with `used_parameters.json`, and the checkpoint in it or in its folder `model_checkpoints`.
        output: region file to write.
        about: what the checkpoint does not say.
        checkpoint: the file to take where the folder holds several.
        dtype: to store the weights in; float32 keeps them as they are.
        overwrite: replace an earlier file.

    Raises:
        ArtifactError: a file cannot be read, is not what their code writes, or contradicts `about`.
        InputError: a value of `about` is not valid in a header.
        OutputError: the file exists or cannot be written.
    """
    options_path = folder / OPTIONS_FILE
    options = read_options(options_path)
    path = checkpoint or _find(folder)
    tensors = _read_tensors(path)
    numbers = [int(match[1]) for name in tensors if (match := re.match(r"light_head\.blocks\.(\d{1,2})\.", name))]
    config = field_config(options, about, max(numbers, default=-1) + 1, options_path)
    field = _filled(config, options, about, tensors, path)
    refuse_existing(output, overwrite)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        header = RegionHeader(
            name=about.name,
            title=about.title or about.name,
            description=about.description,
            grid=GridHeader.of(about.geobox),
            bands=about.scaled_bands,
            acquisitions=about.dates,
            field=config,
            licence=about.licence,
            attribution=about.attribution,
            provenance=Provenance(
                created=dt.datetime.now(dt.UTC).replace(microsecond=0),
                source=about.source or "a checkpoint of the authors' code",
                settings={
                    "imported_from": path.name,
                    "imported_sha256": sha256,
                    **options.model_dump(exclude_unset=True),
                },
                software=software_versions("torch"),
            ),
            lineage=uuid.uuid4().hex,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"the region's {'.'.join(map(str, first['loc']))} cannot be used: {first['msg']}") from error
    save_region(output, header, field, dtype)
    return header


def _find(folder: Path) -> Path:
    files = sorted(path for place in (folder, folder / "model_checkpoints") for path in place.glob("*.pt"))
    if len(files) == 1:
        return files[0]
    if not files:
        raise ArtifactError(f"{folder} holds no checkpoint (*.pt), nor does its folder model_checkpoints")
    names = ", ".join(str(path.relative_to(folder)) for path in files[:5])
    raise ArtifactError(f"{folder} holds {len(files)} checkpoints ({names}): choose one with `checkpoint`")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the model's tensors by the names in the authors' classes. Nothing in the file is executed."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        with file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what matters is an error below
            document = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArtifactError(
            f"{path} holds more than tensors and numbers, or was cut off, and was not loaded: expected a checkpoint as"
            " torch.save writes it, with the weights under 'model_state_dict'"
        ) from error
    except Exception as error:  # a damaged file makes torch raise anything
        raise ArtifactError(
            f"{path} is not a whole PyTorch checkpoint ({type(error).__name__}): get it again"
        ) from error
    state = document.get("model_state_dict", document) if isinstance(document, Mapping) else document
    if not isinstance(state, Mapping) or not state:
        raise ArtifactError(f"{path} holds no weights: expected tensors by name, or such under 'model_state_dict'")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ArtifactError(f"{path}: {name!r} is a {type(value).__name__}, expected tensors by name")
    tensors = dict(state)
    while prefix := next((p for p in _WRAPPERS if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _filled(config: FieldConfig, options: Options, about: About, tensors: dict[str, Tensor], path: Path) -> NeuralField:
    """The field with the checkpoint's weights.

    Raises:
        ArtifactError: a tensor is missing, extra, misshapen, or does not hold weights.
    """
    with torch.device("meta"):  # shapes first: a wrong description must not cost memory
        field = NeuralField(config)
    architecture = config.decoder.architecture
    expected = {published_name(name, architecture): (name, t) for name, t in field.state_dict().items()}
    shapes = {theirs: tuple(tensor.shape) for theirs, (_, tensor) in expected.items()}
    rows, features = config.encoding.table_size, config.encoding.features
    actual = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    shapes["encoder.tables"] = (rows, features)
    if isinstance(options, LIANetOptions):
        shapes["encoder.tables"] = (config.encoding.levels, rows, features)
    elif options.num_regions is not None or len(actual.get("encoder.tables", ())) == 3:  # after v4.2.0
        shapes["encoder.tables"] = (options.num_regions or 1, rows, features)
    wrong = sorted(name for name in shapes.keys() | actual.keys() if shapes.get(name) != actual.get(name))
    if wrong:
        name = wrong[0]
        if name not in actual:
            problem = "is missing"
        elif name not in shapes:
            problem = "is not part of the field that it describes"
        else:
            problem = f"has shape {actual[name]}, expected {shapes[name]}"
        raise ArtifactError(
            f"{path} does not fit {OPTIONS_FILE}: {len(wrong)} tensors are missing, extra or misshapen, first {name!r}, which"
            f" {problem}"
        )
    tables = tensors["encoder.tables"]
    if not isinstance(options, LIANetOptions):
        tables = _one_region(tables, about, path)
    state: dict[str, Any] = {}
    for theirs, (ours, template) in expected.items():
        tensor = tables.flatten(0, -2) if theirs == "encoder.tables" else tensors[theirs]
        counter = theirs.endswith("num_batches_tracked")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_floating_point() == counter:
            raise ArtifactError(
                f"{path}: tensor {theirs!r} holds no numbers of its kind ({tensor.dtype}, {tensor.layout})"
            )
        tensor = tensor.to(template.dtype)
        if not tensor.isfinite().all():
            raise ArtifactError(
                f"{path}: tensor {theirs!r} holds NaN or infinity: training failed, or the file is damaged: get it again"
            )
        state[ours] = tensor
    field.load_state_dict(state, assign=True)
    return field.eval()


def _one_region(tables: Tensor, about: About, path: Path) -> Tensor:
    """The table (T, F) of the selected region."""
    count = tables.shape[0] if tables.dim() == 3 else 1
    index = 0 if about.region_index is None and count == 1 else about.region_index
    if index is None:
        raise ArtifactError(f"{path} holds {count} regions and none was chosen: give `region_index`, 0 to {count - 1}")
    if index >= count:
        raise ArtifactError(f"{path} holds {count} regions, numbered from 0: there is no `region_index` {index}")
    return tables[index] if tables.dim() == 3 else tables


# --- `used_parameters.json`: the options of the authors' model, as a configuration of ours.


OPTIONS_FILE = "used_parameters.json"
_MAX_BYTES = 2**20
_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
_NOTHING = object()

Count = Annotated[int, Field(ge=1, le=2**26)]
Activation = Literal["ReLU", "none"] | None


class _Options(Schema):
    """Options of both classes."""

    timestamp_dim: Count
    levels: Count
    n_min: Count
    growth: float
    table_size: Count
    feat_dim: Count
    out_channels: Count
    preproj_channels: Count | None


class LIANetOptions(_Options):
    """Options of the paper's field."""

    complete_tile_size: Count
    resunet_backbone_size: Literal["small", "large"]
    bilinear: bool
    """Unused by that class: it always interpolates."""
    final_activation: Activation = "ReLU"


class LIANetLightOptions(_Options):
    """Options of the later releases' field; some exist in certain releases only."""

    time_mode: Literal["index", "sinusoidal", "fourier_learned", "mlp"]
    num_time_frequencies: Count
    time_input_dim: Count | None
    time_mlp_hidden: Count
    complete_tile_size: Count | None = None
    """Up to v4.2.0; later the extent is an argument of every call."""
    resunet_backbone_size: str = "small"
    """Unused by that class."""
    bilinear: bool = True
    hash_vectorized: bool = True
    """From v3.0.0. Without it the release mixes up the pixels and levels of a window, and the field is unusable."""
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
        ArtifactError: the file cannot be read, or an option is unknown, missing or invalid.
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
            problem = f"is an option that this program does not know, expected only {known}"
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
    light = options if isinstance(options, LIANetLightOptions) else None
    mode = light.time_mode if light else "index"
    counts = [("out_channels", options.out_channels, len(about.bands), "bands")]
    if mode == "index":
        counts.append(("timestamp_dim", options.timestamp_dim, len(about.dates), "dates"))
    elif timeless := [held.date for held in about.dates if held.time is None]:
        raise ArtifactError(
            f"{path}: model.time_mode is {mode!r}, which reads the time of day, and {timeless[0]} has none: give `dates` as"
            " YYYY-MM-DDTHH:MM:SS in UTC"
        )
    if light and not light.hash_vectorized:
        raise ArtifactError(
            f"{path}: model.hash_vectorized is false, expected true: without it the authors' code mixes up the pixels of a"
            " window, so what the field computes depends on the window and cannot be reproduced at another place"
        )
    for option, said, given, what in counts:
        if said != given:
            raise ArtifactError(
                f"{path}: model.{option} is {said}, but {given} `{what}` were given: name all of them, in order"
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
            f"{path} does not say model.complete_tile_size: give `extent`, the mosaic_width it was trained with, in pixels"
        )
    if about.extent not in (None, extent):
        raise ArtifactError(f"{path}: model.complete_tile_size is {said}, but `extent` was given as {about.extent}")
    return extent


def _interpolation(options: Options, about: About, blocks: int, path: Path) -> Literal["bilinear", "mean"]:
    """How the four nodes around a point are weighted.

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
            f"{path} does not say which release read model.bilinear: give `interpolation`, mean for v3.0.0 and v3.0.1,"
            " bilinear for v4.0.0 and later"
        )
    if said is not None and about.interpolation not in (None, said):
        raise ArtifactError(
            f"{path} describes {said} interpolation, but `interpolation` was given as {about.interpolation}"
        )
    return said or about.interpolation or "bilinear"


def _read_json(path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"the key {twice[0]!r} appears twice")
        return dict(pairs)

    def no_constant(text: str) -> None:
        raise ValueError(f"{text} is not a number")

    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise ArtifactError(
                f"{path} is {size} bytes long, expected at most {_MAX_BYTES}: it is not a {OPTIONS_FILE}"
            )
        document = json.loads(path.read_bytes(), object_pairs_hook=unique, parse_constant=no_constant)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise ArtifactError(
            f"{path} is not a JSON object: expected the file that the training wrote beside its results"
        )
    return document


def _resolved(value: Any, document: dict[str, Any], where: str) -> Any:
    for _ in range(16):
        if not isinstance(value, str) or "${" not in value:
            return value
        match = _REFERENCE.fullmatch(value)
        target: Any = document
        for key in match[1].split(".") if match else [value]:
            target = target.get(key, _NOTHING) if isinstance(target, dict) else _NOTHING
        if target is _NOTHING:
            raise ArtifactError(f"{where} is {value!r}, which refers to nothing in the file")
        value = target
    raise ArtifactError(f"{where} refers to itself")
