"""The report: everything in one file, figures as they were measured, and nothing that a file says is more than text."""

from __future__ import annotations

import base64
import io
import itertools
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from factories import (
    CLASSES,
    FIRST,
    LAST,
    SCORES,
    RegionHeaderFactory,
    figure_words,
    head_of,
    labels_on,
    make_head,
    numbers_on,
    split_of,
)
from matplotlib.image import imread
from matplotlib.lines import Line2D
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from lianet_user.errors import OutputError
from lianet_user.files.header import IGNORE, ClassEntry, ClassScore, DatedScores, NumberScores, Scores
from lianet_user.finetuning.trainer import History
from lianet_user.geo.grid import Window
from lianet_user.head import Head
from lianet_user.labels import Labels
from lianet_user.labels.split import Split
from lianet_user.maps import picture
from lianet_user.report import MappedView, charts, write_report
from lianet_user.report.mapped_view import View, doubtful_places

HISTORY = (
    History(0, [(10, 1.5), (20, 0.5)], [(10, 0.4), (20, 0.6)], 20),
    History(1, [(10, 1.2), (20, 0.7)], [(10, 0.55), (20, 0.5)], 10),
)
pytestmark = pytest.mark.usefixtures("coarse_figures")

MARKUP = "<script>alert('x')</script>\"> & $x^2$"
HOSTILE = f"{MARKUP} \x1b[31mred\x1b[0m \u202ereversed"
"""What steers a terminal no header holds, but a path may, and what is no header."""


class Page(HTMLParser):
    """What a browser would make of a page: elements, and the text between them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.in_cell = False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.in_cell:
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def images(self, alt: str) -> list[np.ndarray]:
        """Pictures whose description begins like this: (rows, columns, channels)."""
        sources = [each["src"] for tag, each in self.elements if tag == "img" and (each["alt"] or "").startswith(alt)]
        return [decoded(str(source)) for source in sources]


Reported = Callable[..., Page]


def decoded(uri: str) -> np.ndarray:
    kind, data = re.fullmatch(r"data:image/(png|webp);base64,([A-Za-z0-9+/=]+)", uri).groups()  # type: ignore[union-attr]
    return np.asarray(imread(io.BytesIO(base64.b64decode(data)), format=kind))


@pytest.fixture
def labels(head: Head) -> Labels:
    values = np.full(head.region.shape, IGNORE, np.uint8)
    values[5:90, 5:40] = 1
    values[50:60, 100:120] = 2
    return labels_on(head.region.geobox, values, CLASSES)


@pytest.fixture
def reported(head: Head, labels: Labels, tmp_path: Path) -> Reported:
    """Writes a report and reads it as a page; `header` replaces fields of the head's, the rest is as in `write_report`."""

    def report(
        source: Head = head,
        found: Labels = labels,
        split: Split | None = None,
        history: Sequence[History] = (),
        *,
        head_path: Path | None = None,
        **header: object,
    ) -> Page:
        path = tmp_path / "head.html"
        write_report(saying(source, **header), found, path, split, history, head_path=head_path)
        return Page(path)

    return report


def saying(head: Head, **header: object) -> Head:
    """The head with other figure_words in its header."""
    return Head(head.header.model_copy(update=header), head.layers, head.region)


# --- the page


def test_the_report_is_one_file_that_needs_no_other(head: Head, reported: Reported, tmp_path: Path) -> None:
    page = reported(split=split_of(head.region, buffer=4), history=HISTORY)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "a"}
    named = [value for _, each in page.elements for name, value in each.items() if name in ("src", "href", "srcset")]
    assert named
    assert all(str(value).startswith("data:image/") for value in named)
    assert not re.search(r"url\(|@import|https?://", page.source)
    assert all(each.get("alt") for tag, each in page.elements if tag == "img")
    assert [path.name for path in tmp_path.iterdir()] == ["head.html"]


