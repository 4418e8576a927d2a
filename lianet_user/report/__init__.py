"""The results of a fine-tuning for readers: a figure of labels and prediction, and an HTML report in one file."""

from lianet_user.report.figures import finetune_figure, labels_figure, learning_curve_figure
from lianet_user.report.html import write_report
from lianet_user.report.mapped_view import MappedView, map_view

__all__ = ["MappedView", "finetune_figure", "labels_figure", "learning_curve_figure", "map_view", "write_report"]
