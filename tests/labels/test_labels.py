"""The whole way from a file to label maps: every pixel against areas, lengths and places that shapely computes exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio
import shapely
import shapely.affinity
from affine import Affine
from exact_maps import Exact, Grid, exact_classes, ground_of, shares
from factories import RegionHeaderFactory
from label_files import (
    CORNER,
    GRID,
    UTM,
    Shapes,
    array,
    frame_of,
    moved,
    placed,
    squares,
    write_features,
    write_raster,
    write_shapefile,
    write_zip,
)
from numpy.typing import NDArray

from lianet_user.errors import LabelWarning
from lianet_user.files.header import IGNORE, RegionHeader
from lianet_user.labels import LabelOptions, Labels, read_labels

WORDS = ("forest", "meadow", "water")


# -- What is drawn, in pixels of GRID -----------------------------------------------------------------------------------


def stars(seed: int, count: int = 14, largest: float = 6.0) -> Shapes:
    """Polygons of many sizes, overlapping, some beyond the grid."""
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, 9, endpoint=False)
    outlines = []
    for _ in range(count):
        radius = rng.uniform(0.5, 1.0, 9) * rng.uniform(largest / 4, largest)
        around = radius[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
        outlines.append(shapely.Polygon(rng.uniform((0, 0), (30, 20)) + around))
    return array(*outlines)


def rings(seed: int) -> Shapes:
    """Multipolygons of two parts, of which one has a hole."""
    outer = stars(seed, 12)
    holed = [shape.difference(shapely.affinity.scale(shape, 0.5, 0.5)) for shape in outer]
    islands = [shapely.affinity.translate(shapely.affinity.scale(shape, 0.3, 0.3), 9, 3) for shape in outer]
    return array(
        *[shapely.multipolygons([*shapely.get_parts(one), two]) for one, two in zip(holed, islands, strict=True)]
    )


def walks(seed: int, count: int = 9) -> Shapes:
    rng = np.random.default_rng(seed)
    return array(
        *[
            shapely.LineString(rng.uniform((0, 0), (30, 20)) + np.cumsum(rng.uniform(-5, 5, (5, 2)), axis=0))
            for _ in range(count)
        ]
    )


def places(seed: int, count: int = 60) -> Shapes:
    found = np.random.default_rng(seed).uniform((-1, -1), (31, 21), (count, 2))
    return array(*[shapely.Point(place) for place in found])


POLYGONS, RINGS, LINES, POINTS = stars(1), rings(2), walks(3), places(4)
MULTILINES = array(*[shapely.multilinestrings(list(walks(seed, 3))) for seed in (5, 6, 7)])
MULTIPOINTS = array(*[shapely.multipoints(list(places(seed, 20))) for seed in (5, 6, 7)])
MIXTURE = array(*[*stars(8, 6), *walks(9, 4), *places(10, 20)])
COLLECTIONS = array(
    *[shapely.GeometryCollection([*stars(seed, 2), *walks(seed, 2), *places(seed, 5)]) for seed in (11, 12, 13)]
)
QUARTERS = array(
    *[shapely.box(col + 0.7, row + 0.3, col + 4.9, row + 5.1) for row in (0, 7, 14) for col in range(0, 30, 6)]
)
"""No two of them meet."""


def on_earth(shapes: Shapes, crs: str) -> Shapes:
    """Shapes in (column, row) of GRID, in a CRS."""
    return geopandas.GeoSeries(placed(shapes), crs=UTM).to_crs(crs).to_numpy()


# -- Files, written by the libraries that people use --------------------------------------------------------------------


def save(path: Path, frame: geopandas.GeoDataFrame, **options: Any) -> Path:
    if path.suffix != ".zip":
        return write_features(path, frame, **options)
    inside = path.parent / "folder"
    inside.mkdir()
    write_features(inside / "inside.shp", frame, **options)
    return write_zip(path, inside.iterdir(), path.parent)


def by_geojson(path: Path, frame: geopandas.GeoDataFrame) -> Path:
    """Written by geopandas itself, which leaves every cell its type."""
    path.write_text(frame.to_json(to_wgs84=True), "utf-8")
    return path


def points_table(x: str, y: str, **layout: Any) -> Callable[[Path, geopandas.GeoDataFrame], Path]:
    def write(path: Path, frame: geopandas.GeoDataFrame) -> Path:
        plain = pd.DataFrame(frame.drop(columns="geometry")).assign(**{x: frame.geometry.x, y: frame.geometry.y})
        plain.to_csv(path, index=False, **layout)
        return path

    return write


def styled(path: Path, frame: geopandas.GeoDataFrame) -> Path:
    """A GeoPackage in which QGIS has stored a style: other names in another order."""
    save(path, frame)
    symbols = "".join(
        f'<symbol type="fill" name="{n}"><layer class="SimpleFill"><Option type="Map"><Option name="color"'
        f' value="{color},255"/></Option></layer></symbol>'
        for n, color in enumerate(("0,0,255", "0,128,0", "255,255,0"))
    )
    entries = "".join(
        f'<category symbol="{n}" value="{word}" label="{name}"/>'
        for n, (word, name) in enumerate((("water", "See"), ("forest", "Wald"), ("meadow", "Wiese")))
    )
    qml = (
        '<!DOCTYPE qgis PUBLIC "http://mrcc.com/qgis.dtd" "SYSTEM"><qgis><renderer-v2 type="categorizedSymbol"'
        f' attr="label"><categories>{entries}</categories><symbols>{symbols}</symbols></renderer-v2></qgis>'
    )
    style = {"f_table_name": ["labels"], "styleName": ["land"], "styleQML": [qml], "useAsDefault": [True]}
    pyogrio.write_dataframe(pd.DataFrame(style), path, layer="layer_styles", append=True)
    return path


def two_layers(path: Path, frame: geopandas.GeoDataFrame) -> Path:
    save(path, frame.assign(label="nothing"), layer="other")
    return save(path, frame, layer="wanted", append=True)


def area_file(folder: Path) -> str:
    return str(save(folder / "area.fgb", geopandas.GeoDataFrame(geometry=on_earth(array(AREA), UTM), crs=UTM)))


def classes_file(folder: Path) -> Path:
    path = folder / "classes.csv"
    path.write_text("code;name;color\n3;Röhricht;#336699\n1;Wald;#008000\n2;Wiese;\n9;Moor;#aa5500\n", "utf-8")
    return path


AREA = shapely.Polygon([(2.3, 1.1), (27.2, 2.9), (25.6, 18.4), (4.9, 16.2)])


# -- Features: formats x kinds of geometry x CRS x labels x rules ------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file of features with the column `label`, and what it has to become."""

    name: str = "labels.gpkg"
    write: Callable[..., Path] = save
    shapes: Shapes = field(default_factory=lambda: POLYGONS)
    crs: str = UTM
    words: Sequence[Any] = WORDS
    """What the file calls the classes; the features bear them in turn."""
    kinds: Sequence[int | None] | None = None
    """Class index of each of these words, None where it labels nothing; in turn by default."""
    names: Sequence[str] | None = None
    """Of the classes of the map, in order; what the file calls them by default."""
    columns: dict[str, Sequence[Any]] = field(default_factory=dict)
    """More columns, in turn."""
    options: dict[str, Any] = field(default_factory=dict)
    """Files are named by what writes them."""
    background: tuple[int, Any] | None = None
    counts: dict[str, int] = field(default_factory=dict)
    """Fates of features other than being used."""
    says: str = ""
    """Part of a note."""
    warns: str = ""

    def frame(self) -> geopandas.GeoDataFrame:
        columns = {"label": self.words, **self.columns}
        cells = {name: in_turn(values, len(self.shapes)) for name, values in columns.items()}
        return geopandas.GeoDataFrame(cells, geometry=on_earth(self.shapes, self.crs), crs=self.crs)

    def file(self, folder: Path) -> Path:
        return self.write(folder / self.name, self.frame())


