"""Numbers as a reader wants them: with their unit, and with no digit that says nothing."""

from __future__ import annotations

import numpy as np


def written(value: float, form: str) -> str:
    """Write a number by ``form``, such as ``%+.3f``.

    What rounds to 0 has no sign, and what is missing is ``unknown``.
    """
    if not np.isfinite(value):
        return "unknown"
    text = form % value
    return text.lstrip("+-") if float(text) == 0 else text


def score(value: float, is_error: bool) -> str:
    """Write a score, which is at most 1, with three decimals; an error with three digits."""
    return written(value, "%.3g" if is_error else "%.3f")


def difference(value: float, is_error: bool) -> str:
    """Write the same with its sign: the difference of two."""
    return written(value, "%+.3g" if is_error else "%+.3f")


def small(value: float) -> str:
    """Write a difference of scores with two decimals; one below 0.1 with two digits."""
    return written(value, "%.2f" if abs(value) >= 0.0995 else "%.2g")


def readable_time(hours: float) -> str:
    """Write a time in the units in which it is easiest to read."""
    if hours >= 9.995:
        return f"{hours:,.0f} h"
    minutes = round(60 * hours, 1)
    if minutes >= 60:
        whole, left = divmod(round(60 * hours), 60)
        return f"{whole} h {left} min" if left else f"{whole} h"
    if minutes >= 2:
        return f"{minutes:.1f} min"
    seconds = 3600 * hours
    return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"


def readable_memory(gib: float) -> str:
    """Write an amount of memory in GiB or MiB."""
    return f"{gib:.1f} GiB" if gib >= 1 else f"{1024 * gib:.0f} MiB"
