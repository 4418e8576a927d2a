"""Fine-tuning: heads from labels.

Importing this package imports none of its modules; a name below is loaded when it is first used. `settings` and `priors`, which
tell what is wrong with an argument, need no torch.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from lianet_user.finetuning.finetune import Finetuned, FinetuneProgress, finetune, instant
    from lianet_user.finetuning.settings import FinetuneSettings

__all__ = ["FinetuneProgress", "FinetuneSettings", "Finetuned", "finetune", "instant"]

__getattr__, _, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "finetune": ["FinetuneProgress", "Finetuned", "finetune", "instant"],
        "settings": ["FinetuneSettings"],
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
