"""Pretraining: regions from imagery, their updates, and how well they reproduce it."""

from lianet_user.pretraining.pretrain import PretrainSettings, RegionWords, pretrain
from lianet_user.pretraining.trainer import PretrainProgress
from lianet_user.pretraining.update import UpdateSettings, update

__all__ = ["PretrainProgress", "PretrainSettings", "RegionWords", "UpdateSettings", "pretrain", "update"]