def test_the_report_states_the_figures_and_what_they_are_worth(head: Head, reported: Reported) -> None:
    split = split_of(head.region, buffer=4)
    page = reported(split=split, head_path=Path("my maps/it's.safetensors"))
    assert "A small region" in page.text
    assert "macro F1 on labels kept for validation 0.654 The mean of F1 over 3 classes" in page.text
    assert (
        "90% of 100 pixels are mapped right; naming the most frequent class everywhere would be right for 33%"
        in page.text
    )
    assert f"Judged on labels in {split.validation.sum()} blocks of 32 px (320 m)" in page.text
    assert "No such block nor what lies within 4 px (40 m) of it was trained on." in page.text
    assert "did best on this same ground was kept, so the figures are a little too good." in page.text
    assert ["water", "50", "0.500", "-", "0.500", "0.876"] in page.rows
    assert ["mean of the classes", "100", "0.500", "-", "-", "0.654"] in page.rows
    assert "lianet-user predict 'my maps/it'\"'\"'s.safetensors' -o map.tif" in page.text
    assert head.header.attribution in page.text
    assert "CC-BY-4.0" in page.text


@pytest.mark.parametrize(
    ("settings", "buffer", "expected"),
    [({}, 0, "There is no buffer"), ({"folds": 5}, 4, "Cross-validation in 5 parts")],
    ids=["no buffer", "folds"],
)
def test_what_the_figures_do_not_say_is_said(
    head: Head, reported: Reported, settings: dict[str, int], buffer: int, expected: str
) -> None:
    provenance = head.header.provenance.model_copy(update={"settings": settings})
    text = reported(split=split_of(head.region, buffer=buffer), provenance=provenance).text
    assert expected in text
    assert ("macro F1 in cross-validation" in text) == ("folds" in settings)


def test_settings_are_listed(head: Head, reported: Reported) -> None:
    provenance = head.header.provenance.model_copy(
        update={"settings": {"weight_decay": 0.01, "steps": 500, "clip": None, "loss": "dice+focal"}, "seconds": 61.4}
    )
    text = reported(provenance=provenance).text
    assert "weight decay 0.01 steps 500 clip - loss dice+focal" in text
    assert "2025-01-01 00:00 UTC, in 61 s" in text


def test_a_head_that_was_not_validated_gets_no_figures(head: Head, reported: Reported) -> None:
    split = Split(head.region.shape, 128, np.zeros((1, 1), bool))
    page = reported(split=split, history=[History(0, [(10, 1.5)], [], 10)], scores=None)
    assert "Not validated" in page.text
    assert "F1" not in page.text
    assert not page.images("Confusion")
    assert page.images("Loss by step")


def test_a_failed_head_and_wide_intervals_are_shown(head: Head, reported: Reported) -> None:
    classes = [
        ClassScore(name=each.name, pixels=30, iou=0.2, accuracy=0.33, f1=0.3, precision=0.3, places=4.0)
        for each in CLASSES
    ]
    scores = Scores(pixels=90, accuracy=1 / 3, macro_iou=0.2, macro_f1=0.3, classes=classes, confusion=((10,) * 3,) * 3)
    text = reported(split=split_of(head.region), scores=scores).text
    assert "Not to be relied on: this head is not clearly better than answering water everywhere" in text
    assert "look at the maps below" in text
    assert "95 % intervals are: macro F1 0.118 to 0.579, accuracy 0.138 to 0.609" in text
    assert "Not to be relied on" not in reported(split=split_of(head.region)).text