def in_turn(values: Sequence[Any], count: int) -> list[Any]:
    return [values[index % len(values)] for index in range(count)]


def spelled(*words: Any) -> dict[str, Any]:
    """Cells that spell three classes in several ways, in turn."""
    return {"words": words, "kinds": [int(float(str(word).strip())) - 1 for word in words], "names": ("1", "2", "3")}


NUMBERED: dict[str, Any] = {"words": (1, 2, 3), "names": ("1", "2", "3")}

CASES: dict[str, Case] = {
    # Formats, and kinds of geometry in them.
    "GeoPackage": Case(),
    "Shapefile": Case(name="labels.shp"),
    "zipped Shapefile": Case(name="labels.zip", shapes=RINGS),
    "File Geodatabase": Case(name="labels.gdb", shapes=RINGS),
    "GeoJSON": Case(name="labels.geojson", shapes=MIXTURE, crs="EPSG:4326"),
    "FlatGeobuf": Case(name="labels.fgb", shapes=POLYGONS, options={"on_conflict": "ignore"}),
    "GeoParquet": Case(name="labels.parquet", shapes=MIXTURE),
    "KML": Case(name="labels.kml", shapes=POLYGONS, crs="EPSG:4326"),
    "GML": Case(name="labels.gml", shapes=RINGS),
    "layer of several": Case(write=two_layers, options={"layer": "wanted"}),
    "CSV, decimal comma": Case(
        name="labels.csv",
        shapes=POINTS,
        crs="EPSG:4326",
        write=points_table("lon", "lat", sep=";", decimal=","),
        says="decimal comma",
    ),
    "CSV, x and y": Case(
        name="labels.csv",
        shapes=POINTS,
        crs="EPSG:25833",
        write=points_table("x", "y"),
        options={"labels_crs": "EPSG:25833"},
        says="as given with `labels_crs`",
    ),
    # Kinds of geometry.
    "multipolygons with holes": Case(shapes=RINGS),
    "lines": Case(shapes=LINES),
    "multilines": Case(name="labels.shp", shapes=MULTILINES),
    "points": Case(shapes=POINTS),
    "multipoints": Case(name="labels.shp", shapes=MULTIPOINTS),
    "mixture": Case(shapes=MIXTURE),
    "collections": Case(shapes=COLLECTIONS),
    "points and lines in a geodatabase": Case(name="labels.gdb", shapes=POINTS),
    "lines in FlatGeobuf": Case(name="labels.fgb", shapes=LINES, options={"on_conflict": "ignore"}),
    # Coordinates.
    "degrees": Case(crs="EPSG:4326", shapes=RINGS),
    "lines in degrees": Case(crs="EPSG:4326", shapes=LINES, name="labels.geojson"),
    "another zone": Case(crs="EPSG:32632", shapes=COLLECTIONS),
    "LAEA": Case(crs="EPSG:3035", shapes=MIXTURE, name="labels.parquet", says="ETRS89 to WGS 84"),
    "Gauss-Krueger": Case(crs="EPSG:31468", says="accurate to 2 m", warns="de_adv_BETA2007"),
    "Gauss-Krueger, points": Case(
        crs="EPSG:31468",
        name="labels.csv",
        shapes=POINTS,
        write=points_table("rechtswert", "hochwert", sep=";", decimal=","),
        options={"labels_crs": "EPSG:31468"},
        warns="de_adv_BETA2007",
    ),
    "Web Mercator": Case(crs="EPSG:3857", shapes=POLYGONS, name="labels.fgb", options={"on_conflict": "ignore"}),
    # Labels.
    "whole numbers": Case(**NUMBERED),
    "numbers in order": Case(words=(10, 9, 100), kinds=(1, 0, 2), names=("9", "10", "100")),
    "numbers with gaps": Case(
        words=(1.0, 2.0, 3.0, None), kinds=(0, 1, 2, None), names=("1", "2", "3"), counts={"no_label": 3}
    ),
    "true and false": Case(words=(True, False), kinds=(1, 0), names=("False", "True")),
    "spelled in several ways": Case(
        name="labels.geojson", write=by_geojson, **spelled("1", 2, 3.0, 1.0, "2", " 3 ", 1)
    ),
    "text in several spellings": Case(
        **spelled("1", "2 ", "3.0", "+1", "2", " 3 ", "1.00"), says="spelling that all share"
    ),
    "stray blanks and nulls": Case(
        words=("forest", " forest ", "water", "", None, "  "),
        kinds=(0, 0, 1, None, None, None),
        names=("forest", "water"),
        counts={"no_label": 6},
    ),
    "umlauts in an undeclared encoding": Case(
        name="labels.shp",
        write=partial(write_shapefile, encoding="CP1252"),
        words=("Röhricht", "Wälder", "Äcker"),
        says="read as cp1252",
    ),
    "QGIS style": Case(write=styled, kinds=(1, 2, 0), names=("See", "Wald", "Wiese"), says="QGIS style 'land'"),
    "--classes": Case(
        words=(1, 2, 3),
        kinds=(1, 2, 0),
        names=("Röhricht", "Wald", "Wiese"),
        options={"classes": classes_file},
        says="left out, since the region lacks them: 'Moor'",
    ),
    "--map merges": Case(kinds=(0, 1, 0), names=("forest", "meadow"), options={"mapping": (("water", "forest"),)}),
    "--map drops": Case(
        kinds=(0, 1, None), names=("forest", "meadow"), options={"mapping": (("water", None),)}, counts={"excluded": 4}
    ),
    "--where": Case(
        columns={"year": (2017, 2018)},
        kinds=(None, 1, None, 0, None, 2),
        options={"where": "year = 2018", "field": "label"},
    ),
    # Rules.
    "at least a quarter": Case(options={"min_coverage": 0.25}),
    "at least nine tenths": Case(options={"min_coverage": 0.9}, shapes=RINGS),
    "centre": Case(options={"rule": "center"}, shapes=MIXTURE),
    "all touched": Case(options={"rule": "all-touched"}, shapes=QUARTERS),
    "all touched, overlapping": Case(options={"rule": "all-touched"}, shapes=MIXTURE),
    "last": Case(options={"on_conflict": "last"}, shapes=MIXTURE),
    "first": Case(options={"on_conflict": "first"}, shapes=COLLECTIONS),
    "points with a buffer": Case(options={"buffer": 23.0}, shapes=places(4, 25), says="with 23 m around them"),
    "lines with a buffer": Case(options={"buffer": 12.5}, shapes=walks(3, 5), crs="EPSG:4326"),
    "four times as fine": Case(options={"scale": 4}, shapes=MIXTURE),
    # Background.
    "background in an area": Case(
        options={"background": "else", "labelled_area": area_file}, names=(*WORDS, "else"), background=(3, AREA)
    ),
    "background in the region": Case(
        shapes=LINES,
        options={"background": "water", "labelled_area": "region"},
        names=("forest", "water"),
        words=WORDS[:1],
        background=(1, shapely.box(0, 0, 30, 20)),
    ),
    "no background where something unknown is": Case(
        words=("forest", None, "water", "house"),
        kinds=(0, None, 1, None),
        options={"background": "else", "labelled_area": area_file, "mapping": (("house", None),)},
        names=("forest", "water", "else"),
        background=(2, AREA),
        counts={"no_label": 4, "excluded": 3},
    ),
}


