# What the report says in words, what the run cost, what it takes to repeat it, and the report.
import yaml

from scgpt_bench.scgpt import recipe


def first_records_of_run():
    """The record of the first seed of every method, over data sets and splits; of lists where there is no split."""
    records = [
        f"<results>/{dataset}/{split}/{method}/{config['methods'][method]['seeds'][0]}/method.json"
        for dataset in config["datasets"]
        for split in SPLITS
        for method in config["methods"]
    ]
    return records or [
        f"<results>/{options['dataset']}/predicted-{name}/{method}/{config['methods'][method]['seeds'][0]}/method.json"
        for name, options in config["predict"].items()
        for method in methods_of_prediction(name)
    ]


rule summary:
    input:
        scores="<results>/scores.tsv",
        verdicts="<results>/verdicts.tsv",
        contrasts="<results>/contrasts.tsv",
        by_class="<results>/scores_by_class.tsv",
        splits=expand("<results>/{dataset}/{split}/split.tsv", dataset=config["datasets"], split=SPLITS),
        records=first_records_of_run(),
        cards=expand("<results>/{dataset}/card.json", dataset=config["datasets"]),
        cost="<results>/cost.tsv",
        crossings="<results>/crossings.tsv" if SUBSETS else [],
    output:
        start="<results>/summary.html",
        answers="<results>/answers.json",
    log:
        "<logs>/summary.log",
    benchmark:
        "<benchmarks>/summary.tsv"
    localrule: True  # after the costs, which are read where Snakemake runs
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("summary"),
        runtime=minutes_of("summary"),
    params:
        code=code("summary.py"),
        templates=sources.folder_hash(LIBRARY / "scgpt_bench" / "report"),
        kinds=KINDS,
        checkpoints={name: options["source"] for name, options in config["checkpoints"].items()},
        generated={
            name: config["generated"][name] for name in config["datasets"] if RUN.datasets[name].address == GENERATED
        },
        published=recipe.published_options(),
        pooled=POOLED,
        lists=[*config["predict"]],
        margin=config["scores"]["margin"],
        series={name: sorted(RUN.series(name)) for name in config["datasets"]},
    script:
        "../scripts/summary.py"


def inputs_of_run():
    """The files that came from outside the workflow, or in their place the generated ones."""
    checkpoints = map(files_of_checkpoint, config["checkpoints"])
    vectors = map(file_of_vectors, vectors_from("catalogue"))
    return [
        *map(drop_file, RUN.drops),
        *(path for files in checkpoints for path in files.values()),
        *vectors,
    ]


def own_files_of_run():
    """The files and folders of the user's that the configuration names."""
    files = [config[table] for table in configuration.TABLES]
    datasets = [RUN.datasets[name] for name in RUN.drops]
    local = {name: RUN.datasets[name].address for name in RUN.drops if RUN.datasets[name].is_local}
    # A plan is wanted before the cells are there, and results stay valid after they are gone: the run has its own copy.
    needs_cells = [name for name in local if not workflow.dryrun and not os.path.exists(drop_file(name))]
    files += [address for name, address in local.items() if name in needs_cells or os.path.exists(address)]
    files += [dataset.guide_table for dataset in datasets if dataset.guide_table]
    files += [
        str(own_file(config["checkpoints"][name]["path"], file))
        for name in checkpoints_from("folder")
        for file in files_of_checkpoint(name)
    ]
    files += [file_of_vectors(name) for name in vectors_from("file")]
    files += [file for split in config["splits"]["files"].values() for file in split.values()]
    files += [config["methods"][name]["script"] for name in methods_run_by("predict_by_script")]
    files += [
        file.replace("{seed}", str(seed))
        for name, seed in predictions(config["methods"])
        for splits in config["methods"][name].get("files", {}).values()
        for split, file in splits.items()
        if split in SPLITS
    ]
    lists = config["predict"].values()
    files += [options[key] for options in lists for key in ("perturbations", "signature") if options[key]]
    return files + [options["genes"] for options in config["submissions"].values()]


