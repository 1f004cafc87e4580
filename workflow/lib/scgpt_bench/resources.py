"""Say what jobs need: memory, time and disk in proportion to the size of their data, by one table of coefficients.

``workflow/resources.tsv`` has rows of each rule and quantity, which add up: ``base``, ``per_unit`` of ``unit``
(:data:`sizes.UNITS`), and the ``source`` of the numbers. Minutes are those of one core; what is proportional to the
data is divided among the threads of a job, or among its GPUs. Jobs ask for more than that (:data:`MEMORY_MARGIN`,
:data:`TIME_MARGIN`), and for twice as much when they are tried again. Snakemake reads this module at every start: it
imports nothing heavy.
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scgpt_bench.errors import InputError
from scgpt_bench.sizes import OF_NETWORKS, UNITS, Sizes

COLUMNS = ("rule", "quantity", "base", "per_unit", "unit", "source")
MEMORY, MEMORY_OF_GPU, MINUTES, GPU_MINUTES, DISK = QUANTITIES = (
    "memory_mb",  # peak
    "memory_mb_of_gpu",  # of the host, added for each GPU
    "minutes",  # without a GPU
    "gpu_minutes",  # on a GPU, in place of minutes
    "disk_mb",  # of what stays
)
MEMORY_MARGIN, TIME_MARGIN = 1.5, 4.0  # another machine, a busy file system, data that are unlike those measured
# Many clusters have no partition for more than a day: what exceeds it asks for less beyond what is expected.
DAY, TIME_MARGIN_BEYOND = 1440, 1.5
LEAST_MINUTES = 10
SNAKEMAKE_MEMORY = 300  # on a cluster, Snakemake itself runs in each job: 230 MB measured on Slurm


@dataclass(frozen=True)
class Term:
    """``base`` + ``per_unit`` for each ``unit``; ``unit`` is empty where nothing grows with the data."""

    base: float
    per_unit: float
    unit: str
    source: str

    def grown(self, sizes: Sizes, wildcards: Mapping[str, str]) -> float:
        """Return what the data of a job add to ``base``."""
        return self.per_unit * sizes.of_job(self.unit, wildcards) if self.unit else 0.0


@dataclass(frozen=True)
class Needs:
    """What the jobs of one rule need: by quantity, terms that add up."""

    rule: str
    terms: dict[str, list[Term]] = field(default_factory=dict)

    def expected(
        self, quantity: str, sizes: Sizes, wildcards: Mapping[str, str], shared_by: int = 1, slower: float = 1.0
    ) -> float:
        """Return the expected amount for one job; 0 where the table has no row.

        Parameters
        ----------
        shared_by
            Threads or GPUs that share what grows with the data.
        slower
            How many times as long as the table says this machine takes for the operations of a network.
        """
        return sum(
            term.base + term.grown(sizes, wildcards) * (slower if term.unit in OF_NETWORKS else 1.0) / shared_by
            for term in self.terms.get(quantity, ())
        )

    def minutes(
        self, sizes: Sizes, wildcards: Mapping[str, str], threads: int = 1, gpus: int = 0, slower: float = 1.0
    ) -> float:
        """Return the expected minutes of one job."""
        if gpus and GPU_MINUTES in self.terms:
            return self.expected(GPU_MINUTES, sizes, wildcards, gpus, slower)
        return self.expected(MINUTES, sizes, wildcards, threads, slower)

    def memory_mb(self, sizes: Sizes, wildcards: Mapping[str, str], gpus: int = 0) -> int:
        """Return the megabytes that a job asks for at first."""
        memory = self.expected(MEMORY, sizes, wildcards) + gpus * self.expected(MEMORY_OF_GPU, sizes, wildcards)
        return 100 * math.ceil((SNAKEMAKE_MEMORY + MEMORY_MARGIN * memory) / 100)

    def runtime(self, sizes: Sizes, wildcards: Mapping[str, str], threads: int = 1, gpus: int = 0) -> int:
        """Return the minutes that a job asks for at first."""
        minutes = self.minutes(sizes, wildcards, threads, gpus)
        return max(LEAST_MINUTES, math.ceil(min(TIME_MARGIN * minutes, max(DAY, TIME_MARGIN_BEYOND * minutes))))


@functools.cache
def read(path: str | Path) -> dict[str, Needs]:
    """Read the table, by rule.

    Raises
    ------
    InputError
        At the first row that is wrong, or for a rule without memory or time.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, "table", str(error), "a readable tab-separated table") from None
    header, *rows = [*csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)] or [[]]
    if tuple(header) != COLUMNS:
        raise InputError(path, "line 1", " ".join(header) or "nothing", "the columns " + " ".join(COLUMNS))
    table: dict[str, Needs] = {}
    for line, cells in enumerate(rows, start=2):
        if len(cells) != len(COLUMNS):
            raise InputError(path, f"line {line}", f"{len(cells)} cells", f"{len(COLUMNS)}, tabs between")
        row = dict(zip(COLUMNS, cells, strict=True))
        where = f"line {line} ({row['rule']}), column "
        if row["quantity"] not in QUANTITIES:
            raise InputError(path, f"{where}'quantity'", repr(row["quantity"]), "one of " + ", ".join(QUANTITIES))
        if row["unit"] not in ("", *UNITS):
            raise InputError(path, f"{where}'unit'", repr(row["unit"]), "nothing, or one of " + ", ".join(UNITS))
        if bool(row["unit"]) != bool(row["per_unit"]):
            expected = "a unit where per_unit has a number, and there only"
            raise InputError(path, f"{where}'unit'", repr(row["unit"]), expected)
        if not row["source"]:
            raise InputError(path, f"{where}'source'", "an empty cell", "what was measured, or how it is computed")
        base, per_unit = (_number(path, where, column, row[column]) for column in ("base", "per_unit"))
        terms = table.setdefault(row["rule"], Needs(row["rule"])).terms.setdefault(row["quantity"], [])
        if row["unit"] in [term.unit for term in terms]:
            found = f"{row['unit']!r} a second time for {row['quantity']}"
            raise InputError(path, f"{where}'unit'", found, "every unit once")
        terms.append(Term(base, per_unit, row["unit"], row["source"]))
    for rule in table:
        of_rule(table, rule, path)
    return table


def of_rule(table: Mapping[str, Needs], rule: str, path: str | Path) -> Needs:
    """Return what a rule needs.

    Raises
    ------
    InputError
        If the table ``path`` says nothing about its memory or time.
    """
    for quantity in (MEMORY, MINUTES):
        if rule not in table or quantity not in table[rule].terms:
            raise InputError(path, f"rule {rule!r}", f"no row of {quantity}", "one: jobs ask for what it says")
    return table[rule]


def _number(path: str | Path, where: str, column: str, text: str) -> float:
    try:
        number = float(text) if text or column == "base" else 0.0
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise InputError(path, f"{where}{column!r}", repr(text), "a number from 0")
    return number
