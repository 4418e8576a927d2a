"""What heads read of all labels, held: in memory up to a limit, beyond it in a file that is mapped into memory.

A pixel takes 424 bytes by default, so a Sentinel-2 tile that was labelled completely takes 51 GB. Training reads crops of it
at random places, which the system reads from the disk and drops again as it has room.
"""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from lianet_user.errors import write_error

CACHE_GB = 4.0
"""Of features in memory, unless one says otherwise."""


class HeldFeatures:
    """Keeps tensors, the first ones in memory and the others in a file without a name, which goes with the process."""

    def __init__(self, most_gb: float = CACHE_GB, folder: Path | None = None) -> None:
        """
        Args:
            most_gb: in memory, 10^9 bytes.
            folder: for the file; None takes the system's for temporary files.
        """
        self.most_bytes, self.folder = most_gb * 1e9, folder
        self.in_memory = self.on_disk = 0
        self._file: IO[bytes] | None = None

    def keep(self, values: Tensor) -> Tensor:
        """A copy of `values`, float16, that can be written to.

        Raises:
            OutputError: the disk is full, or cannot be written.
        """
        if self.in_memory + values.nbytes <= self.most_bytes:
            self.in_memory += values.nbytes
            return values.clone(memory_format=torch.contiguous_format)
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self.folder, prefix=".lianet-features-")  # noqa: SIM115
                weakref.finalize(self, self._file.close)  # what is mapped stays mapped
            # Written and not only mapped: a full disk is an error that can be explained, and not the end of the process.
            self._file.seek(self.on_disk)
            self._file.write(values.contiguous().numpy().tobytes())
            self._file.flush()
        except OSError as error:
            raise write_error(self.folder or Path(tempfile.gettempdir()), error) from error
        mapped = np.memmap(self._file, np.float16, "r+", self.on_disk, tuple(values.shape))
        self.on_disk += values.nbytes
        return torch.from_numpy(mapped)
