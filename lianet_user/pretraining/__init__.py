"""Pretraining: regions from imagery, their updates, and how well they reproduce it.

Importing this package imports none of its modules; a name below is loaded when it is first used. `settings` needs no torch.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from lianet_user.pretraining.pretrain import pretrain
    from lianet_user.pretraining.settings import PretrainSettings, RegionWords, UpdateSettings
    from lianet_user.pretraining.trainer import PretrainProgress
    from lianet_user.pretraining.update import update

__all__ = ["PretrainProgress", "PretrainSettings", "RegionWords", "UpdateSettings", "pretrain", "update"]

__getattr__, _, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "pretrain": ["pretrain"],
        "settings": ["PretrainSettings", "RegionWords", "UpdateSettings"],
        "trainer": ["PretrainProgress"],
        "update": ["update"],
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
