"""The options that say how heads are trained and judged: declared once, for every command that trains heads."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lianet_user.cli.console import grouped, option_group

if TYPE_CHECKING:
    from lianet_user.files.header import HeadHeader, RegionHeader
    from lianet_user.finetuning import FinetuneSettings
    from lianet_user.labels import Labels, Split

TRAINING, JUDGING = "Training", "Validation"


@dataclass(frozen=True)
class SplitOptions:
    """What was typed about the ground to judge by; None where nothing was."""

    validation: float | None
    seed: int | None
    block: int | None
    split_buffer: int | None
    test_area: Path | None

    @property
    def trained(self) -> float:
        """Share of the labelled blocks that is not kept for validation."""
        from lianet_user.labels import SHARE

        return 1 - (self.validation or SHARE)

    def split(self, labels: Labels, region: RegionHeader, settings: FinetuneSettings) -> Split:
        """The ground to train on and the ground to judge by.

        Raises:
            LabelError: the labels cannot be split, or the test area is none.
        """
        from lianet_user.labels import split_labels

        return split_labels(labels, share=settings.validation, seed=settings.seed, **self.words(region))

    def folds(self, labels: Labels, region: RegionHeader, settings: FinetuneSettings, count: int) -> tuple[Split, ...]:
        """The parts of a cross-validation.

        Raises:
            LabelError: the labels cannot be split, or the test area is none.
        """
        from lianet_user.labels import split_folds

        return split_folds(labels, count, seed=settings.seed, **self.words(region))

    def words(self, region: RegionHeader) -> dict[str, Any]:
        """What was said about every split, by the names of :func:`lianet_user.labels.split_labels`.

        Raises:
            LabelError: the test area is none.
        """
        from lianet_user.labels import read_test_area

        test = None if self.test_area is None else read_test_area(self.test_area, region)
        return {"block": self.block, "buffer": self.split_buffer, "test": test}


@dataclass(frozen=True)
class TrainingOptions:
    """What was typed about the training."""

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
            InputError: the preset is unknown, or not for such labels.
        """
        from lianet_user.finetuning import FinetuneSettings
        from lianet_user.finetuning.settings import settings_for

        chosen = (
            FinetuneSettings.continuing(start)
            if start
            else settings_for(self.preset, labels, region, trained, self.given.get("steps"))
        )
        given = self.given | {
            name: value for name, value in (("validation", split.validation), ("seed", split.seed)) if value is not None
        }
        if "steps" in given:
            given["epochs"] = None
        return dataclasses.replace(chosen, **given)


def _split_options(
    *,
    validation: Annotated[
        float | None, grouped(JUDGING, "Share of the labelled blocks kept for validation.", min=0.05, max=0.5)
    ] = None,
    block: Annotated[
        int | None, grouped(JUDGING, "Pixels along the side of the blocks that are kept as a whole.", min=8)
    ] = None,
    split_buffer: Annotated[
        int | None, grouped(JUDGING, "Pixels around what is kept that are not trained on.", min=0)
    ] = None,
    test_area: Annotated[
        Path | None, grouped(JUDGING, "Polygons set aside for a last test that nothing is chosen by.", metavar="FILE")
    ] = None,
    seed: Annotated[
        int | None, grouped(JUDGING, "Of every random draw. Default: 0, or that of the head trained on.", min=0)
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
            "cross-entropy, focal, dice, lovasz, or for numbers l1, mse, huber; several are summed with a +.",
        ),
    ] = None,
    steps: Annotated[int | None, grouped(TRAINING, "Training steps of each member.", min=1)] = None,
    members: Annotated[int | None, grouped(TRAINING, "Heads that answer together.", min=1, max=64)] = None,
    rate: Annotated[float | None, grouped(TRAINING, "Learning rate.", min=0.0)] = None,
    batch: Annotated[int | None, grouped(TRAINING, "Crops per step.", min=1)] = None,
    crop: Annotated[int | None, grouped(TRAINING, "Pixels along the side of a crop.", min=8)] = None,
    class_weight: Annotated[
        float | None, grouped(TRAINING, "Classes weigh their frequency to the power of minus this.", min=0.0, max=1.0)
    ] = None,
    label_smoothing: Annotated[float | None, grouped(TRAINING, "Of cross-entropy.", min=0.0, max=0.9)] = None,
    dropout: Annotated[
        float | None, grouped(TRAINING, "Share of the inputs that a step leaves out.", min=0.0, max=0.9)
    ] = None,
    deep: Annotated[
        bool, grouped(TRAINING, "Eleven convolutions, the paper's later head, instead of six.", "--deep")
    ] = False,
    patience: Annotated[
        int | None, grouped(TRAINING, "Stop a member after so many looks at validation without a better one.", min=1)
    ] = None,
) -> TrainingOptions:
    named = {
        "loss": loss,
        "steps": steps,
        "members": members,
        "rate": rate,
        "batch": batch,
        "crop": crop,
        "class_weight": class_weight,
        "label_smoothing": label_smoothing,
        "dropout": dropout,
        "patience": patience,
    }
    given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    if deep:
        from lianet_user.field.head import DEEP_WIDTHS

        given["widths"] = DEEP_WIDTHS
    return TrainingOptions(preset, given)


trains_heads = option_group("training_options", _training_options)
"""For commands with a parameter `training_options`, a TrainingOptions."""
