"""Make the demo's labels from OpenStreetMap's and from what was digitised on the image that the region remembers.

    python make_havelland_water_and_clouds.py

It reads havelland_landcover.gpkg, which has no label on the largest lakes and none on clouds, and writes beside it:

- havelland_water_and_clouds.gpkg: the Beetzsee with the Riewendsee, as far as they are labels, and clouds;
- havelland_water_check.gpkg: the stretches of these lakes that bear no label on purpose, to look at a map there;
- havelland_demo.gpkg: OpenStreetMap's polygons and ours, in one layer.

The outlines below were drawn by eye on pictures of `lianet-user reconstruct models/havelland.safetensors` (B04, B03, B02 and
B08, B11, B04, enlarged four to eight times) in pixels from the region's upper left corner, column before row. On
2017-02-16 the lakes were frozen, the channels between them were open, and a cloud's shadow lay on the ice near Radewege.
Water ends in the bright rim of the ice, where the reeds begin. Clouds are those that hide the ground, and the deepest
shadow on fields; thin veils, and the village that can be made out in the shadow, bear no such label.

Where ours and OpenStreetMap's overlap, ours hold, because they were seen: what OpenStreetMap draws as reeds, meadow or wood
beyond the rim of the ice becomes water, and what lies below a cloud becomes cloud. To keep havelland_demo.gpkg small,
OpenStreetMap's polygons are clipped to the region in it, and their outlines simplified.
"""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pandas
import pyogrio
import shapely

CRS, LEFT, TOP, PIXEL, COLUMNS, ROWS = "EPSG:32633", 330_000.0, 5_822_040.0, 10.0, 1536, 768
TOLERANCE = 20.0  # metres: the root of the area of the triangles that simplifying leaves out (Visvalingam and Whyatt)
SOURCE = "digitised from the remembered image"
COLOR_OF = {"water": "#2b7bba", "cloud": "#d9d9d9"}
OURS = "Lakes and clouds drawn for lianet_user on modified Copernicus Sentinel data 2017, CC-BY-4.0"
OSM = "(c) OpenStreetMap contributors, ODbL 1.0"

