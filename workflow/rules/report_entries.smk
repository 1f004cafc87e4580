# What a run leaves: the entries of its report, and everything that `results` asks for.


KINDS = {method: configuration.judged_kind(options) for method, options in config["methods"].items()}
COST_BY = ["rule", "method"]
BENCHMARKS = "results/benchmarks/"


def measured_rules(wildcards):
    """The benchmark files of each rule, as a regular expression of their paths, and the GPUs that its jobs ask for.

    Without the rules that run beside or after the one that reads them.
    """
    last = [f"{BENCHMARKS}{name}.tsv" for name in ("figure_cost", "provenance", "report_of_run")]
    files = {one: str(one.benchmark) for one in workflow.rules}
    counted = [one for one, file in files.items() if file.startswith(BENCHMARKS) and file not in last]
    return {
        one.name: {"benchmarks": one.benchmark.regex().pattern, "gpus": one.resources.get("gpu").value or 0}
        for one in counted
    }


def published_recipe():
    """The options of fine-tuning with the values of the published recipe: the schema's defaults, but for deviations."""
    schema = configuration.read_schema()["$defs"]
    properties = {**schema["finetuning"]["properties"], **schema["methods"]["scgpt-finetuned"]["properties"]}
    defaults = {name: entry["default"] for name, entry in properties.items() if name != "pretrained"}
    published = {"keep_targets": False, "select": "pearson", "pair_within": []}
    return defaults | published | {"redraw_controls": False, "control_pairs": True}


def pseudobulks_of_run():
    """The pseudo-bulks of the first seed of every method, over data sets and splits."""
    return [
        f"results/{dataset}/{split}/{method}/{config['methods'][method]['seeds'][0]}/pseudobulk.h5ad"
        for dataset in config["datasets"]
        for split in SPLITS
        for method in config["methods"]
    ]


def stress_of_method(wildcards):
    """The stress panel of a method's first seed."""
    seed = config["methods"][wildcards.method]["seeds"][0]
    return f"results/{wildcards.dataset}/{wildcards.split}/{wildcards.method}/{seed}/stress.tsv"


def entries(pattern, names, label, **options):
    """One entry of the report per name: files of one job that differ in a label."""
    return [entry(pattern.replace("<name>", name), label, name, **options) for name in names]


def entry(path, label, name, labels, caption, **options):
    return report(path, labels={**labels, label: name}, caption=f"../report/{caption}", **options)


def data_entry(path, heading, caption):
    """Text, figure or table about the data themselves."""
    options = {"category": "Data", "subcategory": "{dataset}", "caption": f"../report/{caption}"}
    return report(f"results/{{dataset}}/{path}", labels={"figure": heading}, **options)


def stressed_method():
    """The method whose predictions the stress panel transforms: a fine-tuned one, or the last that is no control."""
    return (methods_of({"scgpt-finetuned"}) or methods_of(JUDGED | BASELINES))[-1]


def results_of_run():
    """Everything that a run computes except the report: what the report shows, in its order, and the submissions."""
    costs = [*(f"results/figures/cost_by_{by}.svg" for by in COST_BY), "results/cost.tsv"]
    return [*results_with_costs(), *costs, "results/provenance.json", "results/configuration.yaml"]


def results_with_costs():
    """The results whose jobs the cost figures count: all that a run computes before costs, provenance and report."""
    return [*verdicts_of_report(), *entries_of_datasets(), *tables_of_run(), *submissions_of_run()]


def verdicts_of_report():
    compared = METRICS if methods_of(JUDGED) else []
    return [*(f"results/figures/differences_{metric}.svg" for metric in compared), "results/verdicts.tsv"]


def entries_of_datasets():
    """What the report shows of each data set and split."""
    shown = []
    for dataset in config["datasets"]:
        shown += [
            f"results/{dataset}/figures/{name}" for name in ("data_card.html", "reliability.svg", "knock_down.svg")
        ]
        shown += [f"results/{dataset}/data_card.tsv", f"results/{dataset}/figures/responses.svg"]
        if dataset in last_two():
            shown += [f"results/{dataset}/figures/drop_comparison.{suffix}" for suffix in ("html", "svg")]
            shown.append(f"results/{dataset}/drop_comparison.tsv")
        shown += [f"results/{dataset}/figures/vocabulary_{name}.svg" for name in config["checkpoints"]]
        for split in SPLITS:
            folder = f"results/{dataset}/{split}/figures"
            shown += [f"{folder}/scores_{metric}.svg" for metric in METRICS]
            shown += [f"{folder}/perturbations.svg", f"results/{dataset}/{split}/perturbations.tsv"]
            for method in config["methods"]:
                shown += [f"{folder}/predicted_against_true_{method}.svg", f"{folder}/residual_{method}.svg"]
            if methods_of(SCGPT):
                shown.append(f"{folder}/load_report.svg")
            for method, seed in predictions(methods_of(FINETUNED)):
                shown.append(f"{folder}/training_history_{method}_{seed}.svg")
            shown.append(f"{folder}/stress_{stressed_method()}.svg")
    return shown


def tables_of_run():
    """The tables that the report shows once."""
    names = ("scores", "scores_by_class", "reliable_scores", "ledger", "calibration", "anchors")
    return [f"results/{name}.tsv" for name in names]
