"""Every option of a study: its type, its limits, its default and, below it, its meaning. They are nowhere else.

:mod:`configuration` checks a study against these classes, jobs take them as their options, and
``docs/write_configuration.py`` makes the tables of the documents and a JSON schema from them. Snakemake reads this
module at every start: it imports nothing heavy. It compares parameters as text: the order of options is part of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    PlainSerializer,
    PlainValidator,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

from scgpt_bench.errors import InputError

T = TypeVar("T")
Chosen = TypeVar("Chosen", bound="Options")


def _fault(found: str, expected: str, option: str = "") -> InputError:
    """Make the error of a check below, for :func:`checked` to name the file."""
    return InputError("options", option, found, expected)


def _unique(values: list) -> list:
    if any(value in values[:number] for number, value in enumerate(values)):
        raise _fault(_shortened(values), "no entry twice")
    return values


def _training_size(value: Any) -> Any:
    if value != "full" and (type(value) is not int or value < 2):
        raise _fault(_shortened(value), "a whole number of at least 2, or full")
    return value


def _held_out(value: Any) -> Any:
    is_list = isinstance(value, list) and all(isinstance(name, str) and name for name in value)
    if value != "all" and not (is_list and len({*value}) == len(value)):
        raise _fault(_shortened(value), "all, or a list of contexts, none twice")
    return value


def _as_written(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    check(value)
    return value  # a whole number stays one: as a parameter of a job, 0 is not 0.0


Natural = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Number = Annotated[float, WrapValidator(_as_written)]
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(gt=0, lt=1)]
UpToOne = Annotated[Number, Field(gt=0, le=1)]
SeenShare = Annotated[Number, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^(?![\s\S]*(\.\.|\n))[A-Za-z0-9][A-Za-z0-9_.-]*$")]  # becomes a folder
Unique = Annotated[list[T], AfterValidator(_unique), Field(json_schema_extra={"uniqueItems": True})]
ONE, SEVERAL = "(one)", "(several)"
Choice = Annotated[
    Annotated[T, Tag(ONE)] | Annotated[Unique[T], Field(min_length=1), Tag(SEVERAL)],
    Discriminator(lambda value: SEVERAL if isinstance(value, list) else ONE),
    PlainSerializer(lambda value: value),  # as it was written
]
TrainingSize = Annotated[
    int | str,
    PlainValidator(_training_size),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 2}, {"const": "full"}]}),
]
HeldOut = Annotated[
    str | list[str],
    PlainValidator(_held_out),
    WithJsonSchema({"anyOf": [{"const": "all"}, {"type": "array", "items": {"type": "string"}, "uniqueItems": True}]}),
]
ValueInput = Literal["log1p", "bins"]
Precision = Literal["fp32", "tf32", "bf16"]


class Options(BaseModel):
    """Options that belong together. Of several bases, the options of the last come first."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, regex_engine="python-re", defer_build=True
    )

    @model_validator(mode="before")
    @classmethod
    def _only_known(cls, values: Any) -> Any:
        known = cls.model_fields
        unknown = [repr(key) for key in values if key not in known] if isinstance(values, Mapping) else []
        if unknown:
            raise _fault("unknown key " + ", ".join(sorted(unknown)), "keys among " + ", ".join(sorted(known)))
        return values


# Data


class Generated(Options):
    """A planted Perturb-seq experiment (scgpt_bench.data.planted)."""

    seed: Natural = 1
    """Seed of the whole experiment."""
    structure: bool = True
    """Whether responses can be predicted from other perturbations or from the atlas. `false` gives effects of the same
    size on genes drawn at random."""
    modules: int = Field(10, ge=2)
    """Number of gene modules."""
    genes_per_module: Count = 20
    """Genes in each module."""
    targets_per_module: Count = 6
    """Genes of each module that are knocked down."""
    cells_per_perturbation: Count = 80
    """Cells of each perturbation."""
    control_cells: Count = 1500
    """Control cells."""
    batches: Count = 4
    """Number of batches."""
    library_size: Count = 3000
    """Median number of transcripts of a cell."""
    genes_outside_vocabulary: Natural = 4
    """Measured genes whose names no vocabulary knows."""
    unmeasured_targets: Natural = 2
    """Perturbed genes that are not among the measured genes."""
    combinations: Natural = 0
    """Pairs of targets that are knocked down together."""
    contexts: Natural = 0
    """Number of cell lines, each with a state of its own and the same perturbations (`context` in obs); 0 is one line
    without a name."""
    carried_over: Number = Field(1.0, ge=0, le=1)
    """Share of the variance of each change that is the same in all cell lines. The rest is on other genes in each,
    drawn at random."""
    atlas_cells: Count = 6000
    """Cells of the unperturbed atlas."""
    atlas_states: Count = 30
    """Cell states in the atlas."""
    truth_draws: int = Field(4000, ge=2)
    """Simulated cells behind each true mean response."""

    @model_validator(mode="after")
    def _fit_each_other(self) -> Self:
        n_targets = self.modules * self.targets_per_module
        most = {
            "targets_per_module": self.genes_per_module,
            "genes_outside_vocabulary": self.modules * self.genes_per_module - n_targets,
            "unmeasured_targets": n_targets - 1,
            "combinations": n_targets * (n_targets - 1) // 2,
        }
        for name, limit in most.items():
            if getattr(self, name) > limit:
                expected = f"at most {limit} with these modules and targets"
                raise _fault(str(getattr(self, name)), expected, name)
        return self


