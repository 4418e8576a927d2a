"""The weights of a field or a head, and the file that holds them: which tensors, of which shapes, read without trust."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lianet_user.errors import ArtifactError, brief
from lianet_user.field.model import NeuralField
from lianet_user.files.artifact import CODEBOOK_SIZE, ArtifactFile, decode_tables, encode_tables, write_artifact
from lianet_user.files.header import RegionHeader

TABLES, CODEBOOK = "grid.tables", "grid.codebook"
"""Tensors of a region file: the tables, and the values they read where they are stored as int8."""

M = TypeVar("M", bound=nn.Module)


def stored(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that a file carries: all but BatchNorm's step counters, which nothing reads."""
    return {name: tensor for name, tensor in module.state_dict().items() if not name.endswith("num_batches_tracked")}


def read_field(file: ArtifactFile[RegionHeader]) -> NeuralField:
    """The field of a region file, as it was trained.

    Raises:
        ArtifactError: the file's tensors do not make the field that its header describes.
    """
    config = file.header.field
    return built(lambda: NeuralField(config), file, _try_field)


def built(make: Callable[[], M], file: ArtifactFile[Any], try_out: Callable[[M], object]) -> M:
    """The module that a file's header describes, with the file's tensors.

    A header is a few numbers that can ask for any amount of memory. So the module is first made without storage (torch's
    `meta` device), and made for good once the file is known to hold exactly its tensors.

    Args:
        make: what the header describes.
        file: with its tensors.
        try_out: runs it on a small input.

    Raises:
        ArtifactError: nothing can be built or computed from those numbers, or the tensors are others.
    """
    with _fitting(file), torch.device("meta"), _Unfilled():
        sketch = make().to("meta")
    check_stored(sketch, file)
    with _Unfilled():
        module = make()
    load_stored(module, file)
    with _fitting(file), torch.inference_mode():
        try_out(module.eval())
    module.train()  # as modules are made
    return module


@contextmanager
def _fitting(file: ArtifactFile[Any]) -> Iterator[None]:
    """Turn any error of a block that builds or runs a network into one about the file.

    Raises:
        ArtifactError: the numbers of the file do not make a network.
    """
    try:
        yield
    except Exception as error:
        raise ArtifactError(
            f"{file.path} describes layers that do not fit together ({brief(str(error), 200)}): get the file again"
        ) from error


class _Unfilled(TorchFunctionMode):
    """Modules are made without the random numbers that a file's tensors replace.

    Filling a tensor that has no storage makes torch import its compiler, which takes a second of every command.
    """

    FILLING = frozenset(("normal_", "uniform_", "fill_", "zero_"))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if getattr(func, "__name__", "") in self.FILLING:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def _try_field(field: NeuralField) -> None:
    config = field.config
    size = 2 * config.decoder.stride
    encoded = torch.zeros(1, config.encoding.channels, size, size)
    codes = [torch.zeros(1, config.time.codes)] if config.time.kind == "kriged" else []
    features: Tensor = field.decoder(encoded, *codes)
    bands = field.reconstruction(features)
    made, stated = (features.shape[1], bands.shape[1]), (config.decoder.features, config.bands)
    if made != stated:
        raise ValueError(
            f"it makes {made[0]} features and {made[1]} bands, the header says {stated[0]} and {stated[1]}"
        )


def check_stored(module: nn.Module, file: ArtifactFile[Any]) -> None:
    """Check that a file holds the tensors of a module, of their shapes, and no others.

    Raises:
        ArtifactError: a tensor is missing, extra or misshapen, or int8 where it cannot be.
    """
    expected = _expected(module, file)
    names = expected.keys() | file.shapes.keys()
    if wrong := sorted(name for name in names if expected.get(name) != file.shapes.get(name)):
        raise ArtifactError(
            f"{file.path} holds tensors that do not fit what its header describes: {len(wrong)} are missing, extra or"
            f" misshapen, first {brief(wrong[0])!r} ({file.shapes.get(wrong[0])}, expected {expected.get(wrong[0])}): get the"
            " file again"
        )
    coded = [
        name
        for name, dtype in file.dtypes.items()
        if dtype == np.int8 and not (CODEBOOK in expected and name == TABLES)
    ]
    if coded:
        raise ArtifactError(
            f"{file.path}: tensor {coded[0]!r} is int8, which only a region's {TABLES} may be: get the file again"
        )


def _expected(module: nn.Module, file: ArtifactFile[Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that a file of a module has; of tables as int8 the values they read are one more."""
    expected = {name: tuple(tensor.shape) for name, tensor in stored(module).items()}
    if isinstance(module, NeuralField) and file.dtypes.get(TABLES) == np.int8:
        expected[CODEBOOK] = (len(_spans(module)), expected[TABLES][1], CODEBOOK_SIZE)
    return expected


def load_stored(module: nn.Module, file: ArtifactFile[Any]) -> None:
    """Fill a module with a file's tensors, as float32; a field's tables may be stored as int8 (:func:`save_region`).

    Raises:
        ArtifactError: as in `check_stored`; or a variance is negative, or a deviation that is divided by is not positive.
    """
    check_stored(module, file)
    arrays = file.tensors()
    if CODEBOOK in _expected(module, file):
        assert isinstance(module, NeuralField)
        codebook = arrays.pop(CODEBOOK).astype(np.float32)
        arrays[TABLES] = decode_tables(arrays[TABLES], codebook, _spans(module))
    state = {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}
    for name, tensor in state.items():
        last = name.rpartition(".")[2]
        if (last == "running_var" and (tensor < 0).any()) or (last == "std" and (tensor <= 0).any()):
            raise ArtifactError(
                f"{file.path}: tensor {name!r} holds {tensor.min():.3g}, which no variance or deviation can be: get"
                " the file again"
            )
    module.load_state_dict(state, strict=False)


def save_region(
    path: str | os.PathLike[str],
    header: RegionHeader,
    field: NeuralField,
    dtype: torch.dtype = torch.float16,
    tables: Literal["same", "int8"] = "same",
) -> None:
    """Write a region file.

    Args:
        path: of the file.
        header: what it says of itself.
        field: the weights.
        dtype: to store them in: float16, which halves the file, or float32, which keeps them to the last digit.
        tables: `int8` stores the grid's tables, most of the file, as one byte a number: `grid.tables` int8 (N, F) holds
            places, -128..127, in `grid.codebook` float32 (levels, F, 256), the values chosen for each level and feature
            (one level where all share a table). `load_stored` looks them up.

    Raises:
        ArtifactError: a weight is not finite or too large for `dtype`.
        OutputError: the place cannot be written.
    """
    dtypes = {TABLES: torch.float32 if tables == "int8" else dtype}
    tensors = {name: tensor.detach().cpu().to(dtypes.get(name, dtype)) for name, tensor in stored(field).items()}
    if bad := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        kind = str(dtype).removeprefix("torch.")
        raise ArtifactError(f"the field's tensor {bad[0]!r} holds values that {kind} cannot: it was not written")
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    if tables == "int8":
        arrays[TABLES], arrays[CODEBOOK] = encode_tables(arrays[TABLES], _spans(field))
    write_artifact(path, header, arrays)


def _spans(field: NeuralField) -> list[slice]:
    """The rows of each table of the grid: one a level, or one for all where they share it."""
    return [slice(*span) for span in dict.fromkeys((span.start, span.stop) for span in field.grid.spans)]
