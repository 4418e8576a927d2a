"""What came of comparing models: figures under every split, and the table that sums them up."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from lianet_user.header import AnyScores

LIANET: Final = "lianet"
"""The contender that all others are put beside."""


@dataclass(frozen=True)
class Figure:
    """A column of the table."""

    name: str
    title: str
    higher_is_better: bool


CLASS_FIGURES: Final = (
    Figure("macro_f1", "macro F1", True),
    Figure("accuracy", "accuracy", True),
    Figure("macro_iou", "macro IoU", True),
)
NUMBER_FIGURES: Final = (Figure("mae", "MAE", False), Figure("rmse", "RMSE", False), Figure("r2", "R2", True))


@dataclass(frozen=True)
class Outcome:
    """One contender under one split."""

    contender: str
    split: int
    seconds: float
    """Of training and of answering where it was judged; what is read was computed before."""
    scores: AnyScores


@dataclass(frozen=True)
class Row:
    """A row of the table: a contender's figures over all splits."""

    contender: str
    reads: str
    means: dict[str, float | None]
    """By the name of the figure."""
    deviations: dict[str, float | None]
    """From split to split; None of a single one."""
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """What came of all contenders.

    Attributes:
        figures: columns, the one that decides first.
        reads: of every contender, in the order of the table: what it needs.
        outcomes: of every contender and split.
        labelled: labels that were read, each counted at each of its dates.
        left_out: those of them that no contender learned from or was judged by, because imagery or features are not valid.
    """

    figures: tuple[Figure, ...]
    reads: dict[str, str]
    outcomes: tuple[Outcome, ...]
    labelled: int
    left_out: int

    def rows(self) -> tuple[Row, ...]:
        """The table."""
        rows = []
        for name, reads in self.reads.items():
            own = [outcome for outcome in self.outcomes if outcome.contender == name]
            found = {figure.name: self._values(own, figure) for figure in self.figures}
            rows.append(
                Row(
                    name,
                    reads,
                    {figure: float(np.mean(values)) if values else None for figure, values in found.items()},
                    {f: float(np.std(values, ddof=1)) if len(values) > 1 else None for f, values in found.items()},
                    float(np.mean([outcome.seconds for outcome in own])),
                )
            )
        return tuple(rows)

    def best(self, figure: Figure) -> float | None:
        """Of a column."""
        known = [mean for row in self.rows() if (mean := row.means[figure.name]) is not None]
        return (max if figure.higher_is_better else min)(known, default=None)

    def sentence(self) -> str:
        """What it comes to."""
        first = self.figures[0]
        sign = 1 if first.higher_is_better else -1
        known = {row.contender: mean for row in self.rows() if (mean := row.means[first.name]) is not None}
        ranked = sorted(known, key=lambda name: -sign * known[name])
        others = [name for name in ranked if not name.startswith(LIANET)]
        ours = [name for name in ranked if name.startswith(LIANET)]
        if not known:
            return "Nothing could be judged."
        if not ours or not others:
            return f"Best by {first.title}: {ranked[0]}, {known[ranked[0]]:.3f}."
        one, other = ours[0], others[0]
        ahead, splits = self._ahead(one, other, first)
        ratio = f", {known[one] / known[other]:.2f} times that" if known[other] > 0 else ", beside that"
        return (
            f"{one}, which needs no imagery, has a mean {first.title} of {known[one]:.3f}{ratio} of the best of the others"
            f" ({other}, {known[other]:.3f}); it is ahead in {ahead} of {splits} splits."
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "labelled": self.labelled,
            "left_out": self.left_out,
            "table": [dataclasses.asdict(row) for row in self.rows()],
            "splits": [
                {**dataclasses.asdict(each), "scores": each.scores.model_dump(mode="json")} for each in self.outcomes
            ],
            "sentence": self.sentence(),
        }

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """One line for each contender: means, deviations, seconds."""
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            columns = [text for f in self.figures for text in (f.name, f"{f.name}_deviation")]
            writer.writerow(["contender", "reads", *columns, "seconds"])
            for row in self.rows():
                values = [v for f in self.figures for v in (row.means[f.name], row.deviations[f.name])]
                writer.writerow([row.contender, row.reads, *values, row.seconds])

    def _values(self, outcomes: Sequence[Outcome], figure: Figure) -> list[float]:
        found = [getattr(outcome.scores, figure.name) for outcome in outcomes]
        return [value for value in found if value is not None]

    def _ahead(self, one: str, other: str, figure: Figure) -> tuple[int, int]:
        """In how many of how many splits one contender is better than another."""
        found: dict[int, dict[str, float]] = {}
        for outcome in self.outcomes:
            if (value := getattr(outcome.scores, figure.name)) is not None:
                found.setdefault(outcome.split, {})[outcome.contender] = value
        pairs = [(each[one], each[other]) for each in found.values() if one in each and other in each]
        return sum((a > b) if figure.higher_is_better else (a < b) for a, b in pairs), len(pairs)