# Both shores of the Beetzsee and the Riewendsee, from the region's southern border to its northern one.
WESTERN_SHORE = """
455,768 456,767 460,758 461,750 458,745 456,738 455.5,728 457.5,720 459.5,713 461.5,708 464,703 464,697 467,692 471,687
477,682 479.5,679.3 477,673 474,669 471,664 469.5,660 468.5,655 466.5,650 465.5,645 464.5,640 467,636 468.6,630 468.6,622
470,613.5 470,608 468.3,599 467.9,590.7 471.4,583.5 473.5,573.5 472.9,565 471.7,559 471.4,549.3 467.9,537.9 470.7,533.5
471.4,529 472.6,523 476.4,518.5 480.7,515 488.6,510.7 497,507.5 507,506.7 512.9,508.5 520,511 527,513.5 532.9,515.7
537,519.3 542.9,523.2 550,524.3 557,522 564.3,520.3 570.5,516.5 571.2,511 571,503 572.7,498.3 578.7,494.3 582.7,489.7
584,485.7 590.7,480.3 596,476.3 600,475.3 605.3,478.3 610,483 614.7,487.7 618.7,494.3 620.3,497.7 625.3,501.7 632,506
640,507 645.3,503.7 653.3,500 660,496.6 666.7,495.3 671.3,491 680,489.4 682,485 683.3,480.3 681.3,477 681,474.3 682.1,470.3
685.5,459.5 687.8,453.3 691.7,447.9 694.3,444 695.9,437.8 696.8,431.6 696.4,423.9 697.9,419.3 700.5,411.5 704.1,406.1
707.2,399.1 711.1,393.7 715.7,389.1 723.4,385.5 729.6,383.7 732.7,380.6 737.4,375.2 743,370.5 752,369.5 756.7,374.4 760.6,379
766.7,382.9 772.9,384.9 779.9,386 790,386.5 800,386.5 807,384.9 814.7,382.9 824,381.8 831.7,381.4 837.9,382.9 845.6,386
851.8,387.5 857.2,391.4 859.9,397.6 861.2,405.3 860.7,413 859.3,419.3 859.9,425.9 863.8,430 871.3,432.3 875.7,429.3
880.8,425.3 888.1,424.2 893.6,421.3 895.1,416.2 896.9,408.2 899,402.4 902.7,395.8 908.5,388.5 914.3,382.7 921.6,376.9
928.9,373.2 934.8,373.2 940.6,371.3 947.9,370.7 955.2,372.8 961,375.4 968.3,377.6 974.1,380.5 981.4,383.4 988.7,385.6
990.9,390 992.3,395.8 995.2,400.9 996.7,406 998.9,412.6 1001,416.2 1007.6,417.4 1015.7,417 1019.3,419.9 1019.6,425
1017.8,433.7 1015.7,441 1014.2,448.3 1013.8,456.5 1020,458.8 1030,462.5 1038.8,466 1046.3,466.9 1050.6,465.6 1055,461.3
1058.8,460 1067.5,456.3 1072.5,451.3 1075,445 1076.3,437.5 1076.3,431.3 1075.9,425 1076.3,420 1080,414.4 1082.2,408.8
1082.8,401.3 1082.2,395.6 1082.2,388.8 1083.6,383.4 1085.6,376.6 1086.3,367 1089.7,361 1091.8,354 1094.5,346.7 1096.9,338.5
1099.3,330.3 1102.7,323.5 1106,318 1111.5,314.7 1120.3,311.6 1128.5,309.7 1138,308.6 1139.7,306.5 1140,300.4 1141,294
1143.5,287.5 1147.8,279.8 1153.3,273.6 1160.3,269.7 1171.3,268.1 1179,266.9 1188.4,267.8 1194.7,264.7 1202.5,260.8
1210.3,258.8 1221.3,257.5 1230.6,257.2 1240,255.6 1249.4,250.2 1257.2,246.3 1265,244.2 1269,242.7 1276.6,239.7 1280.3,237.4
1281,233.6 1280.3,226.9 1282.6,221.6 1287.9,215.6 1294.6,211 1305.2,205.8 1314.2,201.3 1321.7,199 1329.3,199.8 1336.8,198
1344.3,195 1350.4,191.5 1356.4,187 1363.9,181.7 1369.2,177.2 1372,175 1379,175.7 1386.5,174.5 1393.3,170.4 1399.3,166.6
1401.6,161.4 1405.3,154.6 1410.6,149.8 1415.9,148.3 1419.6,150.8 1422.7,155.3 1429.4,159.1 1430.2,163.6 1433.9,167.4
1440,168.7 1455,166 1465.8,162.5 1470,159.2 1472,151.7 1473.5,141.7 1476,131.7 1477.2,123 1476,115 1474.3,106.7 1472.5,100.8
1465,98.3 1456.7,93.3 1454,86.7 1454.5,76.7 1455.3,68.3 1458.3,60 1461.3,53.3 1462.5,48.3 1460.8,43.3 1456.7,36.7 1450,33.3
1442.5,32.5 1444,25 1447.5,18.3 1450.8,13.3 1450.8,6.7 1451.7,0
"""
EASTERN_SHORE = """
522,768 523.3,763 520.7,757.3 517.3,750.7 512,744 510.7,738.7 512,730.7 512.4,718.7 511.3,709.3 510.7,698.7 510,689.3
509.3,680 509,669.3 509.3,660 510.7,652 514.7,646.7 520,641.3 525.3,634.7 530,628.5 535.7,619.3 537.9,609.3 540.7,599.3
542,589 542.6,582 545,573.6 547.6,565 546.4,552 548,549.7 553.3,545 558.7,539 564,534 570.7,532 580,533 588,532.6 594.7,532.3
598.7,530.3 600.7,527.7 602.7,521 604.7,515.7 607.3,511 610.7,506.3 614.7,504 620,505 622,510.3 623.3,515.7 626.7,519
633.3,519.7 640,517.7 644,512.3 648.7,506.3 653.3,501.7 659.3,499.7 662,501 664,505.7 667.3,511 670,512 678.7,509.7
686.7,508.6 691.3,505.7 694.7,500.3 698,495 702.7,490 709.3,486.3 714.7,482.3 720.7,479 722.7,472.3 724.7,464.3 726.7,458
728.1,453.3 730.4,447.1 733.5,441.7 738.9,438.6 746.6,438.6 760.6,439.1 768.3,435.5 777.6,434 786.9,430.9 796.1,429.3
803.9,428.5 813.2,428.5 820.1,428.5 825.5,432.4 831.7,438.6 837.9,445.6 844.1,453.3 851,458.5 857.5,462.6 864.8,464
871.3,462.1 878.6,457.8 888.1,454.9 898.3,451.2 908.5,450.5 916.5,450.5 919.4,445.4 920.2,436.6 920.9,425 923.8,416.2
925.3,411.1 928.2,406 931.8,401.6 934.8,399.5 939.9,400.9 941.3,404.6 944.2,409.7 953.7,411.1 963.9,411.9 971.9,413.3
974.8,417.7 978.5,422 985.8,425 991.6,427.9 996,433 1001,440.3 1005.4,446.8 1009.8,453.4 1013.2,459 1021.3,461.9 1030,466
1037.5,468 1042.5,470 1046.3,471.7 1050,471.1 1055.6,465.6 1060,461.9 1066.3,459.4 1071.3,456.3 1075,451.3 1076.9,445
1078,438.8 1078.6,432.5 1078,427.5 1078.8,421.3 1082.2,414.3 1089,407.2 1094.5,399.7 1097.9,393 1100,387.5 1106.7,388.2
1116.3,387.5 1124.4,384.8 1132.6,384.8 1135.3,386.8 1140,388.8 1146.2,386.8 1150.3,382 1153.7,378 1157.1,370.5 1160.5,365
1163.9,361.6 1165.9,354.8 1166.8,346.8 1169.7,344.7 1176.7,341.6 1181.4,336.9 1186.9,327.5 1192.3,319.7 1194.7,315.8
1197.8,317.3 1201.7,324.4 1206.4,329.8 1213.4,332.5 1221.3,332.2 1230.6,333.8 1236.9,335.3 1240.8,340 1244.7,346.3
1250.9,350.2 1258.8,354 1265,355.6 1272.8,355.6 1280.6,353.3 1288.4,350.2 1293.9,347 1297,340 1299.4,332.2 1302.5,322.8
1301.7,313.4 1301.7,302.5 1307.2,297.8 1309.5,293.1 1304,289.2 1300.2,284.5 1301.7,275.9 1304,269.7 1306.5,262.5 1311,257.5
1318.7,254 1324.8,249.5 1326.3,241.9 1326.3,234.4 1327.8,228.4 1330,223.9 1333.8,218.6 1338.3,214.8 1343.6,211.8
1347.3,208.8 1351.9,208.8 1359.4,210.3 1368.4,209.5 1374.5,207 1380.5,205 1388,204 1397,201.3 1399.3,198.3 1403,196
1409,195.2 1413.6,190.7 1418.9,187.7 1424.2,182.4 1428.7,177.9 1433.2,175.7 1437,172 1440,171.3 1455,169 1466.5,165.5
1472,161.5 1475,151.7 1476.8,141.7 1479,131.7 1480.2,123 1479,115 1477.3,106.7 1475.8,100.8 1477.5,96.7 1478.3,90 1478.7,80
1477.5,70 1475,63.3 1471.7,55 1471.3,48.3 1472.5,40 1475.8,33.3 1478.3,26.7 1480.8,20 1485,16.7 1496.7,13.3 1505,10 1510,5
1510.8,0
"""
ISLAND = """
1153,320.8 1155,324.9 1155.7,331 1154.4,337 1152.3,344 1151.2,351.4 1145.5,353.5 1140,356.9 1135.3,361.6 1131.2,361.6
1128.5,358.2 1126.9,350.7 1127,344 1130.5,337 1135.3,335 1142,333 1146.2,330.3 1148.9,326.3 1151,322.2
"""
CLOUDS = {
    "the thick cloud north of Ketzür": """
862,154.8 869.7,142 887.5,140.8 897.6,132 902.7,119 912.8,109 933,101.5 935.7,88.8 948,78.7 953.4,66 961,55.8 968.6,43
983.9,40.6 999,43 1006.7,50.7 1005,63.4 1004,78.7 996.6,91.3 989,101.5 989,111.6 973.7,119.2 970,139.5 961,157.3 956,170
943,172.5 928,187.8 918,203 907.8,220.7 892.5,236 874.8,246 857,243.6 849.4,228.3 844.3,203 857,192.8 864.6,172.5""",
    "the white one east of it": "1085,75 1110,68 1135,75 1142,90 1140,112 1120,118 1100,112 1088,98",
    "the streak west of it, with one sharp edge": """
876,0 874.8,5 864.6,22.8 858,40.6 846.9,55.8 834,78.7 822.8,92.6 817.7,109 805,130.7 799.9,149.7 791,165 779.6,182.7 773.3,200
763,215.7 758,228 748,241 740,258 735,250 745,222 752,205 762,190 770,172 782,155 788,135 795,115 800,98 812,80 828,58 840,40
850,20 858,0""",
    "the one at the southern border": """
539.6,768 543.5,755.6 545.4,742 549.3,726 559,714.5 570.8,706.7 584.5,708.6 598,712.5 609,708.6 612.9,714.5 610,722
617.8,722.3 627.6,712.5 635.4,704.7 637.3,710.6 629.5,724.3 619.7,736 612,745.8 606,755.6 601,768""",
    "a streak east of it": "655,714.5 656.9,704.7 660.8,693 666.7,685 669.6,689 668.6,696.9 662.8,704.7",
    "a small one in the fields": "833,602.5 836,588 847,573.4 855,577.8 858,593.8 855,599.6 843,600 836,605",
    "the shadow on the fields north of Radewege": """
507.9,455.5 507.9,450 515.8,442 522.5,434 533,426 542.4,418 551.6,405 559.6,396 570,396 565,410 559.6,420 558,429 558,440
565,447.5 573,446 575.5,440 581,434 599,426 598,440 596.8,451.5 586,458 571.5,463.5 565,467.5 539.7,467.5 538,458""",
}
# Stretches of the lakes that bear no label, as boxes: left, upper, right and lower pixel.
CHECKS = {
    "ice in the shadow of a cloud, near Radewege": (440, 555, 560, 650),
    "the bay east of Radewege, half in shadow": (565, 470, 622, 540),
    "ice half in shadow, near Butzow": (735, 360, 815, 450),
    "the bend at Ketzür": (868, 360, 935, 470),
    "the open channel near Lünow": (1030, 425, 1090, 475),
    "the middle of the upper Beetzsee": (1163, 240, 1245, 350),
    "the eastern arm of the upper Beetzsee": (1330, 160, 1405, 225),
    "the Riewendsee and its open channel": (1440, 55, 1490, 130),
}


