"""Geography that maps, labels and imagery share: grids and windows, patches, CRS transformation, resampling, areas."""

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def _is_dask_collection(value: Any) -> bool:
    """What dask says; where nobody has imported it, nothing is one of its collections."""
    return "dask" in sys.modules and bool(sys.modules["dask"].is_dask_collection(value))


def _import_odc_geo() -> None:
    """Import odc-geo without dask, which it loads for this one function wherever it is installed: a tenth of a second."""
    spec = find_spec("dask") if "dask" not in sys.modules else None
    if spec is None:
        return
    stand_in = ModuleType("dask")
    stand_in.__dict__.update(__spec__=spec, is_dask_collection=_is_dask_collection)
    sys.modules["dask"] = stand_in
    try:
        import odc.geo  # noqa: F401
    finally:
        del sys.modules["dask"]


_import_odc_geo()
