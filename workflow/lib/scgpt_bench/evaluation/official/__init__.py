"""The Virtual Cell Challenge's own scorers, run as they are.

``cell_eval`` is cell-eval 0.8.2 (challenge of 2025: DES ``overlap_at_N``, PDS ``discrimination_score_l1``, ``mae``),
``cell_eval2`` is cell-eval2 0.20.0 (challenge of 2026, preset ``vcc2026``). Each lives in an environment of its own, so
that it is imported only where it is called. ``sides`` is what they are given, ``answers`` the form of what they say.
"""