class Harmonize(Options):
    """From a data set to cells.h5ad."""

    minimum_cells: int = Field(10, ge=2)
    """Perturbations with fewer cells are dropped and listed."""
    maximum_genes: int | None = Field(None, ge=10)
    """Keep this many genes, those with the highest dispersion among control cells, and every measured target; null
    keeps all."""
    minimum_guide_umis: Count = 5
    """A cell's top guide needs at least this many UMIs (formats with guide counts)."""
    minimum_guide_share: Number = Field(0.8, gt=0.5, le=1)
    """A cell's top guide needs at least this share of the cell's guide UMIs."""


class Card(Options):
    """The data card, made before any model."""

    minimum_reliability: Number = Field(0.3, ge=-1, le=1)
    """Flag a perturbation as unreliable if its response correlates less than this between two halves of its cells.
    Scores are shown with and without flagged ones."""


class Contexts(Options):
    """Splits that hold out a context: its conditions are tested, and those of all other contexts are learned from."""

    hold_out: HeldOut = []
    """Contexts to hold out, each in its own split `context-<name>`; `all` takes those in the column `contexts` of the
    data-set table. Every data set of the study must have them."""
    seen: Annotated[Unique[SeenShare], Field(min_length=1)] = [0]
    """Shares of the held-out context's conditions to train on anyway, as if a part of the screen had been repeated
    there. A share above 0 is the split `context-<name>-seen<share>`."""
    unseen: Annotated[Unique[Literal["context", "both"]], Field(min_length=1)] = ["context"]
    """What is new about a tested condition: its `context`, or `both` its context and its perturbation. `both` crosses
    every fold in `run` with every context (`context-<name>-fold0`): the fold's perturbations are tested in the held-out
    context and trained on nowhere."""


class Splits(Options):
    """Which perturbations are trained on and which are tested."""

    folds: int = Field(5, ge=2)
    """Number of folds of perturbations. Each fold is the test set of one split."""
    run: Unique[Natural] = [0]
    """Folds to run as test sets, counted from 0."""
    gears_seeds: Unique[Natural] = []
    """Seeds of GEARS-style simulation splits to add; seed s is the split `gears<s>`."""
    files: dict[Name, dict[str, Text]] = {}
    """Fixed splits to add: split name, then data set, then a file. TSV or CSV with the columns perturbation, role and,
    if roles differ between contexts, context; or JSON or pickle as GEARS writes them."""
    contexts: Contexts = Contexts()
    """Splits that hold out a context (cell line, donor, data set)."""
    training_sizes: Unique[TrainingSize] = []
    """Learning curves: run every split again with this many perturbations to learn from (training and validation
    together), as splits `<split>-train<number>` without verdicts. `full` is the split itself, which always runs."""
    seed: Natural = 1
    """Seed that assigns perturbations to folds."""
    validation_share: Share = 0.15
    """Share of the perturbations outside the test fold that is held out to choose a model."""
    minimum_cells: int = Field(30, ge=2)
    """Do not test conditions with fewer cells, because their measured mean is noise. Fixed splits are taken as they
    are; the data card names such perturbations in them."""


class Controls(Options):
    """The control cells that every method starts from."""

    cells_per_perturbation: Count = 100
    """Control cells to draw for each test perturbation, in the shares of its cell types. If a type has too few, each is
    drawn once and counts for more."""
    seed: Natural = 1
    """Seed of the draw."""


