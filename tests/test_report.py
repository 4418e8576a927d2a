"""Figures: they show the right place in the right colours, whatever the shape of the region."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import RegionHeaderFactory
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from odc.geo.geobox import GeoBox
from test_maps import CLASSES, make_head

from lianet_user import report
from lianet_user.errors import OutputError
from lianet_user.grid import Window
from lianet_user.head import Head
from lianet_user.header import IGNORE, Band, ClassScore, Scores
from lianet_user.labels import ClassCount, FeatureCounts, LabelMap, LabelReport
from lianet_user.maps import picture
from lianet_user.maps.style import rgb
from lianet_user.training.samples import BLOCK

SCORES = Scores(
    pixels=100,
    accuracy=0.9,
    macro_iou=0.5,
    macro_f1=0.654,
    classes=tuple(
        ClassScore(name=entry.name, pixels=50, iou=0.5, accuracy=0.5, f1=f1)
        for entry, f1 in zip(CLASSES, (0.876, 0.543, None), strict=True)
    ),
    confusion=((1, 0, 0), (0, 1, 0), (0, 0, 1)),
)


def label_map(geobox: GeoBox, values: np.ndarray) -> LabelMap:
    counts = tuple(ClassCount(entry.name, 1, int((values == n).sum())) for n, entry in enumerate(CLASSES))
    features = FeatureCounts(3, 3, 0, 0, 0, 0, 0, 0, 0)
    about = LabelReport("labels.gpkg", "chosen", features, 0, values.size, 0, counts)
    return LabelMap(geobox, values, CLASSES, about, "", "labels.gpkg")


@pytest.fixture(scope="module")
def kept() -> dict[str, Head]:
    return {}


@pytest.fixture
def head(region_header: RegionHeaderFactory, tmp_path_factory: pytest.TempPathFactory, kept: dict[str, Head]) -> Head:
    """Made once, because it takes a second or two and nothing changes it."""
    if not kept:
        kept["head"] = make_head(region_header(), tmp_path_factory.mktemp("head"), scores=SCORES)
    return kept["head"]


@pytest.fixture
def labels(head: Head) -> LabelMap:
    values = np.full(head.region.shape, IGNORE, np.uint8)
    values[5:90, 5:40] = 1
    values[50, 120] = 2
    return label_map(head.region.geobox, values)


def test_the_figure_shows_the_labels_in_their_colours(head: Head, labels: LabelMap, tmp_path: Path) -> None:
    report.finetune_figure(head, labels, tmp_path / "head.png", np.ones((1, 1), bool))
    image = imread(tmp_path / "head.png")[..., :3]
    shares = {color: np.isclose(image, np.array(rgb(color)) / 255).all(2).mean() for color in ("#14532d", "#2b7bba")}
    assert shares["#14532d"] > 0.05  # on the labels' panel
    assert shares["#2b7bba"] > 0  # without a label, and still in the key


def test_the_figure_states_the_scores(
    head: Head, labels: LabelMap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(picture, "save_png", lambda figure, path: drawn.append(figure))
    report.finetune_figure(head, labels, tmp_path / "head.png", None)
    texts = words(drawn[0])
    assert "A small region: macro F1 0.65, accuracy 90% on labels kept for validation" in texts
    assert {"0.88", "0.54", "-", "2,975", "Prediction, 2017-02-16", head.header.attribution} <= texts


def test_a_place_that_cannot_be_written_is_named(head: Head, labels: LabelMap, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*nowhere/head\.png"):
        report.finetune_figure(head, labels, tmp_path / "nowhere" / "head.png", None)


@pytest.mark.parametrize("panel", [(6.5, 0.5), (6.5, 3.2), (6.5, 6.5), (0.8, 6.5)])
@pytest.mark.parametrize("names", [2, 30, 254])
def test_panels_and_key_stand_apart_and_on_the_sheet(panel: tuple[float, float], names: int) -> None:
    key = picture.Key(("F1", "labels"), [picture.KeyRow(f"class {n}", "#000000", ("1", "2")) for n in range(names)])
    layout = report._layout(panel, key)
    sizes = [*[panel] * 3, (key.width, key.height)]
    boxes = [(x, y, x + width, y + height) for (x, y), (width, height) in zip(layout.places, sizes, strict=True)]
    assert all(right <= layout.width + 1e-6 and bottom <= layout.height + 1e-6 for *_, right, bottom in boxes)
    for one, other in itertools.combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_the_view_is_the_smallest_that_holds_all_labels() -> None:
    values = np.full((100, 200), IGNORE, np.uint8)
    values[10, 20] = 0
    values[30, 25] = 3
    assert report.labelled_view(values) == Window(10, 20, 21, 6)


def test_of_a_large_area_the_part_with_most_labels_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "VIEW", 30)
    values = np.full((100, 200), IGNORE, np.uint8)
    values[0, 0] = 0
    values[60:80, 150:170] = 1
    view = report.labelled_view(values)
    assert (view.height, view.width) == (30, 20)
    assert view.intersection(Window(60, 150, 20, 20)) == Window(60, 150, 20, 20)


@pytest.mark.parametrize(
    ("bands", "expected"),
    [
        ([("B02", 490.0), ("B03", 560.0), ("B04", 665.0), ("B08", 842.0)], (2, 1, 0)),
        ([("B04", None), ("B03", None), ("B02", None)], (0, 1, 2)),
        ([("a", 480.0), ("b", 655.0), ("c", 561.0)], (1, 2, 0)),
        ([("VV", None), ("VH", None)], (0, 0, 0)),
        ([("swir", 1600.0), ("nir", 842.0), ("red", 665.0)], (0, 0, 0)),
    ],
)
def test_true_colour_is_found_by_wavelength_then_by_name(
    bands: Sequence[tuple[str, float | None]], expected: tuple[int, int, int]
) -> None:
    named = [Band(name=name, wavelength_nm=wavelength, gsd_m=10.0) for name, wavelength in bands]
    assert report.true_color_bands(named) == expected


def test_the_stretch_uses_all_of_the_scale_and_bears_a_flat_band() -> None:
    reflectance = np.zeros((50, 50, 3), np.float32)
    reflectance[..., 0] = np.linspace(0.0, 0.4, 2500).reshape(50, 50)
    stretched = report.stretched(reflectance)
    assert (stretched[..., 0].min(), stretched[..., 0].max()) == (0, 255)
    assert not stretched[..., 1:].any()


def test_outlines_run_around_groups_of_blocks() -> None:
    axes = Figure().add_subplot()
    blocks = np.zeros((3, 3), bool)
    blocks[1, 1:] = True  # two neighbours: no line between them
    report.outline_blocks(axes, blocks)
    (collection,) = axes.collections
    ends = np.concatenate([path.vertices for path in collection.get_paths()])
    assert len(collection.get_paths()) == 6
    assert (ends.min(0).tolist(), ends.max(0).tolist()) == ([BLOCK, BLOCK], [3 * BLOCK, 2 * BLOCK])


def words(figure: Figure) -> set[str]:
    """Every text in a figure."""
    return {text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)}