def expected_of(case: Case, which: Sequence[int] | None = None) -> Exact:
    """The map of all features, or of some."""
    scale = case.options.get("scale", 1)
    shape = (20 * scale, 30 * scale)
    rule, reach = case.options.get("rule", "majority"), case.options.get("buffer", 0.0) / 10
    kinds = in_turn(range(len(case.words)) if case.kinds is None else case.kinds, len(case.shapes))
    chosen = range(len(kinds)) if which is None else which
    shapes = shapely.transform(case.shapes, lambda points: points * scale)
    return exact_classes(
        [ground_of(shapes[n], shape, rule, reach) for n in chosen],
        [kinds[n] for n in chosen],
        shape,
        least=case.options.get("min_coverage", 0.5) if rule == "majority" else 0.5,
        on_conflict=case.options.get("on_conflict", "ignore"),
        background=case.background,
        near=1e-2 if reach else 1e-3,  # circles have corners
    )


@pytest.fixture
def region(region_header: RegionHeaderFactory) -> RegionHeader:
    return region_header(geobox=GRID)


def read(case: Case | RasterCase, folder: Path, region: RegionHeader) -> Labels:
    options = {name: value(folder) if callable(value) else value for name, value in case.options.items()}
    with pytest.warns(LabelWarning, match=case.warns) if case.warns else nullcontext():
        return read_labels(case.file(folder), region, LabelOptions(**options))