def polygon(pixels: str) -> shapely.Polygon:
    """The polygon with the corners "column,row column,row ..." in the region's CRS."""
    columns, rows = np.array([pair.split(",") for pair in pixels.split()], dtype=float).T
    return shapely.Polygon(np.column_stack([LEFT + PIXEL * columns, TOP - PIXEL * rows]))


def box(left: float, upper: float, right: float, lower: float) -> shapely.Polygon:
    """What lies between those columns and rows, in the region's CRS."""
    return shapely.box(LEFT + PIXEL * left, TOP - PIXEL * lower, LEFT + PIXEL * right, TOP - PIXEL * upper)


def digitised() -> tuple[geopandas.GeoDataFrame, geopandas.GeoDataFrame]:
    """Our labels, and the stretches of water for checks."""
    lakes = polygon(WESTERN_SHORE + " ".join(reversed(EASTERN_SHORE.split()))) - polygon(ISLAND)
    checks = {where: lakes & box(*corners) for where, corners in CHECKS.items()}
    labelled = shapely.get_parts(lakes - shapely.union_all([*checks.values()]))
    rows = [("water", "frozen lake or open channel", part) for part in labelled]
    rows += [("cloud", where, polygon(pixels)) for where, pixels in CLOUDS.items()]
    rows += [("water", where, part) for where, part in checks.items()]
    ours = geopandas.GeoDataFrame(rows, columns=["class", "description", "geometry"], crs=CRS)
    ours.insert(1, "color", ours["class"].map(COLOR_OF))
    ours.insert(2, "source", SOURCE)
    return ours[: -len(checks)], ours[-len(checks) :]


