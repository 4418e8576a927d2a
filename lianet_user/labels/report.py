"""What became of every feature of a label file, and of every pixel under it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClassCount:
    """One class: the polygons used, and the pixels that bear it."""

    name: str
    polygons: int
    pixels: int


@dataclass(frozen=True)
class FeatureCounts:
    """Features of the layer. Each has exactly one fate:

    ``read = used + outside + no_geometry + not_polygons + no_label + duplicates``.
    """

    read: int
    used: int
    outside: int
    """Nowhere in the region."""
    no_geometry: int
    """Null, empty, not finite, or without any area."""
    not_polygons: int
    """Points and lines."""
    no_label: int
    """Null or blank in the column."""
    duplicates: int
    """The same geometry with the same label once more."""
    partly_outside: int
    """Used, as far as they lie in the region."""
    repaired: int
    """Used after their self-intersections were repaired."""


@dataclass(frozen=True)
class LabelReport:
    """Counts of features and of pixels."""

    source: str
    """File, layer and column."""
    column_choice: str
    """Why the classes were read from that column."""
    features: FeatureCounts
    vanished: int
    """Features used although no pixel they touch bears their class: too small, too thin, or contradicted."""
    region_pixels: int
    contradicting: int
    """Pixels that polygons of different classes cover, and that are therefore ignored."""
    classes: tuple[ClassCount, ...]
    """Every class of the features used, also one that is left out because no pixel bears it."""

    @property
    def labelled(self) -> int:
        """Pixels that bear a class."""
        return sum(entry.pixels for entry in self.classes)

    @property
    def contradicting_share(self) -> float:
        """Contradicting pixels over those that bear a class or would, were they not contradicted: 0 to 1."""
        total = self.labelled + self.contradicting
        return self.contradicting / total if total else 0.0

    def lines(self) -> list[str]:
        """The report as a person reads it, one fact a line; what did not occur is not mentioned."""
        features = self.features
        lines = [
            f"Labels: {self.source} ({self.column_choice})",
            f"Features: {features.read} read, {features.used} used",
        ]
        facts = (
            (features.outside, "dropped: outside the region"),
            (features.no_geometry, "dropped: no geometry, or one without area"),
            (features.not_polygons, "dropped: points or lines, where polygons are expected"),
            (features.no_label, "dropped: no label"),
            (features.duplicates, "dropped: exact duplicates (same geometry, same label)"),
            (features.partly_outside, "used, but only as far as they lie in the region"),
            (features.repaired, "used, after repairing self-intersections"),
            (self.vanished, "used, but no pixel they touch bears their class (too small or contradicted)"),
        )
        lines += [f"  {count} {what}" for count, what in facts if count]
        lines.append(
            f"Pixels: {self.labelled} of {self.region_pixels} labelled ({self.labelled / self.region_pixels:.1%})"
        )
        if self.contradicting:
            lines.append(
                f"  {self.contradicting} more ignored, because polygons of different classes cover them"
                f" ({self.contradicting_share:.1%} of all pixels under labels)"
            )
        width = max(len(entry.name) for entry in self.classes)
        lines += [
            f"  {entry.name:<{width}}  {entry.pixels:>9} pixels from {entry.polygons} polygons"
            for entry in self.classes
        ]
        return lines