# Checkpoints, by where their weights come from


class Catalogue(Options):
    """A published checkpoint, downloaded from the addresses in the checkpoint table."""

    source: Literal["catalogue"]


class Folder(Options):
    """A folder of your own in scGPT's layout (best_model.pt or model.safetensors, args.json, vocab.json, optionally
    gene_info.csv), such as a published checkpoint that you downloaded by hand. docs/checkpoints.md lists the forms that
    are read.
    """

    source: Literal["folder"]
    path: Text
    """The folder."""


class ModelSizes(Options):
    """The sizes of a model."""

    embsize: int = Field(512, ge=8)
    """Width of the embeddings."""
    nlayers: Count = 12
    """Number of transformer layers."""
    nheads: Count = 8
    """Number of attention heads."""
    d_hid: int = Field(512, ge=8)
    """Width of the feed-forward layer."""

    @model_validator(mode="after")
    def _heads_are_of_one_size(self) -> Self:
        if self.embsize % self.nheads:
            raise _fault(str(self.nheads), f"a divisor of embsize, {self.embsize}", "nheads")
        return self


class _RandomWeights(Options):
    source: Literal["random"]
    seed: Natural = 1
    """Seed of the weights."""


class Random(ModelSizes, _RandomWeights):
    """Random weights, drawn from a seed, in scGPT's layout. The report labels it untrained wherever it appears."""


class Pretraining(ModelSizes):
    """How a model is pretrained. The published values are those of scGPT_human's args.json."""

    dropout: Number = Field(0.2, ge=0, lt=1)
    """Share of the units that dropout sets to 0 in a training step."""
    n_bins: int = Field(51, ge=3, le=1000)
    """Value bins of a cell, its zeros included; at most 1000."""
    max_seq_len: int = Field(1200, ge=4)
    """Most genes of a cell in one step, `<cls>` included."""
    mask_ratio: list[Share] = Field([0.25, 0.5, 0.75], min_length=1)
    """Shares of unknown genes; each batch draws one."""
    include_zero_genes: bool = False
    """Whether a cell includes the genes that it does not express."""
    learning_rate: Positive = 1e-4
    """Peak learning rate of Adam."""
    warm_up: Natural = 10000
    """Steps up to the peak learning rate. It then falls to zero along a cosine."""
    epochs: Count = 6
    """Passes over the cells."""
    batch_size: Count = 512
    """Cells per step."""
    second_pass_after: int | None = Field(1000, ge=0)
    """Step from which the cell embedding is fed back in a second pass; null for never."""
    clip_norm: Positive = 1.0
    """Largest norm of a step's gradient."""
    held_out: Share = 0.03
    """Share of the cells that is held out to measure the loss."""


class _PretrainingSeed(Options):
    seed: Natural = 1
    """Seed of weights, masks and order."""


class Pretrain(Pretraining, _PretrainingSeed):
    """Pretrained by this workflow from random weights on unperturbed cells (generative masked modelling, as scGPT)."""

    source: Literal["pretrain"]
    dataset: Name
    """Data set whose unperturbed cells are used: the atlas of a generated data set, the control cells of any other."""


class CensusCells(Options):
    """Which cells of CELLxGENE Census, and how they are read."""

    census_version: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    """Date of a Census release. `stable` and `latest` are refused, because they move."""
    address: str | None = None
    """SOMA experiment to read instead of the public Census, such as a local copy."""
    tissues: Unique[str] | None = Field(None, min_length=1)
    """Values of `tissue_general`; null for all."""
    disease: str | None = "normal"
    """Value of `disease`; null for all."""
    primary_only: bool = True
    """Whether a cell that several studies share counts once."""
    obs_filter: str | None = None
    """Further condition on obs, in SOMA's value-filter syntax."""
    shuffle_run: Count = 64
    """Neighbouring cells that are read together."""
    shuffle_buffer: Count = 32768
    """Cells that are read at once and shuffled with each other."""


class _FromCensus(Options):
    source: Literal["census"]


class Census(CensusCells, _FromCensus, Pretraining, _PretrainingSeed):
    """Pretrained by this workflow on cells streamed from CELLxGENE Census. docs/pretraining.md estimates the cost."""


# Gene vectors, by where they come from


class PublicVectors(Options):
    """A public file of gene vectors, or a graph of genes, downloaded from its address in the vector table."""

    source: Literal["catalogue"]


