"""Priors: what was typed or listed in a table becomes a share for each class, in their order, or one line that says why not."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from factories import labels_on
from heads import entries
from odc.geo.geobox import GeoBox

from lianet_user.errors import InputError
from lianet_user.evaluation.areas import estimate_areas
from lianet_user.finetuning.priors import (
    Prior,
    assumption,
    check_prior,
    parse_prior,
    recalled_prior,
    stored_prior,
)
from lianet_user.labels import Labels
from lianet_user.labels.label_map import FeatureCounts

CLASSES = entries(("water", "wood", "Röhricht, nass"))

TABLES = {
    "comma": 'class,area\nwood,60\nwater,20\n"Röhricht, nass",20\n',
    "semicolon": "class;area\nwood;60\nwater;20\nRöhricht, nass;20\n",
    "another order and more columns": 'area,colour,class\n3,red,wood\n1,blue,water\n\n1,,"Röhricht, nass"\n',
    "shares": 'name,share\nwood,0.6\nwater,0.2\n"Röhricht, nass",0.2\n',
    "zones": 'zone,zone_ha,ha_wood,share_wood,ha_water,"ha_Röhricht, nass"\n1,50,30,.6,15,5\n2,50,30,.6,5,15\n',
    "a list": '[{"class": "wood", "area": 6}, {"class": "water", "area": 2}, {"class": "Röhricht, nass", "area": 2.0}]',
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_a_table_of_areas_gives_the_shares_in_the_order_of_the_classes(
    table: str, encoding: str, tmp_path: Path
) -> None:
    (tmp_path / "areas").write_text(TABLES[table], encoding=encoding)
    assert parse_prior(f"area:{tmp_path / 'areas'}", CLASSES) == (0.2, 0.6, 0.2)


def test_what_evaluate_prints_of_areas_is_a_table(tmp_path: Path) -> None:
    found = estimate_areas(np.diag([30, 30, 30]), np.array([100, 300, 100]), np.array([1.0, 3.0, 1.0]), CLASSES)
    (tmp_path / "a.json").write_text(json.dumps({"scores": {}, "areas": found.as_dict()}), encoding="utf-8")
    assert parse_prior(f"area:{tmp_path / 'a.json'}", CLASSES) == (0.2, 0.6, 0.2)


WRONG = {
    "": r"has the columns none: expected a CSV file with the columns class and area",
    "klasse,area\nwater,1\n": r"has the columns klasse, area: expected",
    "class,area\nwater,1\nwod,1\n": r"line 3: 'wod' is not a class of the labels: expected water, wood, .*mean 'wood'",
    "class,area\nwater,1\nwater,2\n": r"line 3: 'water' is listed twice",
    "class,area\nwater,1\nwood,2\n": r"has no area of Röhricht, nass: expected one for each",
    "class,area\nwater,0\n": r"line 2: the area of 'water' is 0: expected a number above 0",
    "class,area\nwater,-3\n": r"line 2: the area of 'water' is -3: expected",
    "class;area\nwater;1,5\n": r"line 2: the area of 'water' is 1,5: expected a number above 0, such as 1234.5",
    "class,area\nwater,\n": r"line 2: the area of 'water' is : expected",
    "class,area\nwater,nan\n": r"line 2: the area of 'water' is nan",
    "class,area\nwater,inf\n": r"line 2: the area of 'water' is inf",
    "class,area\nwater,1,2\n": r"line 2: 3 columns, where the header has 2",
    'class,area\n"water,1\n': r"line 2: unexpected end of data",
    "zone,zone_ha,ha_water\n1,2,x\n": r"line 2, column 'ha_water': 'x' is not a number",
    "zone,zone_ha,ha_sea\n1,2,3\n": r"column 'ha_sea': 'sea' is not a class",
    "{": r"is not valid JSON",
    "{}": r"has no list of areas",
    '[{"class": "water"}]': r"entry 1 has no class or no area",
    "[3]": r"entry 1 has no class or no area",
    '[{"class": "water", "area": true}]': r"entry 1: the area of 'water' is True",
    '{"areas": {"classes": [{"name": "water", "area_ha": {"value": null}}]}}': r"entry 1: the area of 'water' is not known",
    "\0": "is not a text table",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_table_that_does_not_say_every_area_is_refused_with_its_row(text: str, tmp_path: Path) -> None:
    path = tmp_path / "areas.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"^`prior` {re.escape(str(path))}.*{WRONG[text]}") as caught:
        parse_prior(f"area:{path}", CLASSES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "classes", "message"),
    [
        ("temperd", CLASSES, r"^`prior` 'temperd': expected labels, tempered, equal or area:FILE.*mean 'tempered'"),
        ("area:nowhere.csv", CLASSES, r"^`prior` nowhere.csv cannot be read \(No such file"),
        ("equal", (), r"^`prior` .* the labels are numbers: omit it"),
    ],
)
def test_what_is_no_prior_of_the_labels_is_refused(typed: str, classes: tuple[()], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_prior(typed, classes)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ("wide", "'wide': expected labels, tempered, equal"),
        ((0.5, 0.5), r"has 2 shares, and the labels have 3 classes \(water, wood"),
        ((0.5, 0.0, 0.5), "the share of 'wood' is 0.0: expected a number above 0"),
        ((0.5, float("nan"), 0.5), "the share of 'wood' is nan"),
        ((0.5, "x", 0.5), "the share of 'wood' is x"),
    ],
)
def test_a_prior_in_python_is_a_word_or_a_share_for_each_class(prior: Prior, message: str) -> None:
    with pytest.raises(InputError, match=f"^`prior`:? {message}"):
        check_prior(prior, CLASSES)


@pytest.mark.parametrize("prior", ["labels", "tempered", "equal", (0.2, 0.6, 0.2), (1.0, 3.0, 1 / 3)])
def test_a_prior_that_is_stored_is_recalled(prior: Prior) -> None:
    check_prior(prior, CLASSES)
    assert recalled_prior(stored_prior(prior, CLASSES), CLASSES) == prior
    assert stored_prior("tempered", ()) is None
    assert stored_prior((0.25, 0.75), CLASSES[:2]) == '{"water": 0.25, "wood": 0.75}'


@pytest.fixture
def drawn(small_geobox: GeoBox) -> Labels:
    """Three polygons, on a quarter of the ground."""
    height, width = small_geobox.shape
    values = np.where(np.indices((height, width))[0] < height // 4, 1, 255)
    labels = labels_on(small_geobox, values, CLASSES)
    counts = FeatureCounts(
        **{each.name: 3 if each.name in ("read", "used") else 0 for each in dataclasses.fields(FeatureCounts)}
    )
    return dataclasses.replace(labels, report=dataclasses.replace(labels.report, features=counts))


def test_what_a_head_assumes_is_said_and_that_polygons_do_not_say_it(drawn: Labels) -> None:
    hint = "drawn polygons do not state frequencies: give `prior` area:FILE"
    for word in ("labels", "tempered", "equal"):
        assert hint in assumption(word, drawn)
        everywhere = dataclasses.replace(drawn.report, labelled=drawn.report.pixels)
        assert "polygons" not in assumption(word, dataclasses.replace(drawn, report=everywhere))
        raster = dataclasses.replace(drawn.report, features=None)
        assert "polygons" not in assumption(word, dataclasses.replace(drawn, report=raster))
    assert assumption((1.0, 3.0, 1.0), drawn) == (
        "Classes are taken to be as frequent as stated: water 20.0%, wood 60.0%, Röhricht, nass 20.0%"
    )
