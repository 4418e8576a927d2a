"""A region: a neural field tied to the Earth.

Everything computed from a field, for training and for maps, goes through :class:`Region`, and obeys one rule: a pixel has
one value, whatever window it is asked in. A window of `lite` is computed with the decoder's halo around it, snapped outward
to the decoder's stride and cropped, and the halo stops at the region's border. Fields that normalise over space are
computed in patches at fixed places, and blended (:mod:`lianet_user.geo.patches`).
"""

from __future__ import annotations

import datetime as dt
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import numpy as np
import torch
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lianet_user.errors import ArtifactError, PartlyOutsideWarning, brief
from lianet_user.field.config import HeadInput, reads_a_date
from lianet_user.field.context import CONTEXT_HALO, STATISTICS, context
from lianet_user.field.decoder import LiteReconstruction, Part
from lianet_user.field.inference import Precision, answering_autocast, fold_norms
from lianet_user.field.model import NeuralField
from lianet_user.files.artifact import ArtifactFile, open_region_file, write_artifact
from lianet_user.files.codebook import SIZE as CODEBOOK_SIZE
from lianet_user.files.codebook import decode as decode_tables
from lianet_user.files.codebook import encode as encode_tables
from lianet_user.files.header import RegionHeader
from lianet_user.geo.grid import Bounds, Window, bounds_of, format_bounds, parse_crs, whole, window_of_bounds
from lianet_user.geo.patches import Parts, PatchCache, blended, field_lattice

TABLES, CODEBOOK = "grid.tables", "grid.codebook"
"""Tensors of a region file: the tables, and the values they read where they are stored as int8."""

BATCH = 16
"""Patches that a graphics card computes together; on processors several are no faster than one."""
M = TypeVar("M", bound=nn.Module)


