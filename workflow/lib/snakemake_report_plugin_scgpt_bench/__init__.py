"""The report of a run as a plug-in of Snakemake: ``snakemake --reporter scgpt-bench --report-scgpt-bench-path FILE``.

Snakemake hands over what the rules marked with ``report()``, captions rendered; this writes it as one page. Snakemake
imports every plug-in whenever it starts, so that nothing heavy may be imported here.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from snakemake_interface_report_plugins.reporter import ReporterBase
from snakemake_interface_report_plugins.settings import ReportSettingsBase


@dataclass
class ReportSettings(ReportSettingsBase):
    # Snakemake makes a command-line option of it, and reads Optional but no union of another spelling.
    path: Optional[Path] = field(  # noqa: UP045
        default=None, metadata={"help": "The file to write.", "env_var": False, "required": True}
    )


class Reporter(ReporterBase):
    def render(self):
        from scgpt_bench.report import page

        items = [
            page.Item(
                path=Path(record.path),
                category=category.name,
                subcategory=None if subcategory.is_other else subcategory.name,
                labels={name: str(value) for name, value in (record.labels or {}).items()},
                caption=record.caption,
            )
            for category, subcategories in self.results.items()
            for subcategory, records in subcategories.items()
            for record in records
        ]
        page.write(page.in_order(items, self._order()), self.workflow_description, self.settings.path)

    def _order(self) -> list[str]:
        """The report shows things in the order in which the rule ``results`` asks for them."""
        return [
            str(path)
            for jobs in self.dag.toposorted()
            for job in jobs
            if job.rule.name == "results"
            for path in job.input
        ]
