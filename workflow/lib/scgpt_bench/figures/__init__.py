"""The figures of the report: tables and arrays in, matplotlib figures out, one style for all.

Every function takes plain tables or arrays (the files between stages) and returns a figure; ``save`` writes it.
"""

from scgpt_bench.figures.cost import cost_bars, cost_table
from scgpt_bench.figures.model import load_report, training_history, vocabulary_coverage
from scgpt_bench.figures.responses import delta_heatmap, predicted_against_true, residual_heatmap
from scgpt_bench.figures.scores import method_scores, paired_differences, perturbation_strip
from scgpt_bench.figures.style import MethodStyle, method_style, save
from scgpt_bench.figures.trust import stress_heatmap

__all__ = [
    "MethodStyle",
    "cost_bars",
    "cost_table",
    "delta_heatmap",
    "load_report",
    "method_scores",
    "method_style",
    "paired_differences",
    "perturbation_strip",
    "predicted_against_true",
    "residual_heatmap",
    "save",
    "stress_heatmap",
    "training_history",
    "vocabulary_coverage",
]