class ScreenVectors(Options):
    """Principal components of the changes measured in another data set of the run, for genes perturbed alone there."""

    source: Literal["dataset"]
    datasets: dict[str, Name]
    """For each data set of the run, the data set whose changes are used: another screen, of other cells. Versions of
    the same data set are refused, because they would give away test perturbations."""
    components: Count = 10
    """Principal components."""


class ContextVectors(Options):
    """Principal components of the changes that genes perturbed alone cause in the other contexts: training conditions
    only, averaged over contexts with equal weights. Each context has its own vectors.
    """

    source: Literal["contexts"]
    components: Count = 10
    """Principal components."""


class OwnVectors(Options):
    """A file of your own: a vector for each gene, named by symbol, or a graph of genes."""

    source: Literal["file"]
    path: Text
    """A table with genes in the first column and a header (`.tsv`, `.csv`, also `.gz`; `.parquet`, where the index may
    have the genes), an AnnData of genes x dimensions (`.h5ad`), or word2vec's text format (`.txt`). A graph is a table
    (`.tsv`, `.csv`, also `.gz`) of edges with the columns source, target and importance, or a `.tar.gz` with one."""
    made_from: Unique[Name] | None = None
    """Data sets of the data-set table from whose cells the file was made; `[]` for none, null for unknown. A file made
    from a data set of the run is refused, because it may give away test perturbations."""


SOURCES: dict[str, dict[str, type[Options]]] = {
    "checkpoints": {
        "catalogue": Catalogue,
        "folder": Folder,
        "pretrain": Pretrain,
        "census": Census,
        "random": Random,
    },
    "vectors": {
        "catalogue": PublicVectors,
        "dataset": ScreenVectors,
        "contexts": ContextVectors,
        "file": OwnVectors,
    },
}


# Methods: what each kind takes, the registry of methods says


class Method(Options):
    """What every method takes."""

    kind: str
    """What the method is. If absent, the method's name."""
    seeds: Unique[Natural] = Field([0], min_length=1)
    """One run per seed. A method without randomness gives the same prediction for each."""


class Weighting(Options):
    """Of means."""

    weighting: Literal["perturbation", "cell"] = "perturbation"
    """Whether each training perturbation counts once, or each of its cells."""


class Ridge(Options):
    """The bilinear model."""

    penalty: Choice[Positive] = [0.01, 0.1, 1.0, 10.0, 100.0]
    """Ridge penalty, on both sides: a number, or a list to choose from. Published: 0.1."""
    components: Choice[Count] = [5, 10, 20, 50]
    """Principal components of the pseudo-bulks: a number, or a list to choose from. Published: 10."""


class Neighbours(Options):
    """Nearest neighbours."""

    neighbours: Choice[Count] = [1, 2, 3, 5, 10, 20]
    """Number of perturbations to average, or a list to choose from."""


class Coexpression(Options):
    """What genes are compared by."""

    components: Choice[Count] = [5, 10, 20, 50]
    """Principal components of the co-expression among control cells (at most 5,000, drawn by name): a number, or a list
    to choose from."""


class Forest(Options):
    """A random forest."""

    components: Count = 20
    """Principal components of the co-expression among control cells (at most 5,000, drawn by name)."""
    trees: Count = 100
    """Number of trees."""
    max_features: Choice[UpToOne] = [0.3, 1.0]
    """Share of the features that a split of a tree may use: a number, or a list to choose from."""
    max_depth: Choice[Count] = [3, 10]
    """Depth of the trees: a number, or a list to choose from."""


class Scaled(Options):
    """Size of predicted changes."""

    scaled: bool = True
    """Whether to multiply the mean change, and what is predicted in addition to it, by factors from 0.1 to 1. The
    factors are chosen by cross-validation."""


class Vectors(Options):
    """Other vectors of genes."""

    vectors: str | None = None
    """A key of `vectors`. Its gene vectors replace what the method computes from the data set itself."""


class FromCheckpoint(Options):
    """What every method on a checkpoint takes."""

    checkpoint: Name
    """A key of `checkpoints`."""


class Flagged(Options):
    """The flagged call."""

    genes_fed: Literal["all", "nonzero"] = "all"
    """Which genes of a control cell the model sees: all, or the nonzero ones and the targets. A gene that it does not
    see is predicted as 0."""