@pytest.mark.parametrize("name", CASES)
def test_features_become_the_map_that_their_areas_say(tmp_path: Path, region: RegionHeader, name: str) -> None:
    case = CASES[name]
    labels = read(case, tmp_path, region)
    exact, report = expected_of(case), labels.report

    assert [entry.name for entry in labels.classes] == list(case.names or case.words)
    assert_map(labels.maps[0].values, exact)
    unsure = int((~exact.sure).sum())
    assert abs(report.contradicting - int(exact.contradicting.sum())) <= unsure
    scale = labels.scale**2
    near = 1e-2 if "buffer" in case.options else 1e-4  # circles have corners
    assert report.labelled_ground == pytest.approx(exact.labelled, rel=near, abs=0.01 * scale)
    assert report.contested_ground == pytest.approx(exact.contested, rel=10 * near, abs=0.01 * scale)
    assert case.says in "\n".join(report.lines())
    assert [entry.pixels for entry in report.classes] == [
        np.count_nonzero(labels.maps[0].values == index) for index in range(len(labels.classes))
    ]
    counts = report.features
    assert counts is not None
    assert counts.used == sum(entry.features for entry in report.classes)
    for fate in ("no_geometry", "not_polygons", "no_label", "excluded", "no_date", "duplicates"):
        assert getattr(counts, fate) == case.counts.get(fate, 0), fate


