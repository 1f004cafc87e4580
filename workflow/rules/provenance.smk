# What it takes to repeat the run, what it cost, and the report.


rule provenance:
    input:
        own_files=own_files_of_run(),
        inputs=inputs_of_run(),
        results=["results/scores.tsv", "results/verdicts.tsv", *metrics_of_run()],
        scgpt=scgpt_pseudobulks_of_run(),
    output:
        provenance=report(
            "results/provenance.json",
            category="Provenance",
            labels={"table": "inputs, versions and hardware"},
            caption="../report/provenance.rst",
        ),
        configuration=report(
            "results/configuration.yaml",
            category="Provenance",
            labels={"table": "configuration, defaults filled in"},
            caption="../report/configuration.rst",
        ),
    log:
        "logs/provenance.log",
    benchmark:
        "results/benchmarks/provenance.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(60),
    params:
        code=code("provenance.py"),
        contents=contents_of_own_files,
        configuration=RUN.config,
    script:
        "../scripts/provenance.py"


# Benchmark files are a log and no input: a lost one recomputes nothing. The inputs are what has to be finished before.
rule figure_cost:
    input:
        results_with_costs(),
        "results/summary.html",
    output:
        figures=entries(
            "results/figures/cost_by_<name>.svg",
            COST_BY,
            label="by",
            labels={"figure": "time, GPU time and memory"},
            category="Cost",
            caption="cost.rst",
        ),
        table=report(
            "results/cost.tsv",
            category="Cost",
            labels={"table": "cost of every rule and method"},
            caption="../report/cost_table.rst",
        ),
    log:
        "logs/figure_cost.log",
    benchmark:
        "results/benchmarks/figure_cost.tsv"
    localrule: True  # where Snakemake has waited for the files of all other jobs
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        code=code("figure_cost.py"),
        rules=measured_rules,
        seeds={method: options["seeds"] for method, options in config["methods"].items()},
        folder=BENCHMARKS,
        by=COST_BY,
    script:
        "../scripts/figure_cost.py"


rule report_of_run:
    input:
        results=results_of_run(),
        start="results/summary.html",
        configuration="results/configuration.yaml",
    output:
        "results/report.html",
    log:
        "logs/report_of_run.log",
    benchmark:
        "results/benchmarks/report_of_run.tsv"
    localrule: True
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(30),
    params:
        code=code("report_of_run.py"),
        captions=sources.folder_hash(WORKFLOW / "report"),
        page=sources.folder_hash(LIBRARY / "scgpt_bench" / "report"),
        reporter=sources.folder_hash(LIBRARY / "snakemake_report_plugin_scgpt_bench"),
    script:
        "../scripts/report_of_run.py"
