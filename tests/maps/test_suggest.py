"""Where to label next: unsure, apart, of every class, not where labels lie; and a file that finetune takes back."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import torch
from factories import CLASSES, FIRST, RegionHeaderFactory, box_of, make_head
from torch import Tensor
from typer.testing import CliRunner

from lianet_user.cli import app
from lianet_user.errors import AreaError, InputError, LabelError, LabelWarning, OutputError
from lianet_user.files.header import Numbers
from lianet_user.geo.grid import Window
from lianet_user.head import Head
from lianet_user.labels import LabelOptions, read_labels
from lianet_user.labels.class_tables import stored_style
from lianet_user.maps import picture
from lianet_user.maps.suggest import Suggestions, chosen_places, labelled_ground, suggest, write_suggestions
from lianet_user.report.figures import suggestions_figure

NUMBERS = Numbers(unit="m", offset=2.0, scale=30.0, low=0.0, high=40.0)


pytestmark = pytest.mark.usefixtures("coarse_figures")


def answering(head: Head, probable: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a head answer with probabilities (classes, height, width) of its whole region."""
    logarithms = torch.from_numpy(np.log(probable.astype(np.float32)))

    def answers(window: Window, date: object = None) -> Tensor:
        return logarithms[(slice(None), *window.slices)]

    monkeypatch.setattr(head, "answers", answers)


def leads(first: np.ndarray, lead: np.ndarray) -> np.ndarray:
    """Probabilities of three classes: `first` is ahead of the next class by `lead`, the third has little."""
    probable = np.full((3, *first.shape), 0.02)
    second = (first + 1) % 3
    np.put_along_axis(probable, first[None], (0.98 + lead[None]) / 2, 0)
    np.put_along_axis(probable, second[None], (0.98 - lead[None]) / 2, 0)
    return probable