class Region:
    """A field in evaluation mode with its header.

    Attributes:
        header: what the file says.
        field: the frozen field.
        path: of the file, None for a region that was not read from one.
        sha256: of the file's bytes, likewise.
        lattice: where the field is computed; None where it is computed window by window.
        precision: of what heads read and answer. Features and reflectance that are asked for are always float32.
    """

    def __init__(
        self,
        header: RegionHeader,
        field: NeuralField,
        path: Path | None = None,
        sha256: str | None = None,
        precision: Precision = "auto",
    ) -> None:
        self.header = header
        self.field = field.eval().requires_grad_(False)
        self.path = path
        self.sha256 = sha256
        self.precision = precision
        self.lattice = field_lattice(header.field, self.shape)
        self._patches = PatchCache()

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], device: str | torch.device = "cpu", precision: Precision = "auto"
    ) -> Self:
        """Read a region file.

        Args:
            path: of the file.
            device: to compute on.
            precision: of what heads read and answer.

        Raises:
            ArtifactError: it is no region file, or its tensors do not make the field its header describes.
        """
        file = open_region_file(path)
        field = read_field(file).to(device).eval()
        if field.config.decoder.architecture == "lite":
            fold_norms(field)
        return cls(file.header, field, Path(path).absolute(), file.sha256(), precision)

    @property
    def geobox(self) -> GeoBox:
        return self.header.grid.geobox

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.header.grid.height, self.header.grid.width

    @property
    def window(self) -> Window:
        """The whole region."""
        return whole(self.geobox)

    def window_of(self, bbox: Bounds | None, crs: str = "EPSG:4326") -> tuple[Window, float]:
        """The pixels a box touches, and the share of the box that lies outside the region; None is the whole region.

        Args:
            bbox: west, south, east, north in `crs`.
            crs: anything that names a CRS.

        Raises:
            AreaError: the box lies outside the region, or its CRS is unknown.

        Warns:
            PartlyOutsideWarning: part of the box lies outside the region.
        """
        if bbox is None:
            return self.window, 0.0
        window, outside = window_of_bounds(self.geobox, bbox, parse_crs(crs))
        if outside:
            covered = format_bounds(bounds_of(self.geobox, CRS("EPSG:4326")))
            message = (
                f"{max(outside, 0.001):.1%} of the box lies outside the region {self.header.name!r} and is not mapped: the"
                f" region covers {covered} (EPSG:4326)"
            )
            warnings.warn(message, PartlyOutsideWarning, stacklevel=3)
        return window, outside

    @property
    def device(self) -> torch.device:
        return self.field.grid.tables.device

    def channels(self, inputs: Sequence[HeadInput]) -> int:
        """Channels of :meth:`head_input`."""
        config = self.field.config
        sizes = {
            "features": config.decoder.features,
            "bands": config.bands,
            "context": STATISTICS * config.bands,
            "encoding": config.encoding.channels,
            "series": len(self.header.dates) * config.bands,
        }
        return sum(sizes[part] for part in inputs)

    @torch.inference_mode()
    def features(self, window: Window, date: dt.date | None = None, *, between: bool = False) -> Tensor:
        """What the decoder says of every pixel of a window: float32 (features, height, width).

        Args:
            window: inside the region.
            date: of an acquisition; None where the region holds only one.
            between: let a field with a continuous time estimate a date between its acquisitions.

        Raises:
            DateError: the region does not hold `date`, or cannot estimate it.
        """
        (features,) = self._computed(window, self._time(date, between), lambda features: (features,))
        return features[0]

    @torch.inference_mode()
    def reconstruct(
        self, window: Window, date: dt.date | None = None, *, between: bool = False, beyond: bool = False
    ) -> Tensor:
        """The reflectance the region remembers: float32 (bands, height, width); arguments as `features`.

        With `between` and `beyond`, dates before the first acquisition and after the last are estimated too. It is not
        negative, except in fields of the authors' later releases, which end without ReLU.
        """
        time = self.header.time_of(date, between=between, beyond=beyond)
        (bands,) = self._computed(window, time, lambda features: (self.field.reconstruction(features),))
        return bands[0]

    @torch.inference_mode()
    def patch_features(self, patch: Window, date: dt.date | None = None) -> Tensor:
        """What the decoder says of a window by itself: nothing around it is computed, nothing is blended.

        That is what the authors' code computes of a patch. Maps are not made of it: its values depend on where it lies.

        Args:
            patch: its height and width are multiples of the decoder's stride; 128 px for the paper's fields.
            date: as in `features`.

        Returns:
            float32 (features, height, width).

        Raises:
            DateError: as in `features`.
        """
        return self._field_features([patch], self._time(date))[0]

    @torch.inference_mode()
    def head_input(self, window: Window, date: dt.date | None, inputs: Sequence[HeadInput]) -> Tensor:
        """What a head reads: any of the features, remembered bands, their context, encoding and series, in this order.

        Features are ReLU(features) for the paper's decoder and the features themselves for `lite`, whose projected
        encoding has a sign (:attr:`lianet_user.field.config.FieldConfig.rectified`). Bands and context are in the units the
        reconstruction was trained in: reflectance for the paper's, each band's deviation over the region for `lite`. The
        encoding is the hash grid's, which is the same at every date, and the series the remembered bands of all dates of the
        region, one after the other: what the place looked like at all of them, before and after the decoder.

        Returns:
            float32 (channels, height, width).
        """
        parts: list[Tensor] = []
        if reads_a_date(inputs):
            parts += self._dated_input(window, date, inputs)
        if "encoding" in inputs:
            parts.append(self.field.grid([(window.row, window.col)], window.height, window.width))
        if "series" in inputs:
            for each in self.header.dates:
                parts += self._dated_input(window, each, ("bands",))
        return torch.cat(parts, 1)[0]

    def _dated_input(self, window: Window, date: dt.date | None, inputs: Sequence[HeadInput]) -> list[Tensor]:
        """The parts of :meth:`head_input` that a date decides, (1, channels, height, width) each."""
        inner = window.expanded(CONTEXT_HALO, 1, self.shape) if "context" in inputs else window
        wants_features, wants_bands = "features" in inputs, bool({"bands", "context"} & set(inputs))

        def read(decoded: Tensor) -> Parts:
            bands = (self.field.reconstruction.standardized(decoded),) if wants_bands else ()
            return (decoded.float(), *bands) if wants_features else bands

        with answering_autocast(self.device, self.precision):
            *decoded, last = self._computed(inner, self._time(date), read)
        parts = []
        if wants_features:
            features = crop(decoded[0] if wants_bands else last, window, inner)
            parts.append(features.relu() if self.field.config.rectified else features)
        if "bands" in inputs:
            parts.append(crop(last, window, inner))
        if "context" in inputs:
            parts.append(crop(context(last), window, inner))
        return parts

    def _time(self, date: dt.date | None, between: bool = False) -> int | float:
        return self.header.time_of(date, between=between)

    def _computed(self, window: Window, time: int | float, read: Callable[[Tensor], Parts]) -> Parts:
        """What `read` makes of features (1, C, h, w), over a window: (1, channels, height, width) each."""
        if self.lattice is not None:
            return blended(self.lattice, window, lambda patches: map(read, self._decoded_patches(patches, time)))
        decoder = self.field.config.decoder
        outer = window.expanded(decoder.halo, decoder.stride, self.shape)
        inner = window.expanded(LiteReconstruction.halo, decoder.stride, self.shape)
        decoded = self._field_features([outer], time, inner.within(outer).slices)
        return tuple(crop(part, window, inner) for part in read(decoded))

    def _decoded_patches(self, patches: Sequence[Window], time: int | float) -> Iterator[Tensor]:
        """Features (1, C, h, w) of each patch; those that are still known are not computed again."""
        size = BATCH if self.device.type == "cuda" else 1
        for batch in (patches[first : first + size] for first in range(0, len(patches), size)):
            known = {patch: self._patches.get((time, patch)) for patch in batch}
            if missing := [patch for patch, features in known.items() if features is None]:
                for patch, features in zip(missing, self._field_features(missing, time).split(1), strict=True):
                    # A copy: part of a batch would keep all of it in memory.
                    known[patch] = own = features.clone() if len(missing) > 1 else features
                    self._patches.put((time, patch), own)
            for patch in batch:
                features = known[patch]
                assert features is not None
                yield features

    def _field_features(self, windows: Sequence[Window], time: int | float, keep: Part | None = None) -> Tensor:
        """Features (B, C, h, w) of windows of one size, each by itself, or of a part of each."""
        kind = torch.float64 if isinstance(time, float) else torch.int64
        times = torch.tensor([time] * len(windows), dtype=kind, device=self.device)
        corners = [(window.row, window.col) for window in windows]
        return self.field.features(corners, windows[0].height, windows[0].width, times, keep=keep)


def crop(values: Tensor, window: Window, outer: Window) -> Tensor:
    """The part of an array over `outer` (its last two axes) that lies in `window`."""
    return values[(..., *window.within(outer).slices)]


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
    """
    Raises:
        ArtifactError: in place of whatever torch says of numbers that make no network.
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
    found, wanted = (features.shape[1], bands.shape[1]), (config.decoder.features, config.bands)
    if found != wanted:
        raise ValueError(
            f"it makes {found[0]} features and {found[1]} bands, the header says {wanted[0]} and {wanted[1]}"
        )


def check_stored(module: nn.Module, file: ArtifactFile[Any]) -> None:
    """Whether a file holds the tensors of a module, of their shapes and no others.

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
                f"{file.path}: tensor {name!r} holds {tensor.min():.3g}, and what varies cannot do so by less than nothing: get"
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
    wanted = {TABLES: torch.float32 if tables == "int8" else dtype}
    tensors = {name: tensor.detach().cpu().to(wanted.get(name, dtype)) for name, tensor in stored(field).items()}
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


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB for reflectance, whose peak is 1.0."""
    return -10.0 * math.log10(max(mse, 1e-12))
