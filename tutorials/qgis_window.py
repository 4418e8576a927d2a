"""Take images/01_qgis.png, QGIS's window with the map of tutorial 1: run by QGIS itself, where it is installed.

    cd tutorials && xvfb-run -a -s "-screen 0 1280x800x24" qgis --nologo --noversioncheck \
        --code qgis_window.py out/map.tif
"""

import os

from qgis.PyQt.QtCore import QTimer
from qgis.PyQt.QtWidgets import QDockWidget
from qgis.utils import iface


def take() -> None:
    window = iface.mainWindow()
    for dock in window.findChildren(QDockWidget):
        dock.setVisible(dock.objectName() == "Layers")
    iface.layerTreeView().expandAll()
    window.resize(1200, 720)
    iface.mapCanvas().zoomToFullExtent()
    iface.mapCanvas().waitWhileRendering()
    window.grab().save("images/01_qgis.png")
    os._exit(0)  # anything gentler asks whether to save the project


QTimer.singleShot(8000, take)  # after the layer has been read and drawn
