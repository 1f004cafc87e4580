# What a run leaves: the entries of its report, and everything that `results` asks for.


TABLES = {
    "scores": ("Scores", "Scores of every method, data set, split and metric"),
    "verdicts": ("Verdict", "Every method against the best baseline"),
    "reliable_scores": ("Scores", "Scores with and without perturbations of unreliable response"),
    "ledger": ("Trust", "What every metric means"),
    "anchors": ("Trust", "Published figures beside those of this run"),
}


def category_of_table(wildcards):
    return TABLES[wildcards.table][0]


def title_of_table(wildcards):
    return TABLES[wildcards.table][1]


def stress_of_method(wildcards):
    """The stress panel of a method's first seed."""
    seed = config["methods"][wildcards.method]["seeds"][0]
    return f"results/{wildcards.dataset}/{wildcards.split}/{wildcards.method}/{seed}/stress.tsv"


def entries(pattern, names, label, **options):
    """One entry of the report per name: files of one job that differ in a label."""
    return [entry(pattern.replace("<name>", name), label, name, **options) for name in names]


def entry(path, label, name, labels, caption, **options):
    return report(path, labels={**labels, label: name}, caption=f"../report/{caption}", **options)


def card_entry(name, figure):
    """A page or figure of a data set's card."""
    options = {"category": "Data", "subcategory": "{dataset}", "labels": {"figure": figure}}
    return report(f"results/{{dataset}}/figures/{name}", caption="../report/data_card.rst", **options)


def drop_entry(name, figure):
    """A page or figure that compares a drop with the last one."""
    options = {"category": "Data", "subcategory": "{dataset}", "labels": {"figure": figure}}
    return report(f"results/{{dataset}}/figures/{name}", caption="../report/drop_comparison.rst", **options)


def stressed_method():
    """The method whose predictions the stress panel transforms: a fine-tuned one, or the last that is no control."""
    return (methods_of(FINETUNED) or methods_of(JUDGED | BASELINES))[-1]


def figures_of_run():
    """Every figure of the report."""
    figures = ["results/figures/cost.svg"]
    if methods_of(JUDGED):
        figures += [f"results/figures/differences_{metric}.svg" for metric in METRICS]
    for dataset in last_two():
        figures += [f"results/{dataset}/figures/drop_comparison.{suffix}" for suffix in ("html", "svg")]
    for dataset in config["datasets"]:
        shown = ["responses.svg", "data_card.html", "reliability.svg", "knock_down.svg"]
        figures += [f"results/{dataset}/figures/{name}" for name in shown]
        figures += [f"results/{dataset}/figures/vocabulary_{name}.svg" for name in config["checkpoints"]]
        for split in SPLITS:
            folder = f"results/{dataset}/{split}/figures"
            figures += [f"{folder}/scores_{metric}.svg" for metric in METRICS] + [f"{folder}/perturbations.svg"]
            figures += [f"{folder}/predicted_against_true_{method}.svg" for method in config["methods"]]
            for method, seed in predictions(methods_of(FINETUNED)):
                figures.append(f"{folder}/training_history_{method}_{seed}.svg")
            if methods_of(SCGPT):
                figures.append(f"{folder}/load_report.svg")
            figures.append(f"{folder}/stress_{stressed_method()}.svg")
    return figures


def results_of_run():
    """Everything that a run computes, but the report."""
    tables = [f"results/tables/{name}.html" for name in TABLES]
    summaries = ["results/scores.tsv", "results/verdicts.tsv", "results/provenance.json"]
    return [*summaries, *tables, *figures_of_run(), *submissions_of_run()]