def scgpt_records_of_run():
    """The record of every prediction of scGPT, of splits and of lists."""
    methods = methods_run_by("predict_scgpt")
    return files_of("method.json", config["datasets"], methods) + [
        f"<results>/{options['dataset']}/predicted-{name}/{method}/{seed}/method.json"
        for name, options in config["predict"].items()
        for method, seed in predictions([method for method in methods_of_prediction(name) if method in methods])
    ]


rule provenance:
    input:
        own_files=lambda wildcards: own_files_of_run(),  # not before it is known whether this is a dry run
        inputs=inputs_of_run(),
        results=["<results>/scores.tsv", "<results>/verdicts.tsv", *metrics_of_run()],
        scgpt=scgpt_records_of_run(),
    output:
        provenance=report(
            "<results>/provenance.json",
            category="Provenance",
            labels={"table": "inputs, versions and hardware"},
            caption="../report/provenance.rst",
        ),
        configuration=report(
            "<results>/configuration.yaml",
            category="Provenance",
            labels={"table": "configuration, defaults filled in"},
            caption="../report/configuration.rst",
        ),
    log:
        "<logs>/provenance.log",
    benchmark:
        "<benchmarks>/provenance.tsv"
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=memory_of("provenance"),
        runtime=minutes_of("provenance"),
    params:
        code=code("provenance.py"),
        contents=lambda wildcards: list(map(content_of_file, own_files_of_run())),
        configuration=RUN.config,
    script:
        "../scripts/provenance.py"


def verdicts_of_report():
    compared = JUDGING if any(registry.group_of(kind).is_judged for kind in KINDS.values()) else []
    shown = [*(f"<results>/figures/differences_{metric}.svg" for metric in compared), "<results>/verdicts.tsv"]
    if PAIRS:
        shown += [*(f"<results>/figures/contrasts_{metric}.svg" for metric in JUDGING), "<results>/contrasts.tsv"]
    return shown


def method_for_robustness():
    """The method on which metric robustness is measured: a fine-tuned one, or the last that predicts changes."""
    finetuned = [method for method, kind in KINDS.items() if kind == registry.FINETUNED]
    others = [
        method
        for method, kind in KINDS.items()
        if registry.group_of(kind) != registry.BENCHMARK_CONTROL and registry.KINDS[kind].changes_other_genes
    ]
    return (finetuned or others or [*KINDS])[-1]


def entries_of_datasets():
    """What the report shows of each data set and split."""
    shown = []
    for dataset in config["datasets"]:
        shown.append(f"<results>/{dataset}/figures/data_card.html")
        if RUN.is_perturbed(dataset):
            shown += [f"<results>/{dataset}/figures/{name}.svg" for name in ("reliability", "knock_down", "responses")]
            shown.append(f"<results>/{dataset}/data_card.tsv")
        if SPLITS and dataset in last_two():
            shown += [f"<results>/{dataset}/figures/drop_comparison.{suffix}" for suffix in ("html", "svg")]
            shown.append(f"<results>/{dataset}/drop_comparison.tsv")
        if config["checkpoints"]:
            shown.append(f"<results>/{dataset}/vocabulary_coverage.tsv")
        if SPLITS:
            trained = methods_run_by("finetune")
            shown += [f"<results>/{dataset}/figures/training_history_{method}.svg" for method in trained]
        shown += [f"<results>/{dataset}/figures/skill_{split}.svg" for split in questions_of_run()]
        if any(registry.group_of(kind) == registry.SCGPT for kind in KINDS.values()):
            shown += [f"<results>/{dataset}/figures/against_simple_{split}.svg" for split in questions_of_run()]
        if PAIRS:
            shown += [f"<results>/{dataset}/figures/against_twin_{split}.svg" for split in questions_of_run()]
        for split in dict.fromkeys([*questions_of_run(), *SPLITS]):
            shown += [f"<results>/{dataset}/{split}/figures/scores_{metric}.svg" for metric in METRICS]
        for split in SPLITS:
            folder = f"<results>/{dataset}/{split}/figures"
            shown.append(f"<results>/{dataset}/{split}/audit.tsv")
            shown += [f"<results>/{dataset}/{split}/perturbations.{suffix}" for suffix in ("tsv", "json.gz")]
            shown.append(f"{folder}/perturbations.svg")
            if methods_run_by("predict_scgpt"):
                shown.append(f"{folder}/load_report.svg")
            shown += [f"<results>/{dataset}/{split}/{method}/search.tsv" for method in CANDIDATES]
            shown.append(f"{folder}/metric_robustness_{method_for_robustness()}.svg")
        if RUN.held_out:
            shown.append(f"<results>/{dataset}/transfer.tsv")
            shown += [f"<results>/{dataset}/figures/{name}.svg" for name in ("transfer", "carried_over")]
            shown += [f"<results>/{dataset}/figures/contexts_{metric}.svg" for metric in JUDGING]
        if SUBSETS:
            shown += [f"<results>/{dataset}/figures/learning_curves_{metric}.svg" for metric in JUDGING]
    return shown