class ControlValues(Options):
    """The values of a control cell."""

    value_input: ValueInput = "log1p"
    """What the value encoder receives from a control cell: log1p expression, as in the published perturbation code, or
    the bins 0 to n_bins - 1 of pretraining. The decoder multiplies log1p expression in both cases."""


class SeveralSeeds(Options):
    """The seeds of methods that are trained."""

    seeds: Unique[Natural] = Field([0, 1, 2], min_length=1)
    """One run per seed. With one seed, verdicts are about that one training only."""


class Search(Options):
    """The search of a recipe."""

    search: dict[
        Literal["batch_size", "dropout", "epochs", "freeze", "gamma", "learning_rate"],
        Annotated[Unique[JsonValue], Field(min_length=1)],
    ] = {}
    """Values to try for `batch_size`, `dropout`, `epochs`, `freeze`, `gamma` and `learning_rate`. Each combination is
    trained with the first seed. The one that scores best on the validation perturbations is then trained with the other
    seeds."""


class Finetuning(Options):
    """How scGPT is fine-tuned: the published values, except for the deviations that :mod:`scgpt.recipe` lists."""

    learning_rate: Positive = 1e-4
    """Learning rate of Adam in the first epoch."""
    gamma: Number = Field(0.9, gt=0, le=1)
    """Factor by which the learning rate changes after each epoch."""
    clip_norm: Positive = 1.0
    """Largest norm of a step's gradient."""
    batch_size: Count = 64
    """Pairs of a control and a perturbed cell per step, over all devices."""
    epochs: Count = 15
    """Passes over the training cells."""
    patience: Count | None = 10
    """Training ends after this many epochs without a better validation metric; null for never."""
    dropout: Number = Field(0.0, ge=0, lt=1)
    """Share of the units that dropout sets to 0 in a training step."""
    max_seq_len: int = Field(1536, ge=2)
    """Genes per step. If there are more, each step draws a random subset."""
    keep_targets: bool = True
    """Whether that subset always includes the perturbed genes. `false` is the published recipe, which mostly drops
    them."""
    select: Literal["pearson_delta", "pearson"] = "pearson_delta"
    """Validation metric that chooses the weights. `pearson` is the published recipe."""
    pair_within: Unique[Literal["batch", "cell_type"]] = ["batch", "cell_type"]
    """What the two cells of a pair have in common. If no control cell fits, one of the same cell type is taken (if
    listed here), else any; the model's report.json counts these pairs (`paired_within`). `[]` is the published
    recipe."""
    redraw_controls: bool = True
    """Whether every epoch draws the control cell of a pair anew. `false` is the published recipe."""
    control_pairs: bool = False
    """Whether to train on control cells too, each paired with itself and without a perturbation flag. `true` is the
    published recipe."""
    flag_direction: bool = True
    """Whether activated genes have their own flag, which lets one model learn activation and interference. `false` is
    the published recipe, which has one flag."""
    validation_cells: Count = 64
    """Control cells per validation perturbation for the validation metrics."""


class Start(Options):
    """The weights that fine-tuning starts from."""

    pretrained: list[str] = ["encoder", "value_encoder", "transformer_encoder"]
    """Modules that start from the checkpoint."""
    freeze: list[str] = []
    """Modules that keep their weights."""


class RandomStart(Options):
    """The same, of a training from random weights."""

    pretrained: list[str] = Field([], max_length=0)
    """Modules that start from the checkpoint; none, by definition."""


class Prompt(Options):
    """How prompts are made."""

    known_share: Number = Field(0.1, ge=0, lt=1)
    """Share of the genes, besides the target, that the prompt gives."""
    draws: Count = 4
    """Number of draws of the given genes; the effect is averaged over them."""
    silenced_targets: Literal["zero", "left_out"] = "zero"
    """How the prompt gives a silenced target: as a known gene with value 0, or not at all. A checkpoint that was
    pretrained on expressed genes only, as the published ones were, has never seen a 0."""
    target_quantile: Number = Field(0.95, ge=0, le=1)
    """For activation screens (`perturbation_kind: activation`): a target is set to this quantile of its values in the
    control cells that express it. If none does, the quantile over all their genes is used and the target is listed. In
    other screens a target is set to 0 and this option is ignored; a target that no control cell expresses is listed,
    because setting it to 0 asks nothing."""
    batch_size: Count = 64
    """Cells per pass. Fewer are used if the known genes would need more than 3 GB."""

    @model_validator(mode="after")
    def _every_gene_is_unknown_in_some_draw(self) -> Self:
        most = 1 - 1 / self.draws
        if self.known_share > most:
            expected = f"0 to {most} with {self.draws} draws: every gene must be unknown in one of them"
            raise _fault(str(self.known_share), expected, "known_share")
        return self


