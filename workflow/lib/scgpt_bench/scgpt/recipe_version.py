"""The versions of the trainings: what decides whether a finished training, or the state of one, is still valid.

A training takes hours on GPUs, so it follows no hash of its code: an edit that changes no number must not throw it
away. Raise a version when the weights that the same data, options and seed lead to change;
tests/unit/test_golden_training.py fails where that was forgotten.
"""

PRETRAINING = 2
FINETUNING = 3