def tables_of_run():
    """The tables that the report shows once."""
    names = ("scores", "scores_by_class", "reliable_scores", "metric_definitions", "calibration", "published_results")
    curves = ("crossings", "learning_curves") if SUBSETS else ()
    return [f"<results>/{name}.tsv" for name in (*names, *curves)]


def submissions_of_run():
    """The files for the Virtual Cell Challenge."""
    suffixes = {2025: "vcc", 2026: "h5ad"}
    return [
        f"<results>/submissions/{name}/{method}.{seed}.{suffixes[options['challenge']]}"
        for name, options in config["submissions"].items()
        for method, seed in predictions(options["methods"])
    ]


def results_with_costs():
    """The results whose jobs the cost figures count: all but costs, provenance, start page and report.

    Where no split is run, nothing is scored: verdicts, scores and what explains them are left out.
    """
    return [
        *(verdicts_of_report() if SPLITS else []),
        *entries_of_datasets(),
        *(tables_of_run() if SPLITS else []),
        *predictions_of_unmeasured(),
        *submissions_of_run(),
    ]


BENCHMARKS = workflow.pathvars.apply("<benchmarks>/")


def measured_rules(wildcards):
    """The benchmark files of each rule, as a regular expression of their paths, and the GPUs that its jobs ask for.

    Without the rules that run beside or after the one that reads them.
    """
    last = [f"{BENCHMARKS}{name}.tsv" for name in ("figure_cost", "provenance", "summary", "report_of_run")]
    files = {one: str(one.benchmark) for one in workflow.rules}
    counted = [one for one, file in files.items() if file.startswith(BENCHMARKS) and file not in last]
    return {
        one.name: {"benchmarks": one.benchmark.regex().pattern, "gpus": one.resources.get("gpu").value or 0}
        for one in counted
    }


RULES = workflow.current_basedir


def rules_of_results(wildcards, output):
    """The rules that the results come from, as Snakemake has planned them: what each needs, runs and runs in.

    Snakemake evaluates it where it plans, and local jobs run there.
    """
    needed_by = workflow.dag.dependencies
    last = next(job for job in needed_by if output[0] in job.output)
    needs = {}
    for job in workflow.dag.bfs(needed_by, last):
        needs.setdefault(job.rule, set()).update(one.rule.name for one in needed_by[job])
    described = {}
    for rule in sorted(needs, key=lambda rule: rule.name):
        own = rule.basedir == RULES  # and not one of a workflow that uses this one as a module
        described[rule.name] = {
            "stage": Path(rule.snakefile).stem,
            "needs": sorted(needs[rule] - {rule.name}),
            "script": Path(rule.script).name if own and rule.script else "",
            "environment": Path(rule.conda_env).stem if own and rule.conda_env else "",
        }
    del described[last.rule.name]
    return described