def assert_map(values: Grid, exact: Exact) -> None:
    assert exact.sure.mean() > 0.85
    assert (exact.values[exact.sure] != IGNORE).sum() > 30
    np.testing.assert_array_equal(values[exact.sure], exact.values[exact.sure])


# -- Rasters: types x grids x CRS x nodata ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RasterCase:
    """A GeoTIFF of square patches, and what it has to become."""

    crs: str = UTM
    size: float = 10.0
    """Of its pixels, in units of its CRS."""
    patch: int = 8
    """Pixels of the raster along the side of what has one value."""
    turn: float = 0.0
    corner: tuple[float, float] | None = None
    """Of the raster, in pixels of GRID; by default it covers GRID with room to spare."""
    dtype: str = "uint8"
    codes: Sequence[float] = (1, 2, 3)
    """Values of the patches, drawn at random."""
    kinds: Sequence[int | None] = (0, 1, 2)
    """Class index of each."""
    names: Sequence[str] = ("1", "2", "3")
    profile: dict[str, Any] = field(default_factory=dict)
    bands: int = 1
    """The labels are in the last."""
    finish: Callable[[Path], None] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    says: str = ""
    warns: str = ""

    def transform(self) -> Affine:
        if self.corner is not None:
            return GRID.affine @ Affine.translation(*self.corner) @ Affine.scale(self.size / 10)
        west, south, east, north = geopandas.GeoSeries([GRID.extent.geom], crs=UTM).to_crs(self.crs).total_bounds
        margin = 0.77 * max(east - west, north - south)
        corner = Affine.translation(west - margin, north + margin)
        return corner @ Affine.rotation(self.turn) @ Affine.scale(self.size, -self.size)

    def patches(self) -> NDArray[np.intp]:
        """(rows, columns) index into `codes`, the same for every raster of as many patches."""
        scale = 1 if self.crs != "EPSG:4326" else 1e5
        across = int(900 / (self.size * scale * self.patch)) if self.corner is None else 4
        return np.random.default_rng(5).integers(0, len(self.codes), (across, across))

    def file(self, folder: Path) -> Path:
        values = np.array(self.codes, self.dtype)[np.kron(self.patches(), np.ones((self.patch, self.patch), int))]
        bands = np.stack([*[np.ones_like(values)] * (self.bands - 1), values])
        path = write_raster(folder / "labels.tif", bands, self.transform(), self.crs, **self.profile)
        if self.finish is not None:
            self.finish(path)
        return path

    def grounds(self) -> list[Any]:
        """Of each code, in pixels of GRID."""
        patches, transform = self.patches(), self.transform() @ Affine.scale(self.patch)
        boxes = placed(moved(placed(squares((patches.shape[0], patches.shape[1])), transform), self.crs, UTM), ~CORNER)
        return [shapely.union_all(boxes[patches == index]) for index in range(len(self.codes))]


def palette(path: Path) -> None:
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {1: (0, 100, 0, 255), 2: (200, 200, 0, 255), 3: (0, 0, 200, 255)})


def category_names(path: Path) -> None:
    names = "".join(f"<Category>{name}</Category>" for name in ("", "Wald", "Wiese", "See"))
    sidecar = f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames></PAMRasterBand></PAMDataset>'
    path.with_name("labels.tif.aux.xml").write_text(sidecar)


WITHOUT_THIRD: dict[str, Any] = {"kinds": (0, 1, None), "names": ("1", "2")}