class Rounds(Options):
    """Iterative generation."""

    rounds: int = Field(4, ge=2)
    """Rounds of generation."""
    confidence: Literal["agreement", "value", "random"] = "agreement"
    """How confidence is measured. agreement: the gene's own token against the cell embedding; value: a high predicted
    bin; random: no measure, as an ablation."""


class Graph(Options):
    """A graph of genes."""

    graph: Name
    """A key of `vectors` whose file is a graph: the columns source, target and importance."""


class GearsTraining(Options):
    """How GEARS is trained, by its published defaults; it has no uncertainty."""

    hidden_size: Count = 64
    """Width of the network."""
    similar_genes: Count = 20
    """Number of edges from each perturbed gene to its most similar genes in the graph."""
    epochs: Count = 20
    """Passes over the training cells. The weights that are best on the validation perturbations are kept."""
    batch_size: int = Field(32, ge=2)
    """Cells per step."""
    learning_rate: Positive = 1e-3
    """Learning rate of Adam in the first epoch. It halves after each epoch."""


class Foreign(Options):
    """How predictions of another program name things."""

    perturbation_column: str = "perturbation"
    """Column of obs that names the perturbation."""
    control_label: str = "control"
    """Label of control cells; join several by a vertical bar."""
    combination_separator: str = "+"
    """Separator between the genes of a combination."""
    gene_symbol_column: str | None = None
    """Column of var with gene symbols; null takes the index."""
    missing_perturbations: Literal["refuse", "control-mean"] = "refuse"
    """What to do if the file lacks a test perturbation: refuse the file, or count the perturbation as unchanged and
    list it."""
    missing_genes: Literal["refuse", "control-mean"] = "refuse"
    """The same for a gene that the file lacks."""


class Files(Options):
    """Predictions from files."""

    files: dict[str, dict[str, Text]]
    """One h5ad per data set and split: data set, then split, then path; `{seed}` in a path stands for the seed."""


class Script(Options):
    """Predictions from a script."""

    script: Text
    """Path of the script."""
    interpreter: str | None = None
    """Python that runs the script; null for the Python of the workflow's environment."""
    options: dict[str, JsonValue] = {}
    """Options passed to the script as JSON."""


# The rest, and the study as a whole


class Hardware(Options):
    """What a job that runs or trains scGPT asks for."""

    gpu: Natural = 1
    """GPUs per job; a prediction of scGPT uses one of them. 0 runs on the CPU. A change from or to 0 trains and
    predicts again."""
    nodes: Count = 1
    """Nodes per training, with so many GPUs each. More than one needs Slurm, which starts one process on each."""
    threads: Count = 4
    """CPU threads per job, on each node."""
    save_minutes: Positive = 10
    """Minutes between saved states of a training. A killed training resumes from the last one; if it is damaged,
    training starts again with a warning."""
    precision: Precision | None = None
    """Precision of scGPT's matrix products. `fp32` is the most accurate and the slowest. `bf16` has 16 bits, on a CPU
    too. `tf32` needs an NVIDIA GPU (Ampere or newer); on a CPU it is `fp32`. null: `bf16` on a GPU, `fp32` on a CPU; a
    GPU without bf16 trains in `fp32` and predicts in fp16. Prompts never use 16 bits, which hide small effects: on a
    GPU they use `tf32`, or `fp32` if you choose that. A change trains and predicts again from the start."""
    deterministic: bool = True
    """Whether a GPU trains with deterministic algorithms only. A repeated or resumed training then ends with the same
    bytes. `false` lets PyTorch choose faster ones (cuDNN's attention). No effect on a CPU."""
    micro_batch: Count | None = None
    """Largest number of cells that a GPU (or the CPU) trains on at once; null for its whole share of a batch. Set it if
    a training runs out of memory. The share is then computed in parts and their gradients are added up. The step is the
    same, except for rounding and draws of dropout. A change trains nothing again."""


