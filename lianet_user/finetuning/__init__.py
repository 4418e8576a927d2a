"""Fine-tuning: heads from labels."""

from lianet_user.finetuning.finetune import Finetuned, FinetuneProgress, finetune, instant
from lianet_user.finetuning.settings import FinetuneSettings

__all__ = ["FinetuneProgress", "FinetuneSettings", "Finetuned", "finetune", "instant"]