RASTERS: dict[str, RasterCase] = {
    "the same grid": RasterCase(corner=(-5, -5), patch=10, profile={"compress": "deflate", "tiled": True}),
    "aligned, coarser": RasterCase(
        corner=(-10, -10), size=30.0, patch=5, codes=(1, 2) * 2, kinds=(0, 1) * 2, names=("1", "2")
    ),
    "not aligned": RasterCase(corner=(-3.3, -4.6), size=10.0, patch=12),
    "finer": RasterCase(size=3.1, patch=29, dtype="int16", codes=(-5, 7, 300), names=("-5", "7", "300")),
    "much finer": RasterCase(size=0.9, patch=90),
    "degrees": RasterCase(crs="EPSG:4326", size=1e-4, patch=12),
    "another zone, turned": RasterCase(crs="EPSG:32632", size=6.0, patch=15, turn=20.0),
    "LAEA": RasterCase(crs="EPSG:3035", size=20.0, patch=5, says="ETRS89 to WGS 84"),
    "Gauss-Krueger": RasterCase(crs="EPSG:31468", size=10.0, warns="de_adv_BETA2007"),
    "floats that are whole": RasterCase(dtype="float32", codes=(1.0, 2.0, np.nan), **WITHOUT_THIRD),
    "palette": RasterCase(finish=palette),
    "category names": RasterCase(finish=category_names, kinds=(0, 1, 2), names=("Wald", "Wiese", "See"), says="Wald"),
    "one band of several": RasterCase(bands=3, options={"band": 3}),
    "nodata of the file": RasterCase(profile={"nodata": 3}, **WITHOUT_THIRD, says="3 (as the file states)"),
    "several nodata": RasterCase(
        profile={"nodata": 0},
        codes=(1, 2, 0, 9, 255),
        kinds=(0, 1, None, None, None),
        names=("1", "2"),
        options={"nodata": (9.0, 255.0)},
        says="0 (as the file states), 9 (as given), 255 (as given)",
    ),
    "--map merges and drops": RasterCase(
        codes=(1, 2, 3, 4),
        kinds=(0, 1, 0, None),
        names=("1", "2"),
        options={"mapping": (("3", "1"), ("4", None))},
        says="of classes dropped on request",
    ),
    "--classes": RasterCase(kinds=(1, 2, 0), names=("Röhricht", "Wald", "Wiese"), options={"classes": classes_file}),
    "only a part of the region": RasterCase(corner=(3.6, -8.2), patch=7, says="px is outside the raster"),
    "four times as fine": RasterCase(corner=(-2, -3), size=2.5, patch=33, options={"scale": 4}),
}


@pytest.mark.parametrize("name", RASTERS)
def test_rasters_become_the_map_that_their_areas_say(tmp_path: Path, region: RegionHeader, name: str) -> None:
    case = RASTERS[name]
    labels = read(case, tmp_path, region)
    scale = labels.scale
    shape, grounds = (20 * scale, 30 * scale), shapely.transform(array(*case.grounds()), lambda points: points * scale)
    # Rasters are sampled at 4 x 4 places or more.
    exact = exact_classes(list(grounds), case.kinds, shape, near=2 / 16)
    assert [entry.name for entry in labels.classes] == list(case.names)
    assert_map(labels.maps[0].values, exact)
    assert case.says in "\n".join(labels.report.lines())
    counts = labels.report.raster
    assert counts is not None
    inside = shapely.area(shapely.intersection(grounds, shapely.box(0, 0, shape[1], shape[0])))
    unused = sum(area for area, kind in zip(inside, case.kinds, strict=True) if kind is None)
    assert counts.outside == pytest.approx(shape[0] * shape[1] - inside.sum(), abs=8)
    assert counts.nodata + counts.excluded == pytest.approx(unused, abs=8)
    assert labels.report.labelled_ground == pytest.approx(exact.labelled, rel=0.02)
    assert labels.report.contradicting == labels.report.contested_ground == 0


# -- Numbers: regression and coverage -----------------------------------------------------------------------------------


def exact_numbers(shapes: Shapes, numbers: Sequence[float], least: float = 0.5) -> tuple[Grid, Grid]:
    """The mean over what is covered by one number alone; points and lines of a pixel count as one, with their mean.

    Returns:
        (20, 30) numbers, NaN where there is none; and which pixels are sure to have one or none.
    """
    pixels = squares((20, 30))
    if shapely.get_dimensions(shapes).max() < 2:
        meeting = shapely.intersects(shapes[:, None, None], pixels)
        count = meeting.sum(axis=0)
        total = (meeting * np.array(numbers)[:, None, None]).sum(axis=0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan), np.ones((20, 30), bool)
    values = np.unique(numbers)
    claims = [shapely.union_all(shapes[np.array(numbers) == value]) for value in values]
    alone = [claim.difference(shapely.union_all(claims[:n] + claims[n + 1 :])) for n, claim in enumerate(claims)]
    share = np.array([shares(ground, (20, 30)) for ground in alone])
    known = share.sum(axis=0)
    means = (share * values[:, None, None]).sum(axis=0) / np.maximum(known, 1e-9)
    return np.where(known >= least, means, np.nan), np.abs(known - least) > 1e-5


def steps(count: int) -> list[float]:
    return np.random.default_rng(0).integers(0, 20, count).tolist()


