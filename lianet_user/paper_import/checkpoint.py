"""The checkpoint: tensors only, every one of them expected by name and shape, written as a region file."""

from __future__ import annotations

import datetime as dt
import hashlib
import pickle
import re
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from lianet_user.errors import ArtifactError, InputError
from lianet_user.field.config import FieldConfig
from lianet_user.field.model import NeuralField
from lianet_user.field.weights import save_region
from lianet_user.files.artifact import software_versions
from lianet_user.files.header import GridHeader, Provenance, RegionHeader
from lianet_user.paper_import.about import About
from lianet_user.paper_import.options import OPTIONS_FILE, LIANetOptions, Options, field_config, read_options

_WRAPPERS = ("module.", "_orig_mod.")
"""What distributed training and compilation put in front of every name."""

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
    folder: Path, output: Path, about: About, checkpoint: Path | None = None, dtype: torch.dtype = torch.float32
) -> RegionHeader:
    """Write the region file of a field that the authors' code encoded.

    Args:
        folder: with `used_parameters.json`, and the checkpoint in it or in its folder `model_checkpoints`.
        output: region file to write.
        about: what the checkpoint does not say.
        checkpoint: the file to take where the folder holds several.
        dtype: to store the weights in; float32 keeps them as they are.

    Raises:
        ArtifactError: a file cannot be read, is not what their code writes, or does not fit what else was said.
        InputError: `about` cannot stand in a header.
        OutputError: the place cannot be written.
    """
    options_path = folder / OPTIONS_FILE
    options = read_options(options_path)
    path = checkpoint or _find(folder)
    tensors = _read_tensors(path)
    config = field_config(options, about, _blocks(tensors), options_path)
    field = _filled(config, options, about, tensors, path)
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
                    "imported_sha256": _sha256(path),
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
    found = sorted(path for place in (folder, folder / "model_checkpoints") for path in place.glob("*.pt"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise ArtifactError(f"{folder} holds no checkpoint (*.pt), nor does its folder model_checkpoints")
    names = ", ".join(str(path.relative_to(folder)) for path in found[:5])
    raise ArtifactError(f"{folder} holds {len(found)} checkpoints ({names}): choose one with --checkpoint")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """The model's tensors by the names that the authors' classes give them. Nothing in the file is executed."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        with file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; what matters is an error below
            document = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArtifactError(
            f"{path} holds more than tensors and numbers, or was cut off, and was not loaded: expected a checkpoint as"
            " torch.save writes it, with the weights under 'model_state_dict'"
        ) from error
    except Exception as error:  # whatever a damaged file makes of torch's reader
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


def _blocks(tensors: Mapping[str, Tensor]) -> int:
    """Residual blocks of a flat decoder."""
    found = [int(match[1]) for name in tensors if (match := re.match(r"light_head\.blocks\.(\d{1,2})\.", name))]
    return max(found, default=-1) + 1


def _filled(config: FieldConfig, options: Options, about: About, tensors: dict[str, Tensor], path: Path) -> NeuralField:
    """The field with the checkpoint's weights.

    Raises:
        ArtifactError: a tensor is missing, extra, misshapen or holds what is no weight.
    """
    with torch.device("meta"):  # shapes first: a wrong description must not cost memory
        field = NeuralField(config)
    architecture = config.decoder.architecture
    wanted = {published_name(name, architecture): (name, t) for name, t in field.state_dict().items()}
    shapes = {theirs: tuple(tensor.shape) for theirs, (_, tensor) in wanted.items()}
    rows, features = config.encoding.table_size, config.encoding.features
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    shapes["encoder.tables"] = (rows, features)
    if isinstance(options, LIANetOptions):
        shapes["encoder.tables"] = (config.encoding.levels, rows, features)
    elif options.num_regions is not None or len(found.get("encoder.tables", ())) == 3:  # after v4.2.0
        shapes["encoder.tables"] = (options.num_regions or 1, rows, features)
    wrong = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        problem = (
            "is missing"
            if name not in found
            else "is no part of the field that it describes"
            if name not in shapes
            else f"has shape {found[name]}, expected {shapes[name]}"
        )
        raise ArtifactError(
            f"{path} does not fit {OPTIONS_FILE}: {len(wrong)} tensors are missing, extra or misshapen, first {name!r}, which"
            f" {problem}"
        )
    tables = tensors["encoder.tables"]
    if not isinstance(options, LIANetOptions):
        tables = _one_region(tables, about, path)
    state: dict[str, Any] = {}
    for theirs, (ours, expected) in wanted.items():
        tensor = tables.flatten(0, -2) if theirs == "encoder.tables" else tensors[theirs]
        counter = theirs.endswith("num_batches_tracked")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_floating_point() == counter:
            raise ArtifactError(
                f"{path}: tensor {theirs!r} holds no numbers of its kind ({tensor.dtype}, {tensor.layout})"
            )
        tensor = tensor.to(expected.dtype)
        if not tensor.isfinite().all():
            raise ArtifactError(
                f"{path}: tensor {theirs!r} holds NaN or infinity: training had failed, or get it again"
            )
        state[ours] = tensor
    field.load_state_dict(state, assign=True)
    return field.eval()


def _one_region(tables: Tensor, about: About, path: Path) -> Tensor:
    """The table (T, F) of the region asked for."""
    count = tables.shape[0] if tables.dim() == 3 else 1
    index = 0 if about.region_index is None and count == 1 else about.region_index
    if index is None:
        raise ArtifactError(f"{path} holds {count} regions and none was chosen: give region_index, 0 to {count - 1}")
    if index >= count:
        raise ArtifactError(f"{path} holds {count} regions, numbered from 0: there is no region_index {index}")
    return tables[index] if tables.dim() == 3 else tables
