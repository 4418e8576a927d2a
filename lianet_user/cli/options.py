"""The options that several commands share, each declared once: running, maps, labels and training.

A group of options is a function whose keyword parameters are the options; :func:`option_group` turns it into a decorator
that gives them to a command.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lianet_user.errors import InputError, did_you_mean
from lianet_user.labels.label_options import AskedTask, LabelOptions, OnConflict

if TYPE_CHECKING:
    from lianet_user.files.header import HeadHeader, RegionHeader
    from lianet_user.finetuning import FinetuneSettings
    from lianet_user.labels import Labels, Split
    from lianet_user.maps import MapArea

Command = Callable[..., None]


def grouped(panel: str, help_text: str, *names: str, metavar: str | None = None, **more: Any) -> Any:
    """An option that the help shows in a panel of its own."""
    return typer.Option(*names, help=help_text, metavar=metavar, rich_help_panel=panel, **more)


def option_group(name: str, build: Callable[..., Any], prefix: str = "") -> Callable[[Command], Command]:
    """A decorator that gives a command all parameters of `build` in the place of its parameter `name`.

    Args:
        name: of the command's parameter, which receives what `build` makes of the options.
        build: keyword-only parameters, declared as Typer wants them.
        prefix: put before their names, for a command that has options of these names already.
    """
    shared = [
        each.replace(name=prefix + each.name, kind=inspect.Parameter.KEYWORD_ONLY)
        for each in inspect.signature(build, eval_str=True).parameters.values()
    ]

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)

        @functools.wraps(command)
        def wrapper(**arguments: Any) -> None:
            chosen = {each.name.removeprefix(prefix): arguments.pop(each.name) for each in shared}
            command(**arguments, **{name: build(**chosen)})

        kept = [parameter for each, parameter in own.parameters.items() if each != name]
        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*kept, *shared)]
        wrapper.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        return wrapper

    return decorate


# --- Single options: how a command runs, and which region it reads.

RUNNING = "Running"
Overwrite = Annotated[bool, grouped(RUNNING, "Replace outputs that exist.", "--overwrite")]
Quiet = Annotated[bool, grouped(RUNNING, "Print nothing but errors and warnings.", "--quiet", "-q")]
Resume = Annotated[bool, grouped(RUNNING, "Go on from where an interrupted run stopped.", "--resume")]
AsJson = Annotated[bool, grouped(RUNNING, "Print the result as JSON, for machines.", "--json")]
DEVICES = ("auto", "cpu", "cuda")


def _known_device(name: str) -> str:
    if name not in DEVICES:
        raise InputError(f"--device {name!r}: expected auto, cpu or cuda{did_you_mean(name, DEVICES)}")
    return name


Device = Annotated[str, grouped(RUNNING, "Where to compute: auto, cpu or cuda.", callback=_known_device)]
ComputedIn = Annotated[
    str,
    grouped(
        RUNNING,
        "auto, or float32: slower where the processor has bfloat16, and the same on every machine but for rounding.",
        "--precision",
        metavar="KIND",
    ),
]
Date = Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="Acquisition of the region to work on.")]


RegionName = Annotated[
    str,
    typer.Argument(metavar="REGION", help="Region file (.safetensors), or the name of a model (`models list`)."),
]
RegionOption = Annotated[
    str | None,
    typer.Option(metavar="REGION", help="Region file or name, where the head's region is not in its recorded place."),
]


# --- Maps: where to map, and how to write.

WHERE, WHAT, HOW = "Where", "What", "How it is written"


@dataclass(frozen=True)
class AreaOptions:
    """The options that say where to map."""

    given: dict[str, Any]
    """By their names in MapArea."""

    def area(self) -> MapArea:
        from lianet_user.maps import MapArea

        return MapArea(**self.given)


@dataclass(frozen=True)
class WritingOptions:
    """The options that say how maps are written."""

    overwrite: bool
    resume: bool
    creation_options: dict[str, str]

    @property
    def arguments(self) -> dict[str, Any]:
        """The options as keyword arguments of the functions that write maps."""
        return dataclasses.asdict(self)


def _area_options(
    *,
    bbox: Annotated[str | None, grouped(WHERE, "Box to map. Default: the whole region.", metavar="W,S,E,N")] = None,
    bbox_crs: Annotated[
        str | None, grouped(WHERE, "Coordinate reference system of --bbox. Default: EPSG:4326, degrees.", metavar="CRS")
    ] = None,
    aoi: Annotated[
        Path | None, grouped(WHERE, "Vectors: map only pixels whose centres lie in their polygons.", metavar="FILE")
    ] = None,
    like: Annotated[Path | None, grouped(WHERE, "Raster: map on exactly its grid.", metavar="FILE")] = None,
    dst_crs: Annotated[
        str | None,
        grouped(WHERE, "Coordinate reference system of the map. Default: the region's, not resampled.", metavar="CRS"),
    ] = None,
    resolution: Annotated[
        float | None, grouped(WHERE, "Pixel size of the map in units of its CRS. Default: the region's.")
    ] = None,
    strict: Annotated[bool, grouped(WHERE, "Refuse an area that lies partly outside the region.", "--strict")] = False,
) -> AreaOptions:
    from lianet_user.geo.grid import parse_bbox

    if bbox is None and bbox_crs is not None:
        raise InputError(
            f"--bbox-crs {bbox_crs} says what the numbers of --bbox are, and there is none: give both or neither"
        )
    given = {
        "bbox": parse_bbox(bbox) if bbox is not None else None,
        "bbox_crs": "EPSG:4326" if bbox_crs is None else bbox_crs,
        "aoi": aoi,
        "like": like,
        "crs": dst_crs,
        "resolution": resolution,
        "strict": strict,
    }
    return AreaOptions(given)


maps_an_area = option_group("area_options", _area_options)
"""For commands with a parameter `area_options`, an AreaOptions."""


def _writing_options(
    *,
    creation: Annotated[
        list[str] | None, grouped(HOW, "Creation option of GDAL's COG driver.", "--co", metavar="KEY=VALUE")
    ] = None,
    overwrite: Annotated[bool, grouped(HOW, "Replace outputs that exist.", "--overwrite")] = False,
    resume: Annotated[
        bool, grouped(HOW, "Go on from where an interrupted run of the same command stopped.", "--resume")
    ] = False,
) -> WritingOptions:
    return WritingOptions(overwrite, resume, dict(_creation_option(text) for text in creation or []))


writes_maps = option_group("writing_options", _writing_options)
"""For commands with a parameter `writing_options`, a WritingOptions."""


def _creation_option(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"--co {text!r}: expected KEY=VALUE, for instance --co COMPRESS=ZSTD")
    return key.upper(), value


# --- Labels: how they are read.

LabelsPath = Annotated[
    Path,
    typer.Argument(
        metavar="LABELS",
        help="Labels: GeoPackage, Shapefile (zipped too), File Geodatabase, GeoJSON, FlatGeobuf, GeoParquet, a table of"
        " points (CSV), or a raster.",
    ),
]


FILE, MEANING, PIXELS, TIME = "Labels: the file", "Labels: what they mean", "Labels: pixels", "Labels: dates"


def _label_options(
    *,
    field: Annotated[str | None, grouped(FILE, "Column that holds the classes or numbers.")] = None,
    layer: Annotated[str | None, grouped(FILE, "Layer of the file, where it has several.")] = None,
    where: Annotated[
        str | None, grouped(FILE, "Condition that features meet, as \"area > 500 AND kind = 'x'\".")
    ] = None,
    labels_crs: Annotated[str | None, grouped(FILE, "CRS of a file that states none.", metavar="EPSG:n")] = None,
    encoding: Annotated[str | None, grouped(FILE, "Character encoding of a shapefile or a table.")] = None,
    band: Annotated[int | None, grouped(FILE, "Band of a raster, from 1.")] = None,
    nodata: Annotated[
        list[float] | None, grouped(FILE, "Value of a raster that means no data, besides the stated one (repeat it).")
    ] = None,
    task: Annotated[AskedTask, grouped(MEANING, "Classes, numbers, or the share of a pixel that is covered.")] = "auto",
    classes: Annotated[
        Path | None, grouped(MEANING, "Order, names and colours: CSV with code, name, color; or a QGIS style (.qml).")
    ] = None,
    mapping: Annotated[
        list[str] | None,
        grouped(
            MEANING,
            "Rename or merge a label; with nothing after the sign, drop it (repeat it).",
            "--map",
            metavar="OLD=NEW",
        ),
    ] = None,
    background: Annotated[
        str | None, grouped(MEANING, "Class of what bears no label inside --labelled-area.", metavar="NAME")
    ] = None,
    labelled_area: Annotated[
        str | None,
        grouped(
            MEANING, "Polygons inside which everything was mapped; 'region' if the whole region was.", metavar="FILE"
        ),
    ] = None,
    rule: Annotated[Literal["majority", "center"], grouped(PIXELS, "Which class owns a mixed pixel.")] = "majority",
    all_touched: Annotated[bool, grouped(PIXELS, "A polygon labels every pixel it touches.", "--all-touched")] = False,
    min_coverage: Annotated[
        float, grouped(PIXELS, "Share of a pixel that its class has to cover.", metavar="SHARE")
    ] = 0.5,
    on_conflict: Annotated[OnConflict, grouped(PIXELS, "What holds where features contradict each other.")] = "ignore",
    buffer: Annotated[
        float, grouped(PIXELS, "Metres around points and lines that bear their label.", metavar="METRES")
    ] = 0.0,
    scale: Annotated[
        int, grouped(PIXELS, "4: labels on a grid of a quarter of the region's pixel.", metavar="1|4")
    ] = 1,
    date: Annotated[
        list[str] | None,
        grouped(TIME, "Acquisition the labels describe (repeat it), or 'all'.", metavar="YYYY-MM-DD"),
    ] = None,
    date_field: Annotated[str | None, grouped(TIME, "Column with the date that each feature describes.")] = None,
    date_tolerance: Annotated[
        int, grouped(TIME, "Days a date may be away from the acquisition taken for it.", metavar="DAYS")
    ] = 0,
) -> LabelOptions:
    """The options as :class:`LabelOptions`.

    Raises:
        InputError: two options contradict each other.
    """
    if all_touched and rule == "center":
        raise InputError("--all-touched and --rule center both say who owns a mixed pixel: give one of them")
    if scale not in (1, 4):
        raise InputError(f"--scale {scale}: expected 1, the region's grid, or 4, a grid of a quarter of its pixel")
    return LabelOptions(
        field=field,
        layer=layer,
        where=where,
        labels_crs=labels_crs,
        encoding=encoding,
        band=band,
        nodata=tuple(nodata or ()),
        task=task,
        classes=classes,
        mapping=tuple(_renaming(text) for text in mapping or ()),
        background=background,
        labelled_area=labelled_area,
        rule="all-touched" if all_touched else rule,
        min_coverage=min_coverage,
        on_conflict=on_conflict,
        buffer=buffer,
        scale=scale,  # type: ignore[arg-type]  # checked above
        dates=tuple(date or ()),
        date_field=date_field,
        date_tolerance=date_tolerance,
    )


def _renaming(text: str) -> tuple[str, str | None]:
    old, sign, new = (part.strip() for part in text.partition("="))
    if not sign or not old:
        raise InputError(f"--map {text!r}: expected OLD=NEW, or OLD= to drop a label")
    return old, new or None


reads_labels = option_group("labels_options", _label_options)
"""For commands with a parameter `labels_options`, a LabelOptions."""


# --- Training: how heads are trained and validated.

TRAINING, JUDGING = "Training", "Validation"


@dataclass(frozen=True)
class SplitOptions:
    """The options that choose the ground for validation; None where one was not given."""

    validation: float | None
    seed: int | None
    block: int | None
    split_buffer: int | None
    test_area: Path | None

    @property
    def trained(self) -> float:
        """Share of the labelled blocks that is trained on."""
        from lianet_user.labels import SHARE

        return 1 - (self.validation or SHARE)

    def split(self, labels: Labels, region: RegionHeader, settings: FinetuneSettings) -> Split:
        """Split the labelled ground into ground to train on and ground to validate on.

        Raises:
            LabelError: the labels cannot be split, or the test area cannot be used.
        """
        from lianet_user.labels import split_labels

        return split_labels(labels, share=settings.validation, seed=settings.seed, **self.arguments(region))

    def folds(self, labels: Labels, region: RegionHeader, settings: FinetuneSettings, count: int) -> tuple[Split, ...]:
        """The parts of a cross-validation.

        Raises:
            LabelError: the labels cannot be split, or the test area cannot be used.
        """
        from lianet_user.labels import split_folds

        return split_folds(labels, count, seed=settings.seed, **self.arguments(region))

    def arguments(self, region: RegionHeader) -> dict[str, Any]:
        """The options as keyword arguments of :func:`lianet_user.labels.split_labels` and `split_folds`.

        Raises:
            LabelError: the test area cannot be used.
        """
        from lianet_user.labels import read_test_area

        test = None if self.test_area is None else read_test_area(self.test_area, region)
        return {"block": self.block, "buffer": self.split_buffer, "test": test}


OF_LAYERS = {"loss", "steps", "members", "rate", "batch", "crop", "label_smoothing", "dropout", "widths", "patience"}
"""Settings that say how the layers of a head are trained, and mean nothing to its pixel models."""


@dataclass(frozen=True)
class TrainingOptions:
    """The options that say how heads are trained."""

    preset: str
    given: dict[str, Any]
    """Settings by name."""

    def settings(
        self,
        labels: Labels,
        region: RegionHeader,
        split: SplitOptions,
        trained: float,
        start: HeadHeader | None = None,
    ) -> FinetuneSettings:
        """The settings of the preset, or with a head to train on its own, and what was typed in their place.

        Args:
            labels: to train on and to judge by.
            region: that they lie in.
            split: what was typed about it.
            trained: share of the labels that is trained on.
            start: the head to train on.

        Raises:
            InputError: the preset is unknown or not for such labels, or the prior cannot be read.
        """
        from lianet_user.finetuning import FinetuneSettings
        from lianet_user.finetuning.priors import parse_prior
        from lianet_user.finetuning.settings import settings_for

        chosen = FinetuneSettings.continuing(start) if start else settings_for(self.preset, labels, region, trained)
        given = self.given | {
            name: value for name, value in (("validation", split.validation), ("seed", split.seed)) if value is not None
        }
        if "steps" in given:
            given["epochs"] = None
        if chosen.pixel_share == 1 and not start and OF_LAYERS & given.keys():
            given = {"pixel_share": None} | given  # whoever says how layers are trained wants some
        if "prior" in given:
            given["prior"] = parse_prior(given["prior"], start.classes if start else labels.classes)
        return dataclasses.replace(chosen, **given)


def _split_options(
    *,
    validation: Annotated[
        float | None, grouped(JUDGING, "Share of the labelled blocks kept for validation. Default: 0.2, or that of --from.", min=0.05, max=0.5)
    ] = None,
    block: Annotated[
        int | None, grouped(JUDGING, "Pixels along the side of the blocks that are kept as a whole. Default: 128, halved where the labels ask for it.", min=8)
    ] = None,
    split_buffer: Annotated[
        int | None, grouped(JUDGING, "Pixels around what is kept that are not trained on. Default: 10, or less where blocks are small.", min=0)
    ] = None,
    test_area: Annotated[
        Path | None, grouped(JUDGING, "Polygons set aside for a last test that nothing is chosen by.", metavar="FILE")
    ] = None,
    seed: Annotated[
        int | None,
        grouped(
            JUDGING, "Seed of every random draw. Default: 0, or that of the head that training goes on from.", min=0
        ),
    ] = None,
) -> SplitOptions:
    return SplitOptions(validation, seed, block, split_buffer, test_area)


splits_labels = option_group("split_options", _split_options)
"""For commands with a parameter `split_options`, a SplitOptions."""


def _training_options(
    *,
    preset: Annotated[
        str,
        grouped(
            TRAINING,
            "auto, or as the paper trained a task: land-cover, leaf-type, canopy-height, building-density, building-mask,"
            " crops, burn-scars.",
        ),
    ] = "auto",
    loss: Annotated[
        str | None,
        grouped(
            TRAINING,
            "cross-entropy (default for classes), focal, dice, lovasz, or for numbers l1 (default), mse (default for coverage),"
            " huber; several are summed with a +.",
        ),
    ] = None,
    steps: Annotated[int | None, grouped(TRAINING, "Training steps of each member. Default: 150 to 1000, by the labels.", min=1)] = None,
    members: Annotated[int | None, grouped(TRAINING, "Heads whose answers are averaged. Default: 1 to 3, by the labels.", min=1, max=64)] = None,
    rate: Annotated[float | None, grouped(TRAINING, "Learning rate. Default: 0.003, for numbers 0.001.", min=0.0)] = None,
    batch: Annotated[int | None, grouped(TRAINING, "Crops per step. Default: 8.", min=1)] = None,
    crop: Annotated[int | None, grouped(TRAINING, "Pixels along the side of a crop. Default: 32, where labels hold at all dates 24.", min=8)] = None,
    prior: Annotated[
        str | None,
        grouped(
            TRAINING,
            "How frequent the classes are taken to be: labels (as in the labels; the default), tempered (the square roots of"
            " that), equal, or area:FILE, a table with the columns class and area.",
            metavar="PRIOR",
        ),
    ] = None,
    instant: Annotated[
        bool, grouped(TRAINING, "Only models of single pixels, without layers: a head in seconds.", "--instant")
    ] = False,
    label_smoothing: Annotated[
        float | None, grouped(TRAINING, "Label smoothing of the cross-entropy. Default: 0.", min=0.0, max=0.9)
    ] = None,
    dropout: Annotated[
        float | None, grouped(TRAINING, "Share of the inputs that each step drops. Default: 0, where labels hold at all dates 0.1.", min=0.0, max=0.9)
    ] = None,
    deep: Annotated[
        bool, grouped(TRAINING, "Eleven convolutions, the paper's later head, instead of six.", "--deep")
    ] = False,
    patience: Annotated[
        int | None, grouped(TRAINING, "Stop a member after so many validations without an improvement. Default: never.", min=1)
    ] = None,
) -> TrainingOptions:
    """The options as :class:`TrainingOptions`.

    Raises:
        InputError: two options contradict each other.
    """
    given = {
        name: value
        for name, value in locals().items()
        if value is not None and name not in ("preset", "deep", "instant")
    }
    if instant:
        of_layers = [name for name in given if name != "prior"] + ["deep"] * deep + ["preset"] * (preset != "auto")
        if of_layers:
            named_options = " and ".join(f"--{name.replace('_', '-')}" for name in of_layers)
            raise InputError(f"--instant has no layers, which {named_options} would train: give one or the other")
        given["pixel_share"] = 1.0
    if deep:
        from lianet_user.field.config import DEEP_WIDTHS

        given["widths"] = DEEP_WIDTHS
    return TrainingOptions(preset, given)


trains_heads = option_group("training_options", _training_options)
"""For commands with a parameter `training_options`, a TrainingOptions."""