@pytest.mark.parametrize(
    ("name", "shapes", "crs", "factor", "options"),
    [
        ("labels.gpkg", POLYGONS, UTM, 0.25, {}),
        ("labels.gpkg", POLYGONS, UTM, 1, {"task": "regression"}),
        ("labels.fgb", RINGS, "EPSG:3035", 0.25, {"min_coverage": 0.9}),
        ("labels.shp", QUARTERS, "EPSG:32632", 0.25, {"min_coverage": 0.25}),
        ("labels.geojson", POINTS, "EPSG:4326", 0.25, {}),
        ("labels.gdb", LINES, UTM, 1, {"task": "regression"}),
    ],
)
def test_numbers_are_means_over_the_ground_they_hold_on(
    tmp_path: Path,
    region: RegionHeader,
    name: str,
    shapes: Shapes,
    crs: str,
    factor: float,
    options: dict[str, Any],
) -> None:
    numbers = [factor * step for step in steps(len(shapes))]
    frame = geopandas.GeoDataFrame(
        {"name": "x", "height": numbers if factor < 1 else [int(number) for number in numbers]},
        geometry=on_earth(shapes, crs),
        crs=crs,
    )
    labels = read_labels(save(tmp_path / name, frame), region, LabelOptions(field="height", **options))
    exact, sure = exact_numbers(shapes, numbers, options.get("min_coverage", 0.5))
    (found,) = (each.values for each in labels.maps)
    assert labels.task == "regression"
    assert labels.classes == ()
    assert found.dtype == np.float32
    assert ("as asked" if options.get("task") else "fractions") in "".join(labels.report.notes)
    assert sure.mean() > 0.9
    assert np.isfinite(exact[sure]).sum() > 30
    np.testing.assert_array_equal(np.isnan(found[sure]), np.isnan(exact[sure]))
    close = np.abs(found[sure] - exact[sure]) <= 1e-3 * 20 * factor
    assert (close | np.isnan(exact[sure])).all()
    # Where one number holds alone it is exact.
    whole = sure & np.isin(exact, numbers)
    assert whole.sum() > 10
    summary = labels.report.numbers
    assert summary is not None
    assert (summary.minimum, summary.maximum) == (np.nanmin(found), np.nanmax(found))
    assert summary.mean == pytest.approx(np.nanmean(found), rel=1e-5)


@pytest.mark.parametrize(
    ("dtype", "crs", "size", "options"),
    [
        ("float32", UTM, 3.0, {}),
        ("float64", "EPSG:32632", 25.0, {}),
        ("int16", "EPSG:3035", 7.0, {"task": "regression"}),
    ],
)
def test_numbers_of_a_raster_are_averaged(
    tmp_path: Path, region: RegionHeader, dtype: str, crs: str, size: float, options: dict[str, Any]
) -> None:
    codes = (3, 10, 28, -99) if dtype == "int16" else (0.25, 10.5, 3.75, -99.0)
    layout: dict[str, Any] = {"crs": crs, "size": size, "patch": int(90 / size), "profile": {"nodata": -99}}
    case = RasterCase(dtype=dtype, codes=codes, options=options, **layout)
    labels = read(case, tmp_path, region)
    share = np.array([shares(ground, (20, 30)) for ground in case.grounds()[:3]])
    known = share.sum(axis=0)
    exact = (share * np.array(codes[:3])[:, None, None]).sum(axis=0) / np.maximum(known, 1e-9)
    sure = np.abs(known - 0.5) > 2 / 16
    found = labels.maps[0].values
    assert labels.task == "regression"
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(np.isfinite(found[sure]), (known >= 0.5)[sure])
    borne = sure & np.isfinite(found)
    assert borne.sum() > 100
    assert np.abs(found[borne] - exact[borne]).max() < 2 / 16 * 28 * 2
    alone = share.max(axis=0) > 0.9999
    np.testing.assert_allclose(found[alone], exact[alone], rtol=1e-3)


