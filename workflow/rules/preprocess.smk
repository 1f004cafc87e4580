# From whatever comes in to one contract, results/<study>/<dataset>/cells.h5ad, and what every method starts from.


JOINED = [name for name in config["datasets"] if RUN.datasets[name].parts]


def drop_of_dataset(wildcards):
    """The file of a data set and, where guide calls come in one of their own, that."""
    dataset = RUN.datasets[wildcards.dataset]
    return [drop_file(dataset.name), *([dataset.guide_table] if dataset.guide_table else [])]


def dataset_row(wildcards):
    """The row of the data-set table, as plain values, without the columns that change no cell."""
    return RUN.datasets[wildcards.dataset].how_to_read


rule harmonize:
    input:
        drop_of_dataset,
    output:
        "<results>/{dataset}/cells.h5ad",
    log:
        "<logs>/harmonize/{dataset}.log",
    benchmark:
        "<benchmarks>/harmonize/{dataset}.tsv"
    wildcard_constraints:
        dataset=names_pattern(set(config["datasets"]) - set(JOINED)),
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=memory_of("harmonize"),
        runtime=minutes_of("harmonize"),
    params:
        code=code_without_plumbing("harmonize.py"),
        content=lambda wildcards: content_of_file(RUN.datasets[wildcards.dataset].guide_table),
        dataset=dataset_row,
        options=config["harmonize"],
    script:
        "../scripts/harmonize.py"


# A part of joined data sets. It keeps all its genes: which of them vary is a question to the joined control cells.
use rule harmonize as harmonize_part with:
    output:
        "<results>/parts/{dataset}/cells.h5ad",
    log:
        "<logs>/harmonize_part/{dataset}.log",
    benchmark:
        "<benchmarks>/harmonize_part/{dataset}.tsv"
    wildcard_constraints:
        dataset=names_pattern(part for name in JOINED for part in RUN.datasets[name].parts),
    params:
        options={**config["harmonize"], "maximum_genes": None},


def parts_of_dataset(wildcards):
    return [f"<results>/parts/{part}/cells.h5ad" for part in RUN.datasets[wildcards.dataset].parts]


rule join:
    input:
        parts_of_dataset,
    output:
        "<results>/{dataset}/cells.h5ad",
    log:
        "<logs>/join/{dataset}.log",
    benchmark:
        "<benchmarks>/join/{dataset}.tsv"
    wildcard_constraints:
        dataset=names_pattern(JOINED),
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=memory_of("join"),
        runtime=minutes_of("join"),
    params:
        code=code_without_plumbing("join.py"),
        dataset=dataset_row,
        maximum_genes=config["harmonize"]["maximum_genes"],
    script:
        "../scripts/join.py"


rule card:
    input:
        "<results>/{dataset}/cells.h5ad",
    output:
        "<results>/{dataset}/card.json",
    log:
        "<logs>/card/{dataset}.log",
    benchmark:
        "<benchmarks>/card/{dataset}.tsv"
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=memory_of("card"),
        runtime=minutes_of("card"),
    params:
        code=code("card.py"),
        perturbation_kind=perturbation_kind_of_dataset,
        minimum_reliability=config["card"]["minimum_reliability"],
    script:
        "../scripts/card.py"


def gene_info_of_checkpoint(wildcards):
    """The Ensembl identifiers of a checkpoint's genes; nothing for one without."""
    return files_of_checkpoint(wildcards.checkpoint).get(GENE_INFO, [])


rule align_vocabulary:
    input:
        cells="<results>/{dataset}/cells.h5ad",
        vocabulary=lambda wildcards: files_of_checkpoint(wildcards.checkpoint)["vocab.json"],
        gene_info=gene_info_of_checkpoint,
    output:
        "<results>/{dataset}/vocabulary/{checkpoint}.tsv",
    log:
        "<logs>/align_vocabulary/{dataset}.{checkpoint}.log",
    benchmark:
        "<benchmarks>/align_vocabulary/{dataset}.{checkpoint}.tsv"
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=memory_of("align_vocabulary"),
        runtime=minutes_of("align_vocabulary"),
    params:
        code=code_without_plumbing("align_vocabulary.py"),
    script:
        "../scripts/align_vocabulary.py"


