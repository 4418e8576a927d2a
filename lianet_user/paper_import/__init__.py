"""Region files from what the paper's authors' code wrote when it encoded a region.

Their output is a folder with `used_parameters.json` and a checkpoint; it says how the field is built and what its weights
are, but not where on the Earth it lies nor what its dates and bands are (:class:`About`). It is not part of
`pretraining`, because nothing is trained, nor of `region`, because region files need not know where their weights came
from.
"""

from lianet_user.paper_import.about import About, read_about
from lianet_user.paper_import.checkpoint import import_checkpoint

__all__ = ["About", "import_checkpoint", "read_about"]