@pytest.mark.parametrize(("name", "crs"), [("labels.gpkg", UTM), ("labels.zip", "EPSG:4326")])
@pytest.mark.parametrize("area", ["region", area_file])
def test_coverage_is_the_share_under_polygons_where_all_was_mapped(
    tmp_path: Path, region: RegionHeader, name: str, crs: str, area: Any
) -> None:
    frame = geopandas.GeoDataFrame({"name": "x"}, index=range(14), geometry=on_earth(POLYGONS, crs), crs=crs)
    where = area if isinstance(area, str) else area(tmp_path)
    options = LabelOptions(task="coverage", labelled_area=where)
    labels = read_labels(save(tmp_path / name, frame), region, options)
    found = labels.maps[0].values
    mapped = np.ones((20, 30), bool) if area == "region" else shapely.contains_properly(AREA, squares((20, 30)))
    np.testing.assert_array_equal(np.isfinite(found), mapped)
    exact = shares(shapely.union_all(POLYGONS), (20, 30))
    assert np.abs(found - exact)[mapped].max() < 1e-6
    assert (found[mapped & (exact == 0)] == 0).all()
    assert (found[mapped & (exact == 1)] == 1).all()
    assert 0.1 < exact[mapped].mean() < 0.9


@pytest.mark.parametrize(("share", "borne", "shared"), [(0.55, 0, 0), (0.5, None, 20), (0.45, 1, 0)])
def test_pixels_that_no_class_wins_are_counted(
    tmp_path: Path, region: RegionHeader, share: float, borne: int | None, shared: int
) -> None:
    neighbours = array(shapely.box(0, 0, 15 + share, 20), shapely.box(15 + share, 0, 30, 20))
    path = save(tmp_path / "labels.gpkg", frame_of(placed(neighbours)))
    labels = read_labels(path, region, LabelOptions(field="label"))
    assert (labels.maps[0].values[:, 15] == (IGNORE if borne is None else borne)).all()
    assert labels.report.undecided == labels.report.as_dict()["undecided"] == shared
    assert (f"  shared: {shared} pixels are ignored" in "\n".join(labels.report.lines())) == (shared > 0)


# -- Time -------------------------------------------------------------------------------------------------------------


DAYS = ("2017-02-16", "2017-03-16", "2017-04-16")


@pytest.mark.parametrize(
    ("options", "held", "says"),
    [
        ({"dates": ("2017-03-16",)}, (1,), ""),
        ({"dates": ("2017-04-16", "2017-02-16")}, (0, 2), ""),
        ({"dates": ("all",)}, (0, 1, 2), "all 3 of the region"),
        ({"dates": ("2017-03-20",), "date_tolerance": 5}, (1,), "2017-03-20 taken for 2017-03-16, 4 days away"),
    ],
)
@pytest.mark.parametrize("case", [CASES["GeoPackage"], RASTERS["the same grid"]], ids=["features", "raster"])
def test_labels_describe_the_dates_they_are_said_to(
    tmp_path: Path,
    region_header: RegionHeaderFactory,
    case: Case | RasterCase,
    options: dict[str, Any],
    held: tuple[int, ...],
    says: str,
) -> None:
    region = region_header(geobox=GRID, dates=3)
    labels = read_labels(case.file(tmp_path), region, LabelOptions(**options))
    (only,) = labels.maps
    assert only.dates == labels.dates == tuple(region.dates[index] for index in held)
    assert says in "".join(labels.report.notes)


@pytest.mark.parametrize(("name", "shift"), [("labels.gpkg", 0), ("labels.csv", 0), ("labels.geojson", 3)])
def test_features_of_each_date_make_a_map_of_their_own(
    tmp_path: Path, region_header: RegionHeaderFactory, name: str, shift: int
) -> None:
    table = name.endswith("csv")
    case = Case(
        name=name,
        shapes=POINTS if table else POLYGONS,
        write=points_table("x", "y") if table else save,
        columns={"seen": [None if n == 3 else f"2017-0{2 + n}-{16 + shift}" for n in (1, 0, 3, 1, 0)]},
    )
    options = LabelOptions(field="label", date_field="seen", date_tolerance=shift, labels_crs=UTM if table else None)
    region = region_header(geobox=GRID, dates=3)
    labels = read_labels(case.file(tmp_path), region, options)
    assert [each.dates for each in labels.maps] == [region.dates[:1], region.dates[1:2]]
    for each, turns in zip(labels.maps, ((1, 4), (0, 3)), strict=True):
        exact = expected_of(case, [n for n in range(len(case.shapes)) if n % 5 in turns])
        np.testing.assert_array_equal(each.values[exact.sure], exact.values[exact.sure])
        assert (each.values != IGNORE).sum() > 10
    counts = labels.report.features
    assert counts is not None
    assert counts.no_date == sum(n % 5 == 2 for n in range(len(case.shapes)))
    assert labels.report.pixels == 2 * 600
    assert labels.report.labelled == sum(int(each.labelled.sum()) for each in labels.maps)
