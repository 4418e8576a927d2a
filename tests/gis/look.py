"""What QGIS makes of files: run by the interpreter that QGIS's Python bindings were built for, not by the tests' own.

    QT_QPA_PLATFORM=offscreen python3 look.py FOLDER FILE...

Opens each file as a user who drags it into QGIS does, with the style that lies beside it or in it, draws it into
FOLDER/<name>.png, and prints what it found as JSON, file by file.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsApplication,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsRasterLayer,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor

SIDE = 600


def draw(layer: Any, path: Path) -> list[str]:
    """Draw a layer alone, and list the colours that more than one pixel in a thousand has."""
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(layer.crs())
    settings.setExtent(layer.extent())
    settings.setOutputSize(QSize(SIDE, SIDE))
    settings.setBackgroundColor(QColor("#ff00ff"))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    image = job.renderedImage()
    image.save(str(path))
    counts: dict[str, int] = {}
    for row in range(0, SIDE, 3):
        for column in range(0, SIDE, 3):
            name = QColor(image.pixel(column, row)).name()
            counts[name] = counts.get(name, 0) + 1
    return sorted(name for name, count in counts.items() if count > (SIDE / 3) ** 2 / 1000)


def nodata(provider: Any, band: int) -> float | None:
    return provider.sourceNoDataValue(band) if provider.sourceHasNoDataValue(band) else None


def raster(path: Path) -> tuple[QgsRasterLayer, dict[str, Any]]:
    layer = QgsRasterLayer(str(path), path.stem)
    _, styled = layer.loadDefaultStyle()
    renderer = layer.renderer()
    entries = [[label, color.name()] for label, color in renderer.legendSymbologyItems()]
    provider = layer.dataProvider()
    return layer, {
        "styled": styled,
        "renderer": renderer.type(),
        "entries": entries,
        "bands": [layer.bandName(number) for number in range(1, layer.bandCount() + 1)],
        "nodata": [nodata(provider, number) for number in range(1, layer.bandCount() + 1)],
    }


def vector(path: Path) -> tuple[QgsVectorLayer, dict[str, Any]]:
    layer = QgsVectorLayer(str(path), path.stem)
    _, styled = layer.loadDefaultStyle()
    renderer = layer.renderer()
    entries = [[item.label(), item.symbol().color().name()] for item in renderer.legendSymbolItems()]
    return layer, {"styled": styled, "renderer": renderer.type(), "entries": entries, "fields": layer.fields().names()}


def main() -> None:
    folder, *paths = map(Path, sys.argv[1:])
    application = QgsApplication([], False)
    application.initQgis()
    found = {}
    for path in paths:
        layer, about = vector(path) if path.suffix == ".gpkg" else raster(path)
        about |= {"valid": layer.isValid(), "crs": layer.crs().authid()}
        about["colors"] = draw(layer, folder / f"{path.stem}.png") if layer.isValid() else []
        found[path.name] = about
    print(json.dumps(found), flush=True)
    os._exit(0)  # QGIS's own exit breaks where layers are still referred to from Python


if __name__ == "__main__":
    main()
