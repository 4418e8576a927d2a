"""How heads are trained: the settings of every task, as data.

`auto` is ours: class-balanced crops for classes and plain ones for numbers, a one-cycle rate, several members. The others
are the paper's (section 3.4 and its later releases), and differ in numbers only.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from lianet_user.errors import InputError, did_you_mean
from lianet_user.field.config import PAPER_WIDTHS, SLIM_WIDTHS, HeadInput, reads_a_date
from lianet_user.files.header import HeadHeader, RegionHeader
from lianet_user.finetuning.priors import Prior, check_prior, recalled_prior
from lianet_user.labels import SHARE, Labels
from lianet_user.labels.effort import FEW_PIXELS
from lianet_user.labels.label_options import Task

CROSS_ENTROPY: Final = "cross-entropy"
LOSS_KINDS: Final[dict[str, Literal["classes", "numbers"]]] = {
    CROSS_ENTROPY: "classes",
    "focal": "classes",
    "dice": "classes",
    "lovasz": "classes",
    "l1": "numbers",
    "mse": "numbers",
    "huber": "numbers",
}
"""The labels that each of :data:`lianet_user.finetuning.losses.LOSSES` is for."""


def check_loss(name: str, *, classes: bool, label_smoothing: float = 0.0) -> list[str]:
    """The losses that a name joins by +.

    Args:
        name: of :data:`LOSS_KINDS`, or several.
        classes: whether labels are classes, and not numbers.
        label_smoothing: that is asked for.

    Raises:
        InputError: no loss has that name, it is for another kind of labels, or it does not take smoothing.
    """
    kind = "classes" if classes else "numbers"
    names = [part.strip() for part in name.split("+")]
    possible = [known for known, its in LOSS_KINDS.items() if its == kind]
    for part in names:
        if part not in LOSS_KINDS:
            raise InputError(
                f"`loss` {name!r}: there is no loss {part!r}; for {kind} give one of {', '.join(possible)}, or several"
                f" joined by +{did_you_mean(part, possible)}"
            )
        if LOSS_KINDS[part] != kind:
            raise InputError(
                f"`loss` {name!r}: {part} is for {LOSS_KINDS[part]} and the labels are {kind}: give one of"
                f" {', '.join(possible)}"
            )
    if CROSS_ENTROPY not in names and label_smoothing != 0:
        raise InputError(f"`loss` {name!r} takes no label smoothing: only {CROSS_ENTROPY} does, alone or in a sum")
    if not 0 <= label_smoothing < 1:
        raise InputError(f"label smoothing {label_smoothing:g} is not a share: expected 0 to below 1")
    return names


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """How a head is trained. The defaults were chosen on splits that the benchmarks do not use."""

    inputs: tuple[HeadInput, ...] = ("features", "bands", "context")
    widths: tuple[int, ...] = PAPER_WIDTHS
    """Channels after each hidden convolution."""
    norm: Literal["group", "batch", "channel"] = "batch"
    """See :class:`lianet_user.field.config.HeadConfig`."""
    standardize: bool = True
    """Scale what is read to the mean 0 and the standard deviation 1 over all windows, channel by channel."""
    members: int = 2
    """Heads trained from different seeds, whose answers are averaged."""
    loss: str = "auto"
    """See :data:`lianet_user.finetuning.losses.LOSSES`; names joined by + are summed. `auto`: cross-entropy for classes,
    Huber for numbers."""
    label_smoothing: float = 0.0
    """Share of a label that cross-entropy spreads over all classes."""
    prior: Prior = "labels"
    """How frequent the head takes the classes to be, however often training shows them: a word of
    :data:`lianet_user.finetuning.priors.PRIOR_POWERS`, or the share of each class in their order."""
    closed_form: float | None = None
    """Share of the closed form in the answer (:mod:`lianet_user.finetuning.closed_form`): 0 has none, 1 nothing else; None
    takes what suits the validation ground best."""
    refit: bool = False
    """Train once more on all labels, after the validation."""
    sampling: Literal["balanced", "windows"] = "balanced"
    """`balanced`: crops around labelled pixels, class by class in turn, turned and mirrored. `windows`: every window of
    :data:`lianet_user.labels.BLOCK` px and its margin once an epoch, a random crop of it (the paper's)."""
    steps: int = 500
    """Per member; with `epochs` they follow from it."""
    epochs: int | None = None
    batch: int = 8
    """Crops per step."""
    crop: int = 32
    """Pixels of the region along the side of a crop."""
    rate: float = 3e-3
    weight_decay: float = 1e-2
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    """`cosine`: a warm-up, then epoch by epoch down to 1 % of the rate (the paper's)."""
    warmup: float = 0.2
    """Share of the steps over which the rate rises."""
    complete_windows: bool = False
    """Leave out windows that are not labelled completely (the paper, for land cover)."""
    clip: float | None = None
    """Largest norm of a step's gradient."""
    dropout: float = 0.0
    """Share of the input channels that a step leaves out, drawn anew each time."""
    leaky: bool = False
    """Numbers are scaled from 0 or their lowest and end with LeakyReLU, as the paper's; else to a median of 0 and a
    deviation of 1."""
    number_scale: float | None = None
    """With `leaky`, numbers are divided by this before training; None takes the range of the labels."""
    validation: float = SHARE
    """Share of the labelled blocks that is kept for validation."""
    validate_every: int = 100
    """Steps between looks at the validation ground."""
    keep_best: bool = False
    """Keep the state that looked best on the validation ground, and not the last one; always so with `patience`."""
    patience: int | None = None
    """Stop a member after so many looks without a better one; None trains to the end."""
    seed: int = 0

    @property
    def dated(self) -> bool:
        """Whether what a head reads depends on the date."""
        return reads_a_date(self.inputs)

    def check(self, labels: Labels) -> None:
        """Refuse what no head of such labels can have, before anything is computed.

        Raises:
            InputError: there is a single class, the prior is not one of these classes, the loss is not for such labels, or
                there can be no such closed form.
        """
        if len(labels.classes) == 1:
            raise InputError(
                f"{labels.report.source} holds a single class ({labels.classes[0].name!r}), expected two or more to train a"
                " head: label what is not that class too"
            )
        check_prior(self.prior, labels.classes)
        if self.loss != "auto":
            check_loss(self.loss, classes=bool(labels.classes), label_smoothing=self.label_smoothing)
        if self.closed_form is not None and not 0 <= self.closed_form <= 1:
            raise InputError(f"`closed_form` {self.closed_form:g}: expected its share in the answer, 0 to 1")
        if self.closed_form and (self.norm == "group" or self.leaky):
            raise InputError(
                "`closed_form` stands beside no layers with `norm` group and no `leaky` numbers, as the paper's tasks have"
                " them: give 0"
            )
        if self.closed_form == 1 and labels.scale != 1:
            raise InputError(
                f"`closed_form` reads pixels of the region, and the labels are {labels.scale} times as fine: omit `scale`, or"
                " train layers"
            )

    @classmethod
    def continuing(cls, header: HeadHeader) -> Self:
        """How a head is trained on by default: gently, and validated on the same ground as before if the labels are the same.

        Half the steps at a third of the rate: a head of half the Havelland's labels, trained on with all, went from macro F1
        0.67 to 0.70 so, and to 0.69 with all steps at either rate, in twice the time (one member, one split).

        Args:
            header: of the head: its layers are kept, and its prior and its share and seed of the split where it states them.
        """
        fresh, stated = cls(), header.provenance.settings
        share, seed = stated.get("validation"), stated.get("seed")
        return cls(
            inputs=header.head.inputs,
            widths=header.head.widths,
            norm=header.head.norm,
            members=header.head.members,
            steps=fresh.steps // 2,
            rate=fresh.rate / 3,
            prior=recalled_prior(stated.get("prior"), header.classes) or fresh.prior,
            closed_form=(1.0 if header.head.members == 0 else None) if header.head.closed_form else 0.0,
            leaky=header.head.output == "number",
            validation=share if isinstance(share, float) and 0 < share < 1 else fresh.validation,
            seed=seed if isinstance(seed, int) and seed >= 0 else fresh.seed,
        )


SOLVED = ("inputs", "standardize", "prior", "closed_form", "refit", "validation", "seed")
"""The settings that a head without layers has."""


@dataclass(frozen=True)
class TaskPreset:
    """A task of the paper: what labels it takes, and how it is trained."""

    title: str
    kind: Task
    settings: FinetuneSettings
    scale: Literal[1, 4] = 1
    """How many times as fine as the region's the grid of the labels is."""


PUBLISHED = FinetuneSettings(
    inputs=("features",),
    norm="group",
    standardize=False,
    members=1,
    prior="labels",
    closed_form=0.0,
    leaky=True,
    keep_best=True,
    sampling="windows",
    epochs=50,
    batch=32,
    crop=128,
    rate=1e-3,
    weight_decay=1e-2,
    schedule="cosine",
    warmup=3 / 50,
    clip=1.0,
)
"""What the paper's tasks share: windows of 160 px cropped to 128 at random, six layers on the features alone."""


def _published(title: str, kind: Task, scale: Literal[1, 4] = 1, **numbers: object) -> TaskPreset:
    return TaskPreset(title, kind, dataclasses.replace(PUBLISHED, **numbers), scale)  # type: ignore[arg-type]


TASKS = {
    "land-cover": _published("land cover at each date", "segmentation", loss="cross-entropy", complete_windows=True),
    "leaf-type": _published("dominant leaf type, for all dates", "segmentation", loss="cross-entropy"),
    "canopy-height": _published("canopy height in metres", "regression", loss="l1", rate=5e-5, number_scale=30.0),
    "building-density": _published("share covered by buildings", "coverage", loss="huber", rate=5e-5),
    "building-mask": _published("buildings on a grid four times as fine", "segmentation", 4, loss="cross-entropy"),
    "crops": _published("crop types", "segmentation", loss="cross-entropy", rate=1e-4, epochs=60, warmup=0.0),
    "burn-scars": _published("burn scars", "segmentation", loss="cross-entropy", rate=1e-4, warmup=0.0),
}
"""The tasks of the paper and of its later releases, by name."""

AUTO = "auto"


def settings_for(preset: str, labels: Labels, region: RegionHeader, trained: float = 1 - SHARE) -> FinetuneSettings:
    """The settings of a task; `auto` chooses by the labels.

    Args:
        preset: `auto`, or of :data:`TASKS`.
        labels: to train on and to judge by.
        region: that the labels lie in.
        trained: share of the labels that is trained on.

    Raises:
        InputError: there is no such task, or the labels do not suit it.
    """
    if preset == AUTO:
        pixels = trained * labels.report.labelled / labels.scale**2
        chosen = CLASSES if labels.classes else SHARES if labels.task == "coverage" else NUMBERS
        if labels.lasting and region.field.decoder.architecture == "lite":
            chosen = dataclasses.replace(chosen, **LASTING)
        if pixels < FEW_PIXELS:
            return dataclasses.replace(chosen, closed_form=1.0 if labels.scale == 1 else None)
        return dataclasses.replace(chosen, **MANY) if pixels >= MANY_PIXELS else chosen
    if preset not in TASKS:
        raise InputError(
            f"`preset` {preset!r}: expected {AUTO} or one of {', '.join(TASKS)}{did_you_mean(preset, TASKS)}"
        )
    task = TASKS[preset]
    if (labels.task, labels.scale) != (task.kind, task.scale):
        raise InputError(
            f"`preset` {preset} is for {task.kind} on a grid {task.scale} times as fine as the region's, and the labels are"
            f" read as {labels.task}, {labels.scale} times as fine: give `task` {task.kind} and `scale` {task.scale}, or"
            " another preset"
        )
    return task.settings


MANY_PIXELS = 200_000
"""With as many pixels to train on, a part of the labels shows all that there is to learn, and training once more on the rest
only takes time."""

CLASSES = FinetuneSettings(widths=SLIM_WIDTHS, norm="channel", members=1, refit=True)
"""`auto` for classes. Layers of these widths are as good as the paper's, in half the time."""

NUMBERS = dataclasses.replace(CLASSES, widths=PAPER_WIDTHS, members=2, loss="l1", rate=1e-3, steps=250)
"""`auto` for numbers."""

SHARES = dataclasses.replace(NUMBERS, loss="mse")
"""`auto` for covered shares. Most pixels are covered not at all or wholly, and `l1` rewards the more frequent of the two: the
head of tutorial 6, of forest that covers a quarter of the ground, answered 0 everywhere with the loss `l1`: on the ground set
aside its mean absolute error was 0.20 and its bias -0.20. With squared errors, whose best answer is the mean, 0.10 and 0.00."""

MANY: dict[str, Any] = {"refit": False, "steps": 1000, "validate_every": 125}
"""What `auto` changes where there are very many labels."""

LASTING: dict[str, Any] = {
    "inputs": ("encoding", "series"),
    "norm": "channel",
    "crop": 24,
    "steps": 150,
    "members": 3,
    "dropout": 0.1,
}
"""`auto` for labels that hold at all of several dates: the encoding of a `lite` field and its bands at all dates describe what
a place looked like over all of them. Read together, they tell more than the dates read one by one."""