def packages_of_environments(wildcards):
    """The packages of every environment that a rule of this workflow names."""
    files = sorted({one.conda_env for one in workflow.rules if one.basedir == RULES and one.conda_env})
    packages = {}
    for file in files:
        with workflow.sourcecache.open(RULES.join(file)) as handle:
            packages[Path(file).stem] = [one for one in yaml.safe_load(handle)["dependencies"] if isinstance(one, str)]
    return packages


# Benchmark files are a log and no input: a lost one recomputes nothing. The inputs are what has to be finished before.
rule figure_cost:
    input:
        results_with_costs(),
    output:
        bars=report(
            "<results>/figures/cost_by_method.svg",
            category="Cost",
            labels={"figure": "time and memory of each method"},
            caption="../report/cost.rst",
        ),
        graph=report(
            "<results>/figures/rule_graph.svg",
            category="Cost",
            labels={"figure": "rules and what they need"},
            caption="../report/rule_graph.rst",
        ),
        rules=report(
            "<results>/rules.html",
            category="Cost",
            labels={"figure": "rules, code and environments"},
            caption="../report/rules.rst",
        ),
        table=report(
            "<results>/cost.tsv",
            category="Cost",
            labels={"table": "cost of every rule and method"},
            caption="../report/cost_table.rst",
        ),
    log:
        "<logs>/figure_cost.log",
    benchmark:
        "<benchmarks>/figure_cost.tsv"
    localrule: True  # where Snakemake has waited for the files of all other jobs
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("figure_cost"),
        runtime=minutes_of("figure_cost"),
    params:
        code=code("figure_cost.py"),
        rules=measured_rules,
        seeds={method: options["seeds"] for method, options in config["methods"].items()},
        folder=BENCHMARKS,
        templates=sources.folder_hash(LIBRARY / "scgpt_bench" / "report"),
        plan=rules_of_results,
        environments=packages_of_environments,
    script:
        "../scripts/figure_cost.py"


def results_of_run():
    """Everything that a run computes except the report: what the report shows, in its order, and the submissions."""
    costs = ["figures/cost_by_method.svg", "cost.tsv", "figures/rule_graph.svg", "rules.html"]
    last = [*costs, "provenance.json", "configuration.yaml"]
    return [*results_with_costs(), *(f"<results>/{name}" for name in last)]


def entries_of_report(wildcards, input):
    """What the report shows: each file that a rule marks with `report()`, in the order of the results."""
    marked = [output for rule in workflow.rules for output in rule.output if "report" in output.flags]
    entries = []
    for path in input.results:
        for output in marked:
            if match := output.match(path):
                entry, names = output.flags["report"], match.groupdict()
                entries.append(
                    {
                        "path": path,
                        "category": entry.category,
                        "subcategory": entry.subcategory and entry.subcategory.format(**names),
                        "labels": {label: text.format(**names) for label, text in entry.labels.items()},
                        "caption": Path(entry.caption.get_filename()).name,
                        "wildcards": names,
                    }
                )
    return entries


rule report_of_run:
    input:
        results=results_of_run(),
        start="<results>/summary.html",
        answers="<results>/answers.json",
    output:
        "<results>/report.html",
    log:
        "<logs>/report_of_run.log",
    benchmark:
        "<benchmarks>/report_of_run.tsv"
    localrule: True
    conda:
        "../../envs/figures.yaml"
    resources:
        mem_mb=memory_of("report_of_run"),
        runtime=minutes_of("report_of_run"),
    params:
        code=code("report_of_run.py"),
        captions=sources.folder_hash(WORKFLOW / "report"),
        page=sources.folder_hash(LIBRARY / "scgpt_bench" / "report"),
        entries=entries_of_report,
        kinds=KINDS,
        pooled=[*POOLED],
        without_pretraining=WITHOUT_PRETRAINING,
    script:
        "../scripts/report_of_run.py"