def test_the_place_that_is_least_sure_comes_first(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    lead = np.full((96, 128), 0.9)
    lead[40:45, 60:65] = 0.1
    lead[10:15, 20:25] = 0.3
    answering(head, leads(np.zeros((96, 128), int), lead), monkeypatch)
    found = suggest(head, 2)
    assert [place.window for place in found.places] == [Window(40, 60, 5, 5), Window(10, 20, 5, 5)]
    assert [place.uncertainty for place in found.places] == pytest.approx([0.9, 0.7], abs=1e-6)
    assert {(place.predicted, place.second) for place in found.places} == {(CLASSES[0].name, CLASSES[1].name)}


def test_mixed_pixels_along_a_border_do_not_win_over_unsure_ground(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    lead = np.full((96, 128), 0.9)
    lead[:, 62:64] = 0.01  # a border
    lead[3, 3] = 0.01  # a pixel
    lead[70:80, 20:30] = 0.7  # ground: a little less sure than the rest
    answering(head, leads(np.zeros((96, 128), int), lead), monkeypatch)
    (place,) = suggest(head, 1).places
    assert 70 <= place.window.row < 80
    assert 20 <= place.window.col < 30


def test_places_lie_apart_and_are_of_every_class(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    first = np.zeros((96, 128), int)
    first[:, 64:] = 1
    first[60:, 90:] = 2
    lead = 0.2 + 0.1 * rng.random((96, 128))
    lead[60:, 90:] = 0.3  # a little surer of the third
    answering(head, leads(first, lead), monkeypatch)
    found = suggest(head, 12)
    middles = np.array([(place.window.row, place.window.col) for place in found.places], float)
    distances = np.hypot(*(middles[:, None] - middles[None]).transpose(2, 0, 1)) + 1e9 * np.eye(12)
    assert distances.min() >= found.apart
    assert found.apart == pytest.approx(0.5 * math.sqrt(96 * 128 / 12))
    counts = {entry.name: 0 for entry in CLASSES}
    for place in found.places:
        counts[str(place.predicted)] += 1
    assert min(counts.values()) >= 3


def test_chosen_places_keep_what_distance_they_can() -> None:
    middles = np.array([(0, 0), (0, 1), (0, 10), (0, 11), (0, 12)], float)
    doubt = np.array([0.5, 0.9, 0.8, 0.7, 0.6])
    one = np.zeros(5, int)
    chosen, apart = chosen_places(middles, doubt, one, 2, 5.0, 1.0)
    assert (chosen.tolist(), apart) == ([1, 2], 5.0)
    chosen, apart = chosen_places(middles, doubt, one, 3, 4.0, 1.0)
    assert (chosen.tolist(), apart) == ([1, 2, 4], 2.0)
    chosen, apart = chosen_places(middles, doubt, one, 9, 4.0, 1.0)
    assert (sorted(chosen.tolist()), apart) == ([0, 1, 2, 3, 4], 1.0)
    # A class that has a place already needs twice the doubt to have the next.
    chosen, _ = chosen_places(middles, doubt, np.array([0, 1, 1, 1, 0]), 2, 1.0, 1.0)
    assert chosen.tolist() == [1, 4]


@pytest.mark.parametrize("tile", [20, 512])
def test_the_answer_does_not_depend_on_the_tiles(head: Head, tile: int) -> None:
    whole = suggest(head, 8)
    parts = suggest(head, 8, tile=tile)
    assert [place.window for place in parts.places] == [place.window for place in whole.places]


def test_no_place_lies_where_labels_are_or_outside_the_box(head: Head) -> None:
    away = np.zeros(head.region.shape, bool)
    away[:, :64] = True
    away[50, 100] = True
    inside = Window(20, 30, 60, 90)
    found = suggest(head, 6, away=away, **box_of(head.region, inside))
    assert found.window == inside
    for place in found.places:
        assert place.window.intersection(inside) == place.window
        assert not away[place.window.slices].any()
    with pytest.raises(AreaError, match="no room for a place of 5 x 5 px"):
        suggest(head, 6, away=np.ones(head.region.shape, bool))


def test_fewer_places_than_asked_for_are_a_warning(head: Head) -> None:
    away = np.ones(head.region.shape, bool)
    away[40:50, 60:70] = False
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LabelWarning)
        found = suggest(head, 30, away=away)
    assert 1 <= len(found.places) <= 4
    assert f"room for {len(found.places)} places only, of 30" in str(caught[0].message)


def test_labels_of_any_kind_keep_places_away(tmp_path: Path, region_header: RegionHeaderFactory) -> None:
    header = region_header()
    shapes = [shapely.box(330_100, 5_819_800, 330_200, 5_819_900), shapely.Point(330_505, 5_819_505)]
    frame = geopandas.GeoDataFrame({"a": ["x", None], "b": [1, 2]}, geometry=shapes, crs="EPSG:32633")
    frame.to_crs("EPSG:4326").to_file(tmp_path / "labels.gpkg")
    mask = labelled_ground(tmp_path / "labels.gpkg", header)
    assert mask[10:20, 10:20].all()
    assert mask[49, 50]
    assert 101 <= mask.sum() <= 12 * 12 + 1  # pixels that are touched, and rounding on the way from degrees
    frame.to_crs("EPSG:4326").translate(5).to_file(tmp_path / "elsewhere.gpkg")
    with pytest.raises(LabelError, match="outside"):
        labelled_ground(tmp_path / "elsewhere.gpkg", header)


def test_whatever_a_raster_holds_keeps_places_away(tmp_path: Path, region_header: RegionHeaderFactory) -> None:
    header = region_header(dates=2)
    grid = header.grid.geobox
    values = np.full((2, *grid.shape), -1, np.float32)
    values[1, 10:20, 10:20] = np.linspace(0.1, 0.9, 100).reshape(10, 10)  # neither classes nor the name of a date
    profile = {"width": grid.width, "height": grid.height, "dtype": "float32", "nodata": -1, "transform": grid.affine}
    with rasterio.open(tmp_path / "labels.tif", "w", driver="GTiff", count=2, **profile) as file:
        file.write(values)
    mask = labelled_ground(tmp_path / "labels.tif", header, band=2, labels_crs="EPSG:32633")
    assert mask[10:20, 10:20].all()
    assert mask.sum() == 100


def test_numbers_are_unsure_where_the_members_differ(
    region_header: RegionHeaderFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = make_head(region_header(), tmp_path, numbers=NUMBERS)
    with pytest.raises(InputError, match="maps numbers and answers with one model"):
        suggest(head, 2)
    members = torch.full((2, 1, 96, 128), 20.0)
    members[0, 0, 30:35, 40:45] = 26.0
    monkeypatch.setattr(head, "members_answers", lambda window, date: members[(..., *window.slices)])
    monkeypatch.setattr(
        head, "header", head.header.model_copy(update={"head": head.header.head.model_copy(update={"members": 2})})
    )
    found = suggest(head, 1)
    assert found.places[0].window == Window(30, 40, 5, 5)
    assert found.places[0].uncertainty == pytest.approx(3.0)
    assert found.places[0].predicted == pytest.approx(23.0)
    write_suggestions(found, head, tmp_path / "suggest.gpkg")
    frame = geopandas.read_file(tmp_path / "suggest.gpkg")
    assert frame["value"].isna().all()
    assert frame["predicted"].tolist() == pytest.approx([23.0])


def test_members_answer_what_the_head_is_the_mean_of(region_header: RegionHeaderFactory, tmp_path: Path) -> None:
    head = make_head(region_header(), tmp_path, numbers=NUMBERS)
    window = Window(10, 20, 30, 40)
    members = head.members_answers(window)
    assert members.shape == (1, 1, 30, 40)
    assert torch.allclose(members.mean(0), head.answers(window))


def test_a_finer_head_is_asked_on_its_own_grid(region_header: RegionHeaderFactory, tmp_path: Path) -> None:
    head = make_head(region_header(), tmp_path, scale=4)
    found = suggest(head, 3)
    place = found.places[0]
    probable = head.answers(place.window).exp().numpy()
    assert probable.shape == (3, 20, 20)
    ordered = np.sort(probable, axis=0)
    assert place.uncertainty == pytest.approx(float(np.median(1 - (ordered[-1] - ordered[-2]))), abs=1e-3)


def test_the_file_is_filled_in_and_given_back(head: Head, tmp_path: Path) -> None:
    found = suggest(head, 6)
    path = tmp_path / "suggest.gpkg"
    write_suggestions(found, head, path)
    with pytest.raises(OutputError, match=r"suggest\.gpkg exists"):
        write_suggestions(found, head, path)
    with pytest.raises(LabelError, match=r"none of the 6 features.*6 have no label in the column 'class'"):
        read_labels(path, head.region.header, LabelOptions(dates=(str(FIRST),)))
    frame = pyogrio.read_dataframe(path, layer="suggest", fid_as_index=True)
    assert frame["place"].tolist() == [1, 2, 3, 4, 5, 6]
    assert frame["class"].isna().all()
    assert frame["predicted"].tolist() == [place.predicted for place in found.places]
    table = stored_style(path, "suggest")
    assert table is not None
    assert [(entry.name, entry.color) for entry in table.entries] == [(entry.name, entry.color) for entry in CLASSES]

    frame["class"] = [CLASSES[0].name, CLASSES[2].name, None, CLASSES[2].name, "", None]
    pyogrio.write_dataframe(frame, path, layer="suggest", append=False)
    labels = read_labels(path, head.region.header, LabelOptions(dates=(str(FIRST),)))
    assert labels.report.features is not None
    assert (labels.report.features.used, labels.report.features.no_label) == (3, 3)
    assert [entry.name for entry in labels.classes] == [CLASSES[0].name, CLASSES[2].name]
    for place, name in zip(found.places, frame["class"], strict=True):
        values = labels.maps[0].values[place.window.slices]
        expected = {CLASSES[0].name: 0, CLASSES[2].name: 1}.get(str(name), 255)
        assert (values == expected).all()


def test_the_picture_shows_every_place(head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Suggestions] = []
    monkeypatch.setattr("lianet_user.report.figures.SIDE", 50)
    save = picture.save_png

    def seen(figure: object, path: Path) -> None:
        texts = [text.get_text().strip() for axes in figure.axes for text in axes.texts]  # type: ignore[attr-defined]
        assert {str(n) for n in range(1, 8)} <= set(texts)
        drawn.append(found)
        save(figure, path)  # type: ignore[arg-type]

    monkeypatch.setattr(picture, "save_png", seen)
    found = suggest(head, 7)
    suggestions_figure(found, head, tmp_path / "suggest.png")
    assert drawn
    assert (tmp_path / "suggest.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_does_all_of_it(head: Head, tmp_path: Path) -> None:
    head.save(tmp_path / "head.safetensors")
    output = tmp_path / "next.gpkg"
    command = ["suggest", str(tmp_path / "head.safetensors"), "-n", "4", "--spacing", "200", "-o", str(output)]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert len(document["places"]) == 4
    assert len(geopandas.read_file(output, layer="suggest")) == 4
    assert (tmp_path / "next.png").exists()
    again = CliRunner().invoke(app, command)
    assert isinstance(again.exception, OutputError)