class Inference(Options):
    """How scGPT is run."""

    batch_size: Count | None = None
    """Cells per batch; null chooses the size from the free memory. Another size moves a prediction by less than 1e-5 in
    fp32 (CPU), and by more in bf16 (GPU)."""
    shards: Count = 1
    """Number of jobs that share one prediction, each with whole perturbations. A change predicts again."""
    keep_cells: bool = True
    """Whether to keep every predicted cell. `false` keeps only the mean cell of each perturbation; metrics that compare
    cells (energy distance, official scorers, submissions) then have nothing to work on for scGPT."""


class Scores(Options):
    """From metrics per perturbation to scores with intervals and verdicts."""

    margin: Annotated[Number, Field(gt=0, le=0.2)] = 0.05
    """Difference in skill that counts as none, at most 0.2. A method is `equivalent` if its whole interval is within
    the margin. It is `better` if its `effect_pearson` is higher than that of every simple method and it is shown to be
    not worse by more than the margin in each of `specific_pearson`, `discrimination` and `mse_unbiased`."""
    family: Unique[str] | None = Field(None, min_length=1)
    """Methods whose p-values are corrected together, if the question is only about these; null for every method that
    competes. Choose before you see scores."""


# What the organizers publish; of a prediction's own cells, not of those that were measured.
PUBLISHED_LIMITS: dict[int, dict[str, int]] = {
    2025: {"genes": 18_080, "cells": 200_000},
    2026: {
        "genes": 18_533,
        "cells": 400_000,
        "cells_per_perturbation": 400,
        "counts_per_cell": 1_000_000,
        "stored_entries": 4_750_000_000,
    },
}


class Submission(Options):
    """A file for the Virtual Cell Challenge, of the predictions for a list of perturbations."""

    challenge: Literal[2025, 2026]
    """Year of the challenge. 2025 makes a `.vcc` file of log1p values with control cells; 2026 an h5ad of counts
    without control cells, for `vcc prep`."""
    prediction: Name
    """An entry of `predict` whose list is the challenge's."""
    contexts: dict[Text, Text] = {}
    """2026: for each context of the challenge (`A`), its name in the data set. Leave it out if the names are the
    same."""
    genes: Text
    """The challenge's list of genes, one per line, no header."""
    methods: Unique[Name] = Field(min_length=1)
    """Methods to submit; each makes one file."""
    missing_genes: Literal["refuse", "control-cell"] = "refuse"
    """2026: what to do about a gene that a joined data set lacks because not every part measured it. Refuse the
    submission, or give every cell the counts of its control cell, as if nothing changed; the job's log counts these
    genes."""
    limits: dict[Literal["genes", "cells", "cells_per_perturbation", "counts_per_cell", "stored_entries"], Count] = {}
    """Limits of the challenge, if they differ from the published ones: number of `genes`, most `cells`; for 2026 also
    `cells_per_perturbation` (exact number, in every context), most `counts_per_cell` and most `stored_entries`."""

    @model_validator(mode="after")
    def _of_its_year(self) -> Self:
        for limit in self.limits:
            if limit not in PUBLISHED_LIMITS[self.challenge]:
                expected = f"limits of {self.challenge}: " + ", ".join(PUBLISHED_LIMITS[self.challenge])
                raise _fault(repr(limit), expected, "limits")
        if self.challenge == 2025 and self.contexts:
            raise _fault(f"{len(self.contexts)} contexts", "none: 2025 has one", "contexts")
        if self.challenge == 2025 and self.missing_genes != "refuse":
            raise _fault(repr(self.missing_genes), "refuse: the training file of 2025 has all genes", "missing_genes")
        return self