def merged(
    land_cover: geopandas.GeoDataFrame, ours: geopandas.GeoDataFrame, checks: geopandas.GeoDataFrame
) -> geopandas.GeoDataFrame:
    """OpenStreetMap's polygons, clipped, simplified, and cut where ours and the checks lie, followed by ours."""
    osm = land_cover.copy()
    clipped = osm.intersection(box(0, 0, COLUMNS, ROWS))
    osm.geometry = [shapely.coverage_simplify([shape], TOLERANCE)[0] for shape in clipped]
    for name, seen in pandas.concat([ours, checks]).groupby("class"):
        rest = osm.difference(seen.union_all()).where(osm["class"] != name, osm.geometry)
        for of, lost in (osm.area - rest.area).groupby(osm["class"]).sum().items():
            if lost > 100.0:  # m2: one pixel
                print(f"{lost / 1e4:.1f} ha of OpenStreetMap's {of} are cut where {name} was seen")
        osm.geometry = rest
    columns = ["osm_id", "class", "color", "source", "geometry"]
    return pandas.concat([osm[osm.area > 0], ours])[columns].reset_index(drop=True)


def write(name: str, labels: geopandas.GeoDataFrame, description: str, attribution: str, licence: str) -> None:
    """Write a GeoPackage beside this script: the same labels give the same bytes."""
    path = Path(__file__).with_name(f"{name}.gpkg")
    path.unlink(missing_ok=True)
    description += " in the Havelland, Germany, on 2017-02-16"
    # Small pages and no index make a small file. A GeoPackage records when it was written: a fixed day.
    settings = {"OGR_SQLITE_PRAGMA": "page_size=512", "OGR_CURRENT_DATE": "2017-02-16T00:00:00.000Z"}
    pyogrio.set_gdal_config_options(settings)
    pyogrio.write_dataframe(
        labels,
        path,
        layer=name.removeprefix("havelland_"),
        driver="GPKG",
        geometry_type="MultiPolygon",
        promote_to_multi=True,
        layer_metadata={"ATTRIBUTION": attribution, "LICENCE": licence, "DESCRIPTION": description},
        layer_options={"DESCRIPTION": f"{description}. {attribution}", "SPATIAL_INDEX": "NO"},
    )
    print(f"{path.name}: {len(labels)} polygons, {path.stat().st_size / 1000:.0f} kB")
    print((labels.area / 1e4).groupby(labels["class"]).agg(polygons="size", hectares="sum").round(1).to_string())


def main() -> None:
    ours, checks = digitised()
    demo = merged(geopandas.read_file(Path(__file__).with_name("havelland_landcover.gpkg")), ours, checks)
    write("havelland_water_and_clouds", ours, "Lakes and clouds", OURS, "CC-BY-4.0")
    write("havelland_water_check", checks, "Unlabelled parts of lakes", OURS, "CC-BY-4.0")
    write("havelland_demo", demo, "Land cover, lakes and clouds", f"{OSM}; {OURS}", "ODbL-1.0")


if __name__ == "__main__":
    main()
