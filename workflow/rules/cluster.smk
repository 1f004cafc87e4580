# What a run on Slurm is spared: waiting for ever for what the cluster does not have.
from scgpt_bench import cluster


def partitions_of_gpu_rules():
    """The partition that each rule of this run with a GPU goes to; None for the default one."""
    jobs = [job for job in workflow.dag.needrun_jobs() if not job.is_local and job.resources.get("gpu")]
    return {job.rule.name: job.resources.get("slurm_partition") for job in jobs}


onstart:
    if workflow.executor_plugin.name == "slurm":
        try:
            cluster.check(workflow.executor_settings.status_command, partitions_of_gpu_rules())
        except InputError as error:
            raise WorkflowError(str(error))