rule gene_embeddings:
    input:
        cells="<results>/{dataset}/cells.h5ad",
        checkpoint=lambda wildcards: checkpoint_to_read(wildcards.checkpoint),
        vocabulary="<results>/{dataset}/vocabulary/{checkpoint}.tsv",
    output:
        "<results>/{dataset}/vocabulary/{checkpoint}.embeddings.h5ad",
    log:
        "<logs>/gene_embeddings/{dataset}.{checkpoint}.log",
    benchmark:
        "<benchmarks>/gene_embeddings/{dataset}.{checkpoint}.tsv"
    conda:
        "../../envs/scgpt_cpu.yaml"
    resources:
        mem_mb=memory_of("gene_embeddings"),
        runtime=minutes_of("gene_embeddings"),
    params:
        code=code_without_plumbing("gene_embeddings.py"),
    script:
        "../scripts/gene_embeddings.py"


def own_file_of_vectors(wildcards):
    """The user's file; nothing for gene vectors that the workflow fetches or makes."""
    return config["vectors"][wildcards.vectors].get("path")


def vectors_options(wildcards):
    """The options of gene vectors without what changes no vector."""
    return {key: value for key, value in config["vectors"][wildcards.vectors].items() if key != "made_from"}


rule gene_vectors:
    input:
        cells="<results>/{dataset}/cells.h5ad",
        file=lambda wildcards: file_of_vectors(wildcards.vectors, wildcards.dataset),
    output:
        "<results>/{dataset}/vectors/{vectors}.h5ad",
    log:
        "<logs>/gene_vectors/{dataset}.{vectors}.log",
    benchmark:
        "<benchmarks>/gene_vectors/{dataset}.{vectors}.tsv"
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=memory_of("gene_vectors"),
        runtime=minutes_of("gene_vectors"),
    params:
        code=code_without_plumbing("gene_vectors.py"),
        content=lambda wildcards: content_of_file(own_file_of_vectors(wildcards)),
        options=vectors_options,
    script:
        "../scripts/gene_vectors.py"


def split_file(wildcards):
    """The file of a fixed split; nothing for a split that is dealt here."""
    return config["splits"]["files"].get(wildcards.split, {}).get(wildcards.dataset, [])


def how_split_is_made(wildcards):
    """What one split depends on beside the cells and its file. Running another fold changes no other."""
    return RUN.splits[wildcards.split]


def series_of_dataset(wildcards):
    """What random draws on a data set depend on: a new version of it is dealt and drawn as the last one was."""
    return RUN.datasets[wildcards.dataset].series


rule split:
    input:
        cells="<results>/{dataset}/cells.h5ad",
        file=split_file,
    output:
        "<results>/{dataset}/{split}/split.tsv",
    log:
        "<logs>/split/{dataset}.{split}.log",
    benchmark:
        "<benchmarks>/split/{dataset}.{split}.tsv"
    wildcard_constraints:
        split=names_pattern(SPLITS),
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=memory_of("split"),
        runtime=minutes_of("split"),
    params:
        code=code_without_plumbing("split.py"),
        content=lambda wildcards: content_of_file(split_file(wildcards)),
        how=how_split_is_made,
        series=series_of_dataset,
    script:
        "../scripts/split.py"


rule subset_split:
    input:
        lambda wildcards: f"<results>/{wildcards.dataset}/{SUBSETS[wildcards.split][0]}/split.tsv",
    output:
        "<results>/{dataset}/{split}/split.tsv",
    log:
        "<logs>/subset_split/{dataset}.{split}.log",
    benchmark:
        "<benchmarks>/subset_split/{dataset}.{split}.tsv"
    wildcard_constraints:
        split=names_pattern(SUBSETS),
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=memory_of("subset_split"),
        runtime=minutes_of("subset_split"),
    params:
        code=code_without_plumbing("subset_split.py"),
        size=lambda wildcards: SUBSETS[wildcards.split][1],
        series=series_of_dataset,
    script:
        "../scripts/subset_split.py"


def prediction_of(wildcards):
    """The entry of `predict` of a split, or of a file of a prediction."""
    return config["predict"][wildcards.get("prediction") or PREDICTED[wildcards.split]]


