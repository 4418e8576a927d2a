"""How regions are encoded and updated: every number of the training, with defaults for every preset. No torch here.

What is wrong with an argument is therefore told at once.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from lianet_user.errors import InputError, did_you_mean
from lianet_user.field.config import PRESETS, TemporalCovariance
from lianet_user.imagery.imagery import Imagery

TimeKind = Literal["index", "sinusoidal", "fourier", "mlp", "kriged"]

AtLeastOne = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=32)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

PAPER_PIXELS = 5000 * 5000
PAPER_EPOCHS = 225
PAPER_STEPS = PAPER_EPOCHS * 16_000
"""Of the paper's area, epochs of 1,024,000 windows in batches of 64 (section 4.1)."""
PAPER_WARMUP_EPOCHS = 5
ENOUGH_DATES = 12


@dataclass(frozen=True, kw_only=True)
class RegionWords:
    """What a provider says about a region, in words."""

    name: str
    title: str
    licence: str
    attribution: str
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Steps and learning rates of a training.

    Attributes:
        steps: how many there are at most.
        target_db: stop when the windows since the last report are reconstructed as well as this.
        table_rate: learning rate of the tables and of the time encoding.
        rate: of everything else.
        warmup: steps over which the rates rise, after which they follow a cosine down to zero.
        frozen_norm: share of the steps after which BatchNorm keeps its statistics.
        checkpoint_every: steps between checkpoints at most; slow ones are kept by the clock.
        report_every: steps between reports of the PSNR.
    """

    steps: int
    target_db: float | None
    table_rate: float
    rate: float
    warmup: int
    frozen_norm: float
    checkpoint_every: int
    report_every: int


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """How a field is built and trained; None takes what suits the preset and the imagery (:meth:`completed`).

    What a shipped region was encoded with stands in the script beside it and in its header.
    """

    preset: str = "lite"
    steps: AtLeastOne | None = None
    """At most; by default 2000 for `lite`, for the others the paper's in proportion to the area."""
    target_db: float | None = None
    """Stop when the windows of the last `report_every` steps are reconstructed as well as this."""
    batch: AtLeastOne | None = None
    """Windows per step, of all processes together; by default 8 for `lite`, 64 for the others."""
    window: Side = 128
    """Pixels along the side of a window, less where the area is smaller."""
    table_rate: Rate | None = None
    rate: Rate | None = None
    """Learning rates of the tables and of the rest: 3e-3 and 1e-3 for `lite`, half of that with time codes, which start
    closer; 5e-4 for the others."""
    warmup: Annotated[int, Field(ge=0)] | None = None
    """Steps over which the rates rise: 100 for `lite`, the paper's share of the steps for the others."""
    frozen_norm: Share | None = None
    """Share of the steps after which BatchNorm keeps its statistics, so that training ends on what maps are made with: 0.5
    for `lite`; the others never."""
    start: Literal["pyramid", "noise"] | None = None
    """`pyramid` (`lite` only): tables start from the imagery; by default where the imagery fits into memory."""
    time: TimeKind | None = None
    """How dates enter; by default `kriged` for `lite` with several, else `index`."""
    codes: AtLeastOne = 32
    """Length of a time code, at most one less than there are dates (`kriged`)."""
    frequencies: AtLeastOne = 16
    """Of `sinusoidal` and `fourier`."""
    hidden: AtLeastOne = 64
    """Width of `mlp`."""
    left_out: Share | None = None
    """Share of windows that are reconstructed with the time code estimated from the other dates (`kriged`): 0.3, and 0 where
    there are fewer than a dozen dates, which tell too little about each other."""
    covariance: TemporalCovariance = field(default_factory=TemporalCovariance)
    """Of two acquisitions, by the time between them (`kriged`)."""
    features: AtLeastOne | None = None
    """Per table entry."""
    table_size: AtLeastOne | None = None
    """Entries a level of the grid may have."""
    tables: Literal["same", "int8"] = "same"
    """How they are stored: `int8` takes half the space, and costs a fraction of a decibel."""
    widths: tuple[int, int, int] | None = None
    """Of the decoder's up-blocks, coarse to fine (`lite`)."""
    seed: Seed = 0
    memory_gb: NotNegative = 4.0
    """Imagery up to this size is held in memory, larger imagery is read window by window."""
    workers: AtLeastOne = 2
    """Threads that read windows ahead."""
    checkpoint_every: AtLeastOne = 100
    report_every: AtLeastOne = 100

    def check(self) -> None:
        """Refuse what no imagery can be encoded with.

        Raises:
            InputError: there is no such preset.
        """
        if self.preset not in PRESETS:
            raise InputError(
                f"`preset` {self.preset!r}: expected one of {', '.join(PRESETS)}{did_you_mean(self.preset, PRESETS)}"
            )

    def completed(self, imagery: Imagery, *, resident: bool) -> PretrainSettings:
        """The settings with a value wherever the imagery and the preset decide.

        Args:
            imagery: to encode.
            resident: whether it is held in memory.

        Raises:
            InputError: an unknown preset, or settings that contradict each other.
        """
        self.check()
        lite, dates = self.preset == "lite", len(imagery.acquisitions)
        coded = lite and dates > 1 and self.time in (None, "kriged")
        steps = self.steps or (2000 if lite else math.ceil(PAPER_STEPS * imagery.window.pixels / PAPER_PIXELS))
        defaults: dict[str, Any] = {
            "steps": steps,
            "batch": 8 if lite else 64,
            "table_rate": (1.5e-3 if coded else 3e-3) if lite else 5e-4,
            "rate": 1e-3 if lite and not coded else 5e-4,
            "warmup": min(100, steps) if lite else math.ceil(steps * PAPER_WARMUP_EPOCHS / PAPER_EPOCHS),
            "frozen_norm": 0.5 if lite else 1.0,
            "start": "pyramid" if lite and resident else "noise",
            "time": "kriged" if coded else "index",
            "left_out": 0.3 if dates >= ENOUGH_DATES else 0.0,
        }
        chosen = dataclasses.replace(self, **{k: v for k, v in defaults.items() if getattr(self, k) is None})
        if chosen.widths and not lite:
            raise InputError(
                f"`widths` can be chosen for the preset lite only, those of {self.preset} are the paper's: omit them"
            )
        if chosen.start == "pyramid" and not lite:
            raise InputError(f"`start` pyramid is made for the preset lite: give noise with {self.preset}")
        if chosen.start == "pyramid" and not resident:
            raise InputError(
                "`start` pyramid needs the imagery in memory, and it is larger than `memory_gb` allows: raise that, or give"
                " noise"
            )
        if chosen.time == "kriged" and not (lite and dates > 1):
            raise InputError("`time` kriged is made for the preset lite with two dates or more: give index")
        return chosen

    @property
    def schedule(self) -> Schedule:
        """The steps and learning rates of completed settings."""
        names = {each.name for each in dataclasses.fields(Schedule)}
        return Schedule(**{name: value for name, value in dataclasses.asdict(self).items() if name in names})


