"""What a pixel's colour means: labels and answers, classes and numbers, as images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from lianet_user.files.header import IGNORE, ClassEntry, Numbers
from lianet_user.labels import Labels
from lianet_user.labels.label_map import PixelValues
from lianet_user.maps.picture import class_image, number_image
from lianet_user.maps.style import RAMP

STEPS = 6
"""Colours of numbers that a key names."""

SPARSE, DOT = 0.02, 100
"""Where less of the view than this bears labels, each is drawn as a dot of at least one part in so many of the view's
longer side."""

OPACITY = 0.65
"""Of labels over an image."""

Image = NDArray[np.uint8]
"""(height, width, 3)."""


def numbers_of(labels: Labels) -> Numbers | None:
    """What a picture of numbers spans; None of classes."""
    summary = labels.report.numbers
    return None if summary is None else Numbers(low=summary.minimum, high=summary.maximum)


def number_steps(numbers: Numbers) -> list[tuple[float, str]]:
    """A few numbers and their colours, the highest first."""
    shares = np.linspace(1, 0, STEPS)
    return [(numbers.low + share * (numbers.high - numbers.low), to_hex(RAMP(share))) for share in shares.tolist()]


def colored(values: PixelValues, classes: Sequence[ClassEntry], numbers: Numbers | None) -> Image:
    """Labels or answers (height, width) in the colours of numbers, or of classes where these are None."""
    return class_image(values, classes) if numbers is None else number_image(values, numbers)


def over(image: Image, values: PixelValues, classes: Sequence[ClassEntry], numbers: Numbers | None) -> Image:
    """Labels over an image of the same size, which shows through; where they are few they are dots instead."""
    shown = dotted(values)
    opacity = (
        1.0 if labelled(values).mean() < SPARSE else OPACITY
    )  # dots are small enough to see the ground beside them
    mixed = opacity * colored(shown, classes, numbers) + (1 - opacity) * image
    return np.where(labelled(shown)[..., None], mixed.astype(np.uint8), image)


def labelled(values: PixelValues) -> NDArray[np.bool_]:
    """Where there is a class or a number."""
    return values != IGNORE if values.dtype == np.uint8 else np.isfinite(values)


def dotted(values: PixelValues) -> PixelValues:
    """Labels as they are, or where they are too few to be seen, each grown to a dot; the nearest label wins.

    Args:
        values: (height, width) uint8 with IGNORE, or float with NaN.
    """
    borne = labelled(values)
    if borne.mean() >= SPARSE:
        return values
    radius = max(1.0, max(values.shape) / DOT / 2)
    distance, (rows, cols) = distance_transform_edt(~borne, return_indices=True)
    return np.where(distance <= radius, values[rows, cols], values)


def class_pixels(labels: Labels) -> NDArray[np.int64]:
    """Labelled pixels of each class, all dates together; none of numbers."""
    counts = np.zeros(256, np.int64)
    for each in labels.maps if labels.classes else ():
        counts += np.bincount(each.values.ravel(), minlength=256)
    return counts[: len(labels.classes)]
