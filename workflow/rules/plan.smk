# What a run will cost, at the end of every dry run: `make plan`, or -n with any profile.
import logging

from snakemake.logging import logger

from scgpt_bench import plan

NEEDS_BY_SCRIPT = {
    one.script: needs_of(one.name) for one in workflow.rules if one.script and one.name in resources.read(RESOURCES)
}


def known(resources, name):
    """A resource of a job; 0 for one that follows from files that are not there, as a user's own may."""
    value = resources.get(name, 0)
    return value if isinstance(value, int) else 0


class PlanOfDryRun(logging.Handler):
    """Logs the plan after the last of Snakemake's own counts of jobs: a dry run calls no `onstart`.

    It counts them before it lists jobs and after, or only before if it is told not to list any.
    """

    counted = False

    def emit(self, record):
        if getattr(record, "event", None) != "run_info" or not workflow.dryrun:
            return
        lists_no_jobs = {"rules", "progress"} <= {*map(str, workflow.output_settings.quiet or ())}
        is_last = self.counted or lists_no_jobs
        self.counted = True
        if not is_last:
            return
        jobs = [
            plan.Job(
                NEEDS_BY_SCRIPT[job.rule.script],
                job.wildcards_dict,
                job.threads,
                known(job.resources, "gpu"),
                known(job.resources, "mem_mb"),
            )
            for job in {*workflow.dag.needrun_jobs(), *workflow.dag.finished_jobs}
            if job.rule.script
        ]
        if jobs:
            logger.info(plan.text(jobs, SIZES, RESOURCES.name, plan.rates()))


if workflow.modifier.is_main_snakefile():
    logger.addHandler(PlanOfDryRun())