class Prediction(Options):
    """Perturbations that nobody measured, to be predicted."""

    dataset: Name
    """An entry of `datasets`. Predictions start from its control cells, and methods learn from all its conditions."""
    perturbations: Text | None = None
    """File with a list of perturbations: one per line, or a TSV or CSV with the column `perturbation` (or
    `target_gene`, as in the Virtual Cell Challenge) and, if the data set has both directions, `direction`. Other
    columns are ignored. Symbols in any case, or Ensembl identifiers; join the genes of a combination by `+`."""
    targets_of: Name | None = None
    """Instead of a list: predict the perturbations of this other entry of `datasets`."""
    contexts: Unique[Text] = []
    """Contexts to predict; empty for all that have control cells."""
    methods: Unique[Name] = []
    """Methods that predict; empty for all that can. Benchmark controls, imported predictions, scripts and GEARS
    cannot."""
    cells_per_perturbation: Count = 100
    """Control cells that each prediction starts from; also the number of predicted cells."""
    signature: Text | None = None
    """A TSV or CSV with the columns `gene` and `direction` (`up`, `down`). It adds a ranking by how closely predicted
    changes follow it."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if (self.perturbations is None) == (self.targets_of is None):
            found = "neither or both"
            raise _fault(found, "a list, or targets_of a data set", "perturbations")
        return self


class Figures(Options):
    """What the figures show."""

    perturbations: int = Field(6, ge=1, le=24)
    """How many perturbations the figure of measured changes in two contexts shows."""


class Study(Options):
    """Every key of a run's configuration, with its default. config/README.md explains them in prose."""

    study: str = Field(pattern=r"^(?![\s\S]*\n)[a-z0-9_-]+$")
    """Name of the study: lower-case letters, digits, `_` and `-`. All its results are in `results/<study>/`; downloads
    are shared between studies."""
    dataset_table: Text = "config/datasets.tsv"
    """Table of data sets: a row for each version. If the run's folder has no such file, the workflow's own is used."""
    checkpoint_table: Text = "config/checkpoints.tsv"
    """Table of published scGPT checkpoints, one row per file; the workflow's own by default, as above."""
    published_results_table: Text = "config/published_results.tsv"
    """Table of published figures to set beside the scores; the workflow's own by default, as above."""
    vector_table: Text = "config/vectors.tsv"
    """Table of public gene vectors, one file per row; the workflow's own by default, as above."""
    mirrors: Unique[Text] = []
    """Folders that are searched, by checksum, before anything is downloaded."""
    datasets: Unique[Name] = Field(min_length=1)
    """Data sets to run, by their names in the data-set table."""
    generated: dict[Name, Generated] = {}
    """Options of generated data sets (rows with address `generated`), by name."""
    harmonize: Harmonize = Harmonize()
    card: Card = Card()
    splits: Splits = Splits()
    controls: Controls = Controls()
    checkpoints: dict[Name, dict[str, Any]] = {}
    """scGPT checkpoints that methods refer to, by name."""
    vectors: dict[Name, dict[str, Any]] = {}
    """Gene vectors that methods refer to, by name."""
    hardware: Hardware = Hardware()
    inference: Inference = Inference()
    methods: dict[Name, dict[str, Any]] = Field(min_length=1)
    """Methods to compare, by name. The name is also the folder of the results."""
    scores: Scores = Scores()
    official_scorers: Unique[Literal["cell_eval", "cell_eval2"]] = []
    """Official scorers of the Virtual Cell Challenge to run, unchanged, on every prediction. They accept data sets of
    one cell type; `cell_eval2` also needs raw counts."""
    submissions: dict[Name, Submission] = {}
    """Files for the Virtual Cell Challenge, by name."""
    predict: dict[Name, Prediction] = {}
    """Lists of perturbations that nobody measured, to be predicted, by name."""
    figures: Figures = Figures()


def checked(options: type[Chosen], values: Mapping[str, Any], source: str, prefix: str = "") -> Chosen:
    """Make ``options`` from ``values``, with every default.

    Raises
    ------
    InputError
        Naming ``source``, and the key below ``prefix``: the first of the shallowest faults.
    """
    try:
        return options.model_validate(values)
    except ValidationError as error:
        fault = min(error.errors(include_url=False), key=lambda fault: len(fault["loc"]))
    place = tuple(part for part in fault["loc"] if part not in (ONE, SEVERAL))
    value, about = fault["input"], fault.get("ctx", {})
    found, expected = _shortened(value), fault["msg"].removeprefix("Input should be ")
    expected = expected.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
    match fault["type"]:
        case "value_error":  # of a check above
            place, found, expected = (*place, about["error"].where), about["error"].found, about["error"].expected
        case "missing":
            place, found, expected = place[:-1], "no such key", f"the key {place[-1]!r}"
        case "string_type":
            expected = "text; quotes make it one"
        case "model_type" | "dict_type":
            expected = "keys with values"
        case "string_pattern_mismatch":
            expected = f"text that matches {about['pattern']}"
        case "too_short":
            expected = f"at least {about['min_length']} entries"
        case "int_type" if isinstance(value, float) and value.is_integer():
            expected += f", such as {_shortened(int(value))}"
    if place[-1:] == ("[key]",):
        place, found = place[:-2], f"the key {found}"
    raise InputError(source, ".".join(filter(None, [prefix, *map(str, place)])) or "top level", found, expected)


def _shortened(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
