"""Import torchvision also where its compiled operators do not load.

segmentation-models-pytorch and timm import torchvision. The wheel that pip finds on Linux is built for CUDA; beside a CPU
build of torch its compiled library is skipped in silence, and ``import torchvision`` then fails with "operator
torchvision::nms does not exist", because it describes two operators (`nms`, `qnms`) that this library would have declared.
Declaring them here is enough: this package calls neither, and whoever does gets torchvision's own explanation.
"""

from __future__ import annotations

import importlib
import sys

import torch.library

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# torch withdraws the declarations of a Library that is collected, so this one lives as long as the process.
_library: torch.library.Library | None = None


def import_torchvision() -> None:
    """Import torchvision; call it before anything that imports torchvision by itself. Calling it again is harmless.

    torchvision is tried as it is first: whether its own operators load is for it to say, and where they do nothing is
    declared.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: torchvision fails for another reason than the missing operators.
    """
    global _library
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if _library is not None or "operator torchvision::" not in str(error):
            raise
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in SCHEMAS:
            _library.define(schema)
        # The failed import leaves submodules behind, which the second attempt must not mix with its own.
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        importlib.import_module("torchvision")


def is_mended() -> bool:
    """Whether torchvision's own operators did not load, and were declared here."""
    return _library is not None