@dataclass(frozen=True, kw_only=True)
class UpdateSettings:
    """How a region learns new dates."""

    steps: AtLeastOne = 600
    target_db: float | None = None
    """Stop when the windows of the last `report_every` steps, old and new, are reconstructed as well as this."""
    batch: AtLeastOne = 8
    """Windows per step, half of them at new dates and half at old ones."""
    replay: bool = True
    """Train on the reconstruction of the old dates too. Without it the field loses them: for comparison only."""
    window: Side = 128
    """Pixels along the side of a window, less where the area is smaller, or the field was trained on smaller ones; a field
    with statistics over space goes on with windows of the size that it was trained on."""
    table_rate: Rate = 2e-3
    rate: Rate = 5e-4
    warmup: int = 50
    tables: Literal["same", "int8"] = "same"
    """How the tables are stored: `int8` takes half the space."""
    seed: Seed = 0
    memory_gb: NotNegative = 4.0
    workers: AtLeastOne = 2
    checkpoint_every: AtLeastOne = 100
    report_every: AtLeastOne = 100

    @property
    def schedule(self) -> Schedule:
        """BatchNorm keeps the statistics that the region was encoded with."""
        names = {each.name for each in dataclasses.fields(Schedule)} & {each.name for each in dataclasses.fields(self)}
        return Schedule(**{name: getattr(self, name) for name in names}, frozen_norm=0.0)


FREE_SETTINGS = {"checkpoint_every", "report_every", "memory_gb", "workers", "target_db", "tables"}
"""Settings that do not affect any step: a run may be resumed with other values."""


def checkpoint_path(output: Path) -> Path:
    """Where an unfinished run towards `output` keeps its state."""
    return output.with_name(f".{output.stem}.checkpoint")