def test_a_class_without_validation_pixels_is_named(head: Head, reported: Reported) -> None:
    only = ClassScore(name="water", pixels=9, iou=1.0, accuracy=1.0, f1=1.0, precision=1.0)
    none = [ClassScore(name=each.name, pixels=0, iou=None, accuracy=None, f1=None) for each in CLASSES[1:]]
    confusion = ((9, 0, 0), (0, 0, 0), (0, 0, 0))
    scores = Scores(pixels=9, accuracy=1.0, macro_iou=1.0, macro_f1=1.0, classes=(only, *none), confusion=confusion)
    page = reported(split=split_of(head.region), scores=scores)
    assert 'over 1 of 3 classes: no pixel of wood & "scrub" <5 m, Röhricht to judge by.' in page.text
    assert "Only one class was judged" in page.text
    assert ["Röhricht", "0", "-", "-", "-", "-"] in page.rows


def test_dates_and_the_test_area_have_tables_of_their_own(head: Head, reported: Reported) -> None:
    dated = tuple(DatedScores(date=date, scores=SCORES) for date in (FIRST, LAST))
    tested = SCORES.model_copy(update={"macro_f1": 0.321})
    page = reported(split=split_of(head.region), scores_by_date=dated, scores_of_mean=SCORES, test_scores=tested)
    assert ["2017-03-16", "100", "0.900", "0.500", "0.654"] in page.rows
    assert ["mean over the dates", "100", "0.900", "0.500", "0.654"] in page.rows
    assert "in the test area, where nothing was trained or chosen on 0.321" in page.text
    assert "so the figures are a little too good; those of the test area are not." in page.text
    assert len(page.images("Confusion matrix")) == 2


def test_a_head_of_several_dates_is_mapped_at_one(reported: Reported) -> None:
    assert "lianet-user predict HEAD --date 2017-03-16 -o map.tif" in reported(dates=(FIRST, LAST)).text


def test_the_maps_show_the_answers_in_the_classes_colours(
    head: Head, reported: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture, "DPI", 100)  # or the colours of neighbours mix
    answers = head.values(Window(5, 5, 85, 115))
    predicted = reported().images("Prediction")[0]
    for value, color in ((0, (0x2B, 0x7B, 0xBA)), (1, (0x14, 0x53, 0x2D)), (2, (0xF2, 0xD6, 0x4B))):
        drawn = np.isclose(predicted[..., :3], np.array(color) / 255, atol=0.01).all(2).mean()
        assert drawn == pytest.approx((answers == value).mean(), abs=0.1)


# --- what files say


def test_what_files_say_is_text_and_nothing_else(
    region_header: RegionHeaderFactory, reported: Reported, tmp_path: Path
) -> None:
    header = region_header(title=MARKUP, licence=MARKUP, attribution=MARKUP)
    classes = [ClassEntry(name=f"{MARKUP} {number}", color="#123456") for number in range(2)]
    scored = tuple(ClassScore(name=each.name, pixels=1, iou=1.0, accuracy=1.0, f1=1.0) for each in classes)
    scores = Scores(pixels=2, accuracy=1.0, macro_iou=1.0, macro_f1=1.0, classes=scored, confusion=((1, 0), (0, 1)))
    made = make_head(header, tmp_path, classes, scores)
    provenance = made.header.provenance.model_copy(
        update={"source": HOSTILE, "settings": {HOSTILE: HOSTILE}, "software": {HOSTILE: HOSTILE}}
    )
    values = np.zeros(made.region.shape, np.uint8)
    values[:, 64:] = 1
    drawn = labels_on(made.region.geobox, values, classes)
    page = reported(made, drawn, split_of(made.region), HISTORY, head_path=Path(HOSTILE), provenance=provenance)
    assert "script" not in {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, each in page.elements for name in each)
    assert all(
        set(each) <= {"class", "style", "scope"} for tag, each in page.elements if tag in ("span", "td", "th", "li")
    )
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page.source)
    assert page.text.count(MARKUP) >= 8
    assert f"{MARKUP} \ufffd[31mred\ufffd[0m \ufffdreversed" in page.text
    assert "default-src 'none'" in page.source