def list_of_prediction(wildcards):
    """The user's list, or the cells of the data set whose perturbations are asked for."""
    options = prediction_of(wildcards)
    return options["perturbations"] or f"<results>/{options['targets_of']}/cells.h5ad"


rule unmeasured_split:
    input:
        cells="<results>/{dataset}/cells.h5ad",
        list=list_of_prediction,
    output:
        split="<results>/{dataset}/{split}/split.tsv",
        asked=report(
            "<results>/{dataset}/{split}/asked.tsv",
            category="Predicted",
            labels={"prediction": "{split}", "table": "what was asked for"},
            caption="../report/asked.rst",
        ),
    log:
        "<logs>/unmeasured_split/{dataset}.{split}.log",
    benchmark:
        "<benchmarks>/unmeasured_split/{dataset}.{split}.tsv"
    wildcard_constraints:
        split=names_pattern(PREDICTED),
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=memory_of("unmeasured_split"),
        runtime=minutes_of("unmeasured_split"),
    params:
        code=code_without_plumbing("unmeasured_split.py"),
        content=lambda wildcards: content_of_file(prediction_of(wildcards)["perturbations"]),
        is_list=lambda wildcards: prediction_of(wildcards)["perturbations"] is not None,
        contexts=lambda wildcards: prediction_of(wildcards)["contexts"],
        perturbation_kind=perturbation_kind_of_dataset,
    script:
        "../scripts/unmeasured_split.py"


def whole_split(wildcards):
    """The split that control cells are drawn for: every point of a learning curve starts from the same ones."""
    return SUBSETS.get(wildcards.split, [wildcards.split])[0]


def asked_of_prediction(wildcards):
    """What a prediction asks for, with directions; nothing for a split of measured conditions."""
    return f"<results>/{wildcards.dataset}/{wildcards.split}/asked.tsv" if wildcards.split in PREDICTED else []


def controls_options(wildcards):
    """How many control cells are drawn, and the seed of the draw."""
    options = dict(config["controls"])
    if wildcards.split in PREDICTED:
        options["cells_per_perturbation"] = prediction_of(wildcards)["cells_per_perturbation"]
    return options


rule sample_controls:
    input:
        cells="<results>/{dataset}/cells.h5ad",
        split="<results>/{dataset}/{split}/split.tsv",
        asked=asked_of_prediction,
    output:
        "<results>/{dataset}/{split}/controls.h5ad",
    log:
        "<logs>/sample_controls/{dataset}.{split}.log",
    benchmark:
        "<benchmarks>/sample_controls/{dataset}.{split}.tsv"
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=memory_of("sample_controls"),
        runtime=minutes_of("sample_controls"),
    params:
        code=code_without_plumbing("sample_controls.py"),
        options=controls_options,
        series=series_of_dataset,
        split=whole_split,
    script:
        "../scripts/sample_controls.py"


# It is read before anything is trained: as the rule `audit`, it follows no code.
rule identical_cells:
    input:
        "<results>/{dataset}/cells.h5ad",
    output:
        "<results>/{dataset}/identical_cells.json",
    log:
        "<logs>/identical_cells/{dataset}.log",
    benchmark:
        "<benchmarks>/identical_cells/{dataset}.tsv"
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=memory_of("identical_cells"),
        runtime=minutes_of("identical_cells"),
    script:
        "../scripts/identical_cells.py"


def how_whole_split_is_made(wildcards):
    """What a split, or the one that a point of a learning curve is a part of, promises."""
    return RUN.splits.get(whole_split(wildcards), {"made_by": "prediction"})


# Every rule that trains or predicts waits for this, and so it follows its inputs, and no code: another version of these
# checks is no reason to train again. The table of the report is made, and everything checked again, by that version.
rule audit:
    input:
        cells="<results>/{dataset}/cells.h5ad",
        split="<results>/{dataset}/{split}/split.tsv",
        identical="<results>/{dataset}/identical_cells.json",
    output:
        "<results>/{dataset}/{split}/audit.json",
    log:
        "<logs>/audit/{dataset}.{split}.log",
    benchmark:
        "<benchmarks>/audit/{dataset}.{split}.tsv"
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=memory_of("audit"),
        runtime=minutes_of("audit"),
    params:
        how=how_whole_split_is_made,
    script:
        "../scripts/audit.py"
