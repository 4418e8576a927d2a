"""Figures: they show the right place in the right colours, whatever the shape of the region."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from factories import (
    CLASSES,
    figure_words,
    head_of,
    labels_on,
    numbers_on,
    split_of,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from odc.geo.geobox import GeoBox
from scipy.stats import entropy

from lianet_user.errors import OutputError
from lianet_user.files.header import IGNORE, Band, Numbers
from lianet_user.geo.grid import Window
from lianet_user.head import Head
from lianet_user.labels import BLOCK, Labels
from lianet_user.labels.split import Split
from lianet_user.maps import picture
from lianet_user.maps import picture as color
from lianet_user.maps.picture import number_image
from lianet_user.maps.style import RAMP, rgb
from lianet_user.report import figures, finetune_figure, labels_figure, map_view
from lianet_user.report import mapped_view as view


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Figure]:
    """Figures as they are drawn, in place of files; what is written meanwhile lands in an empty folder."""
    monkeypatch.chdir(tmp_path)
    kept: list[Figure] = []
    monkeypatch.setattr(picture, "save_png", lambda figure, path: kept.append(figure))
    return kept


@pytest.fixture
def labels(head: Head) -> Labels:
    values = np.full(head.region.shape, IGNORE, np.uint8)
    values[5:90, 5:40] = 1
    values[50, 120] = 2
    return labels_on(head.region.geobox, values, CLASSES)


def test_the_figure_shows_the_labels_in_their_colours(head: Head, labels: Labels, tmp_path: Path) -> None:
    finetune_figure(head, labels, tmp_path / "head.png", split_of(head.region))
    image = imread(tmp_path / "head.png")[..., :3]
    shares = {color: np.isclose(image, np.array(rgb(color)) / 255).all(2).mean() for color in ("#14532d", "#2b7bba")}
    assert shares["#14532d"] > 0.05  # on the labels' panel
    assert shares["#2b7bba"] > 0  # without a label, and still in the key


def test_the_figure_states_the_scores(head: Head, labels: Labels, drawn: list[Figure]) -> None:
    finetune_figure(head, labels, Path("head.png"), None)
    texts = figure_words(drawn[0])
    assert "A small region: macro F1 0.65, accuracy 90% on labels kept for validation" in texts
    assert {"0.88", "0.54", "-", "2,975", "Labels", "Prediction, 2017-02-16", head.header.attribution} <= texts


def test_the_figure_of_a_cross_validation_says_so(head: Head, labels: Labels, drawn: list[Figure]) -> None:
    provenance = head.header.provenance.model_copy(update={"settings": {"folds": 5}})
    folded = Head(head.header.model_copy(update={"provenance": provenance}), head.layers, head.region)
    finetune_figure(folded, labels, Path("head.png"), None)
    assert "A small region: macro F1 0.65, accuracy 90% in cross-validation" in figure_words(drawn[0])


def test_a_head_that_was_not_validated_has_a_figure_that_says_so(
    head: Head, labels: Labels, drawn: list[Figure]
) -> None:
    split = dataclasses.replace(split_of(head.region), validation=np.zeros((3, 4), bool))
    bare = Head(head.header.model_copy(update={"scores": None}), head.layers, head.region)
    finetune_figure(bare, labels, Path("head.png"), split)
    assert {"A small region: not validated", "Labels"} <= figure_words(drawn[0])


@pytest.mark.parametrize("scale", [1, 4])
def test_the_figure_of_numbers_has_their_unit_and_their_colours(
    head: Head, drawn: list[Figure], scale: Literal[1, 4], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[np.ndarray] = []
    monkeypatch.setattr(figures, "draw_image", lambda axes, image, *place: shown.append(image))
    values = np.full((96 * scale, 128 * scale), np.nan, np.float32)
    values[8 * scale : 40 * scale, 8 * scale : 72 * scale] = 30.0
    numbers = head_of(head, scale=scale)
    finetune_figure(numbers, numbers_on(head.region, values, scale), Path("head.png"), None)
    assert "A small region: MAE 2.314 m, R² 0.71 on labels kept for validation" in figure_words(drawn[0])
    assert {"30 m", "18 m", "0 m"} <= figure_words(drawn[0])
    labelled, predicted, remembered = shown
    assert labelled.shape == predicted.shape == (32 * scale, 64 * scale, 3)
    assert remembered.shape == (32, 64, 3)
    assert (labelled == RAMP(1.0, bytes=True)[:3]).all()
    answers = numbers.values(Window(8, 8, 32, 64))
    np.testing.assert_allclose(predicted, RAMP(np.clip(answers / 30, 0, 1))[..., :3] * 255, atol=1.01)


def test_numbers_beyond_the_span_have_the_colours_of_its_ends() -> None:
    image = number_image(np.array([[-5.0, 0.0, 10.0, 99.0, np.nan]], np.float32), Numbers(low=0, high=10))
    assert image[0, 0].tolist() == image[0, 1].tolist() != image[0, 2].tolist() == image[0, 3].tolist()
    assert tuple(image[0, 4].tolist()) == rgb(picture.UNCLASSED)


def test_one_number_for_all_ground_is_drawn() -> None:
    assert number_image(np.full((2, 2), 7.0, np.float32), Numbers(low=7, high=7)).shape == (2, 2, 3)


def test_labels_finer_than_the_grid_are_drawn_over_the_image(head: Head, drawn: list[Figure]) -> None:
    values = np.full((384, 512), np.nan, np.float32)
    values[37:101, 42:90] = np.linspace(2, 8, 48)
    labels_figure(head.region, numbers_on(head.region, values, 4), Path("labels.png"))
    assert {"A small region: 1.6% labelled", "8", "3.2", "2"} <= figure_words(drawn[0])


def test_a_place_that_cannot_be_written_is_named(head: Head, labels: Labels, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*nowhere/head\.png"):
        finetune_figure(head, labels, tmp_path / "nowhere" / "head.png", None)


# --- the view


def test_the_view_holds_what_the_head_answers_and_how_unsure_it_is(head: Head, labels: Labels) -> None:
    told: list[tuple[int, int]] = []
    mapped = map_view(head, labels, 64, lambda done, total: told.append((done, total)))
    assert mapped.view.window == Window(5, 5, 85, 116)
    # 64 and 21 rows, 64 and 52 columns
    assert told == [(done, 85 * 116) for done in (64 * 64, 64 * 116, 64 * 116 + 21 * 64, 85 * 116)]
    probabilities = head.answers(mapped.view.window).exp().numpy()
    assert np.array_equal(mapped.values, probabilities.argmax(0))
    assert np.array_equal(mapped.view.labels, labels.maps[0].values[5:90, 5:121])
    np.testing.assert_allclose(mapped.doubt, entropy(probabilities, base=3), atol=1e-5)


@pytest.mark.parametrize("tile", [8, 512])
def test_of_numbers_doubt_is_how_far_answer_and_label_are_apart(head: Head, tile: int) -> None:
    values = np.full((384, 512), np.nan, np.float32)
    values[40:80, 40:100] = np.random.default_rng(0).random((40, 60))
    numbers = head_of(head, scale=4)
    mapped = map_view(numbers, numbers_on(head.region, values, 4), tile=tile)
    assert mapped.view.window == Window(10, 10, 10, 15)
    expected = np.abs(numbers.values(Window(10, 10, 10, 15)) - values[40:80, 40:100])
    np.testing.assert_allclose(mapped.doubt, expected, atol=1e-3)


@pytest.mark.parametrize("panel", [(6.5, 0.5), (6.5, 3.2), (6.5, 6.5), (0.8, 6.5)])
@pytest.mark.parametrize("names", [2, 30, 254])
@pytest.mark.parametrize("panels", [2, 3])
def test_panels_and_key_stand_apart_and_on_the_sheet(panel: tuple[float, float], names: int, panels: int) -> None:
    key = picture.Key(("F1", "labels"), [picture.KeyRow(f"class {n}", "#000000", ("1", "2")) for n in range(names)])
    layout = figures._layout(panel, key, ["Labels (outlined: validation; dashed: test)"] * panels)
    sizes = [*[panel] * panels, (key.width, key.height)]
    boxes = [(x, y, x + width, y + height) for (x, y), (width, height) in zip(layout.places, sizes, strict=True)]
    assert all(right <= layout.width + 1e-6 and bottom <= layout.height + 1e-6 for *_, right, bottom in boxes)
    for one, other in itertools.combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_the_view_is_the_smallest_that_holds_all_labels(small_geobox: GeoBox) -> None:
    values = np.full(small_geobox.shape, IGNORE, np.uint8)
    values[10, 20] = 0
    values[30, 25] = 3
    found = view.labelled_view(labels_on(small_geobox, values, CLASSES))
    assert (found.window, found.whole) == (Window(10, 20, 21, 6), True)


def test_of_a_large_area_the_part_with_most_labels_is_shown(
    small_geobox: GeoBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "VIEW", 30)
    values = np.full(small_geobox.shape, IGNORE, np.uint8)
    values[0, 0] = 0
    values[60:80, 90:110] = 1
    found = view.labelled_view(labels_on(small_geobox, values, CLASSES))
    assert (found.window.height, found.window.width, found.whole) == (30, 20, False)
    assert found.window.intersection(Window(60, 90, 20, 20)) == Window(60, 90, 20, 20)


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
    assert color.true_color_bands(named) == expected


def test_the_stretch_uses_all_of_the_scale_and_bears_a_flat_band() -> None:
    reflectance = np.zeros((50, 50, 3), np.float32)
    reflectance[..., 0] = np.linspace(0.0, 0.4, 2500).reshape(50, 50)
    stretched = color.stretched(reflectance)
    assert (stretched[..., 0].min(), stretched[..., 0].max()) == (0, 255)
    assert not stretched[..., 1:].any()


# --- what was kept from training


def ends(axes: Axes) -> list[tuple[list[float], list[float]]]:
    """The upper left and the lower right corner of every ring that is drawn, as x and y."""
    rings = [path.vertices for each in axes.collections for path in each.get_paths()]
    return [(np.min(ring, 0).tolist(), np.max(ring, 0).tolist()) for ring in map(np.asarray, rings)]


def test_outlines_run_around_groups_of_blocks_of_any_size() -> None:
    axes = Figure().add_subplot()
    blocks = np.zeros((3, 3), bool)
    blocks[1, 1:] = True  # two neighbours: no line between them
    figures.draw_split(axes, Split((150, 150), 50, blocks), Window(0, 0, 150, 150))
    assert ends(axes) == [([50, 50], [150, 100])]


def test_the_test_area_is_outlined_only_where_it_lies() -> None:
    axes = Figure().add_subplot()
    test = np.zeros((200, 200), bool)
    test[40:60, 70:90] = True
    test[100:200, 0:200] = True  # ends beyond the view
    split = Split((200, 200), BLOCK, np.zeros((2, 2), bool), 0, test)
    figures.draw_split(axes, split, Window(20, 30, 100, 100))
    assert sorted(ends(axes)) == [([29, 100], [131, 121]), ([70, 40], [90, 60])]


def test_what_the_lines_mean_stands_above_them(head: Head, labels: Labels, drawn: list[Figure]) -> None:
    test = np.zeros(head.region.shape, bool)
    test[50:70, 20:60] = True
    for split in (split_of(head.region), split_of(head.region, test=test)):
        finetune_figure(head, labels, Path("head.png"), split)
    assert "Labels (outlined: validation)" in figure_words(drawn[0])
    assert "Labels (outlined: validation; dashed: test)" in figure_words(drawn[1])