def test_a_place_that_cannot_be_written_is_named(head: Head, labels: Labels, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*nowhere/head\.html"):
        write_report(head, labels, tmp_path / "nowhere" / "head.html", None)


# --- numbers


@pytest.mark.parametrize("scale", [1, 4])
def test_numbers_on_validation_ground_are_put_against_their_reference(
    head: Head, reported: Reported, monkeypatch: pytest.MonkeyPatch, scale: Literal[1, 4]
) -> None:
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    draw = charts.predicted_against_reference

    def caught(reference: np.ndarray, predicted: np.ndarray, unit: str) -> object:
        pairs.append((reference, predicted))
        return draw(reference, predicted, unit)

    monkeypatch.setattr(charts, "predicted_against_reference", caught)
    values = np.full((96 * scale, 128 * scale), np.nan, np.float32)
    values[: 60 * scale, : 70 * scale] = np.random.default_rng(0).random((60 * scale, 70 * scale)) * 30
    numbers, split = head_of(head, scale=scale), split_of(head.region)
    page = reported(numbers, numbers_on(head.region, values, scale), split)
    answers = numbers.values(Window(0, 0, 60, 70))
    expected = [
        (values[row, col], answers[row, col])
        for row, col in np.ndindex(60 * scale, 70 * scale)
        if split.validation[row // scale // 32, col // scale // 32]
    ]
    reference, predicted = np.array(expected).T
    assert np.array_equal(pairs[0][0], reference)
    np.testing.assert_allclose(pairs[0][1], predicted, atol=1e-3)
    assert page.images("Predicted against reference")
    assert ["mean absolute error (MAE)", "2.314 m"] in page.rows
    assert ["mean squared error (MSE)", "9 m²"] in page.rows
    assert "The map is 0.25 m too low in the mean. R² 0.713" in page.text
    assert "Where labels and map differ most" in page.text


def test_numbers_by_date_are_in_their_unit(head: Head, reported: Reported) -> None:
    scores = NumberScores(pixels=7, mae=1.5, mse=4.0, rmse=2.0, r2=None, bias=0.5)
    numbers = head_of(head, scores_by_date=(DatedScores(date=FIRST, scores=scores),))
    values = np.full((96, 128), 3.0, np.float32)
    page = reported(numbers, numbers_on(head.region, values))
    assert ["2017-02-16", "7", "1.5 m", "2 m", "0.5 m", "-"] in page.rows
    assert not page.images("Predicted against reference")  # nobody knows what was kept


# --- charts


def test_a_confusion_matrix_has_references_as_rows_and_shares_as_colours() -> None:
    confusion = np.array([[30, 10, 0], [0, 0, 0], [1, 2, 12_345]])
    figure = charts.confusion_matrix(confusion.tolist(), ["a", "$b$", "c"])
    axes = figure.axes[0]
    shares = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shares, [[0.75, 0.25, 0], [0, 0, 0], confusion[2] / confusion[2].sum()])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "reference")
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "$b$", "c"]
    cells = {each.get_position(): each.get_text() for each in axes.texts}
    assert cells == {(0, 0): "30", (1, 0): "10", (0, 2): "1", (1, 2): "2", (2, 2): "12.3k"}


@pytest.mark.parametrize("classes", [2, 20, 45, 254])
def test_a_confusion_matrix_of_many_classes_keeps_its_names_apart(classes: int) -> None:
    names = [f"class {number} with a name that nobody wants to read in a chart" for number in range(classes)]
    figure = charts.confusion_matrix(np.ones((classes, classes), int).tolist(), names)
    figure.canvas.draw()
    assert max(figure.get_size_inches()) < 16
    ticks = [tick for tick in figure.axes[0].get_yticklabels() if tick.get_text().startswith("class")]
    assert len(ticks) == (classes if classes <= charts.NAMED else 0)
    boxes = [tick.get_window_extent() for tick in ticks]
    for upper, lower in itertools.pairwise(boxes):
        assert upper.y0 >= lower.y1 - 1


