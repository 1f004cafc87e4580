# Parameters that describe a data set: what its rows say, and no more than a job depends on.
from scgpt_bench.data.catalogue import UNVERIFIED, is_remote
from scgpt_bench.data.download import recorded_sha256
from scgpt_bench.data.tenx_files import read_of_folder


def dataset_row(wildcards):
    """The row of the data-set table, as plain values, without the columns that change no cell."""
    return RUN.datasets[wildcards.dataset].how_to_read


def series_of_dataset(wildcards):
    """What random draws on a data set depend on: a new version of it is dealt and drawn as the last one was."""
    return RUN.datasets[wildcards.dataset].series


def content_of_dataset(wildcards):
    """The checksum of a drop. Another address, or a SHA-256 written down later, is no other content."""
    dataset = RUN.datasets[wildcards.dataset]
    if is_remote(dataset.address):
        recorded = recorded_sha256(dataset.file, dataset.md5)
        return (dataset.md5 or UNVERIFIED) if dataset.sha256 in (None, recorded) else dataset.sha256
    only = read_of_folder if dataset.format == "10x_mtx" and Path(dataset.address).is_dir() else None
    return dataset.sha256 or content_of_file(dataset.address, only)


def generator_options(wildcards):
    dataset = RUN.datasets[wildcards.dataset]
    return {**config["generated"][dataset.name], "target_sum": dataset.target_sum}


def perturbation_kind_of_dataset(wildcards):
    return RUN.datasets[wildcards.dataset].perturbation_kind


def targets_go_up(wildcards):
    return perturbation_kind_of_dataset(wildcards) == "activation"


def pretraining_as_declared():
    """What each checkpoint saw in pretraining, as far as its declaration says, by name."""
    return {
        name: {
            "random": "random weights, which saw no data.",
            "pretrain": f"pretrained on unperturbed cells of {options.get('dataset')} only.",
            "census": f"pretrained on CELLxGENE Census {options.get('census_version')}; whether cells of this data set "
            "are among them was not looked up.",
        }.get(options["source"], "its pretraining cells are not listed with it: overlap with these data is unknown.")
        for name, options in config["checkpoints"].items()
    }