@pytest.mark.parametrize(
    ("count", "written"),
    [(0, "0"), (9_999, "9,999"), (10_000, "10.0k"), (123_456, "123.5k"), (12_345_678, "12.3M"), (2 * 10**9, "2.0G")],
)
def test_counts_are_brief(count: int, written: str) -> None:
    assert charts.short_count(count) == written


def points(line: Line2D) -> list[list[float]]:
    """x and y of every point of a line."""
    found: list[list[float]] = np.asarray(line.get_xydata()).tolist()
    return found


def test_curves_show_every_member_and_the_state_that_was_kept() -> None:
    figure = charts.curves(HISTORY, "validation macro F1")
    losses, looks = figure.axes
    assert [points(line) for line in losses.lines] == [list(map(list, each.losses)) for each in HISTORY]
    marks = [points(line) for line in looks.lines if line.get_marker() == "o"]
    assert marks == [[[20, 0.6]], [[10, 0.55]]]
    assert "member 2: 0.55 at step 10" in figure_words(figure)
    assert looks.get_ylabel() == "validation macro F1"


def test_predicted_against_reference_counts_every_pixel() -> None:
    rng = np.random.default_rng(0)
    reference, predicted = rng.random(500), rng.random(500)
    figure = charts.predicted_against_reference(reference, predicted, "m")
    axes = figure.axes[0]
    drawn = axes.collections[0].get_array()
    assert drawn is not None
    counts = np.ma.filled(drawn, 0)
    assert counts.sum() == 500
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("reference (m)", "predicted (m)")
    rows = np.histogram(predicted, charts.BINS, axes.get_ylim())[0]
    assert np.array_equal(counts.reshape(charts.BINS, charts.BINS).sum(1), rows)  # predicted goes up


def test_numbers_that_are_all_the_same_are_drawn() -> None:
    charts.predicted_against_reference(np.full(3, 2.0), np.full(3, 2.0), "")


# --- places


def doubting(doubt: np.ndarray, window: Window, scale: int = 1) -> MappedView:
    """A view whose doubt is given."""
    values = np.zeros(doubt.shape, np.uint8)
    view = View(window, FIRST, scale, values, True)
    return MappedView(view, np.zeros((window.height, window.width, 3), np.uint8), values, doubt.astype(np.float32))


@pytest.mark.parametrize("scale", [1, 4])
def test_the_most_doubtful_places_are_found_and_do_not_overlap(small_geobox: GeoBox, scale: int) -> None:
    window = Window(10, 20, 256, 200)
    doubt = np.random.default_rng(0).random((256 * scale, 200 * scale)) * 0.1
    doubt[70 * scale : 120 * scale, 130 * scale : 190 * scale] = 0.9
    doubt[200 * scale :, : 60 * scale] = 0.7
    places = doubtful_places(doubting(doubt, window, scale), small_geobox, most=3)
    assert [place.window for place in places[:2]] == [Window(74, 148, 64, 64), Window(202, 20, 64, 64)]
    assert len(places) == 3
    inside = doubt[64 * scale : 128 * scale, 128 * scale : 192 * scale]
    assert places[0].doubt == pytest.approx(inside.mean(), rel=1e-5)
    assert places[0].window.intersection(places[2].window) is None


def test_a_place_says_where_its_middle_is(small_geobox: GeoBox) -> None:
    (place,) = doubtful_places(doubting(np.ones((20, 40)), Window(10, 20, 20, 40)), small_geobox)
    to_lonlat = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    assert (place.longitude, place.latitude) == pytest.approx(to_lonlat.transform(330_400.0, 5_819_800.0))


def test_places_without_a_reference_are_none(small_geobox: GeoBox) -> None:
    doubt = np.full((64, 128), np.nan)
    doubt[3, 70] = 2.0
    places = doubtful_places(doubting(doubt, Window(0, 0, 64, 128)), small_geobox)
    assert [(place.window, place.doubt) for place in places] == [(Window(0, 64, 64, 64), 2.0)]
