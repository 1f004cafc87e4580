"""Every option of a study: its type, its limits, its default and, below it, its meaning. They are nowhere else.

:mod:`configuration` checks a study against these classes, jobs take them as their options, and
``docs/write_configuration.py`` makes the tables of config/README.md and a JSON schema from them. Snakemake reads this
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
    """Whether what was learned from other perturbations or from the atlas can predict a response; false gives effects
    of the same size on genes drawn at random."""
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
    """Cell lines that are screened alike, each of a state of its own (`context` in obs); 0 is one line without a
    name."""
    carried_over: Number = Field(1.0, ge=0, le=1)
    """Share of the variance of each change that is the same in all cell lines; the rest is on other genes, drawn at
    random, in each."""
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
    """From a drop to cells.h5ad."""

    minimum_cells: int = Field(10, ge=2)
    """Perturbations with fewer cells are left out, and listed."""
    maximum_genes: int | None = Field(None, ge=10)
    """Keep this many genes, chosen by dispersion among control cells, and every measured target; null keeps all."""
    minimum_guide_umis: Count = 5
    """A cell's top guide needs at least this many UMIs (formats with guide counts)."""
    minimum_guide_share: Number = Field(0.8, gt=0.5, le=1)
    """A cell's top guide needs at least this share of the cell's guide UMIs."""


class Card(Options):
    """The data card, made before any model."""

    minimum_reliability: Number = Field(0.3, ge=-1, le=1)
    """A perturbation whose response correlates less than this between two halves of its cells is flagged as unreliable;
    scores are shown with and without it."""


class Contexts(Options):
    """Splits that hold out a context: its conditions are tested, and those of all other contexts are learned from."""

    hold_out: HeldOut = []
    """Names of the contexts to hold out, each in a split of its own, `context-<name>`; `all` takes those in the column
    `contexts` of the data-set table. Every data set of the study has all of them."""
    seen: Annotated[Unique[SeenShare], Field(min_length=1)] = [0]
    """Shares of the held-out context's conditions that are trained on all the same, as if a part of the screen had been
    repeated there; a share above 0 is the split `context-<name>-seen<share>`."""
    unseen: Annotated[Unique[Literal["context", "both"]], Field(min_length=1)] = ["context"]
    """What training has not seen of a tested condition: its `context`, or `both` the context and the perturbation. For
    `both`, every fold in `run` is crossed with every context (`context-<name>-fold0`): the fold's perturbations are
    tested in the held-out context and trained on in none."""


class Splits(Options):
    """Which perturbations are trained on and which are tested."""

    folds: int = Field(5, ge=2)
    """Perturbations are dealt into this many folds; each fold is the test set of one split."""
    run: Unique[Natural] = [0]
    """The folds that are run as test sets, counted from 0."""
    gears_seeds: Unique[Natural] = []
    """Seeds of GEARS-style simulation splits to run as well; seed s is the split `gears<s>`."""
    files: dict[Name, dict[str, Text]] = {}
    """Fixed splits to run as well: split name, then data set, then a file (TSV or CSV with perturbation, role and, if
    roles differ between contexts, context; JSON or pickle as GEARS writes them)."""
    contexts: Contexts = Contexts()
    """Splits that hold out a context (cell line, donor, data set)."""
    training_sizes: Unique[TrainingSize] = []
    """Learning curves: every split is run again with these numbers of perturbations to learn from (training and
    validation together), as splits `<split>-train<number>` without verdicts. `full` is the split itself, which is
    always run."""
    seed: Natural = 1
    """Seed of the dealing."""
    validation_share: Share = 0.15
    """Share of the perturbations outside the test fold that are held out to choose a model."""
    minimum_cells: int = Field(30, ge=2)
    """Folds, GEARS-style splits and those that hold out a context test no condition with fewer cells, since its truth
    would be noise. Fixed splits are taken as they are; the data card names such perturbations."""


class Controls(Options):
    """The control cells that every method starts from."""

    cells_per_perturbation: Count = 100
    """Control cells drawn for each test perturbation, by the shares of its cell types. A type with too few gives each
    once, and these count for more."""
    seed: Natural = 1
    """Seed of the draw."""


# Checkpoints, by where their weights come from


class Catalogue(Options):
    """A published checkpoint, downloaded from the addresses in the checkpoint table."""

    source: Literal["catalogue"]


class Folder(Options):
    """A folder of one's own in scGPT's layout (best_model.pt or model.safetensors, args.json, vocab.json;
    gene_info.csv where there is one), such as a published one that was downloaded by hand; docs/checkpoints.md
    says in which forms they are read.
    """

    source: Literal["folder"]
    path: Text
    """The folder."""


class Sizes(Options):
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


class Random(Sizes, _RandomWeights):
    """Seeded-random weights in scGPT's layout. Untrained, and called so wherever it appears."""


class Pretraining(Sizes):
    """How a model is pretrained. The published values are those of scGPT_human's args.json."""

    dropout: Number = Field(0.2, ge=0, lt=1)
    """Dropout."""
    n_bins: int = Field(51, ge=3, le=1000)
    """Value bins of a cell, its zeros included; at most 1000."""
    max_seq_len: int = Field(1200, ge=4)
    """Most genes of a cell in one step, `<cls>` included."""
    mask_ratio: list[Share] = Field([0.25, 0.5, 0.75], min_length=1)
    """Shares of unknown genes; one is drawn per batch."""
    include_zero_genes: bool = False
    """Whether genes that a cell does not express are part of it."""
    learning_rate: Positive = 1e-4
    """Peak learning rate of Adam."""
    warm_up: Natural = 10000
    """Steps to the peak learning rate; a cosine to zero follows."""
    epochs: Count = 6
    """Passes over the cells."""
    batch_size: Count = 512
    """Cells per step."""
    second_pass_after: int | None = Field(1000, ge=0)
    """Step from which the cell embedding is fed back in a second pass; null never."""
    clip_norm: Positive = 1.0
    """Largest norm of a step's gradient."""
    held_out: Share = 0.03
    """Share of the cells that is held out to measure the loss."""


class _PretrainingSeed(Options):
    seed: Natural = 1
    """Seed of weights, masks and order."""


class Pretrain(Pretraining, _PretrainingSeed):
    """Pretrained by this workflow on unperturbed cells (generative masked modelling, as scGPT was), from random
    weights.
    """

    source: Literal["pretrain"]
    dataset: Name
    """The data set whose unperturbed cells are learned from; the atlas of a generated one, the control cells of any
    other."""


class CensusCells(Options):
    """Which cells of CELLxGENE Census, and how they are read."""

    census_version: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    """Date of a Census release; `stable` and `latest` move."""
    address: str | None = None
    """SOMA experiment to read instead of the public Census, such as a local copy."""
    tissues: Unique[str] | None = Field(None, min_length=1)
    """Values of `tissue_general`; null for all."""
    disease: str | None = "normal"
    """Value of `disease`; null for all."""
    primary_only: bool = True
    """Whether cells that several studies share count once."""
    obs_filter: str | None = None
    """Further condition on obs, in SOMA's value-filter syntax."""
    shuffle_run: Count = 64
    """Neighbouring cells that are read together."""
    shuffle_buffer: Count = 32768
    """Cells that are read at once and shuffled with each other."""


class _FromCensus(Options):
    source: Literal["census"]


class Census(CensusCells, _FromCensus, Pretraining, _PretrainingSeed):
    """Pretrained by this workflow on cells of CELLxGENE Census, streamed; docs/pretraining.md says what that costs."""


# Gene vectors, by where they come from


class PublicVectors(Options):
    """A public file of gene vectors, or a graph of genes, downloaded from its address in the table of gene vectors."""

    source: Literal["catalogue"]


class ScreenVectors(Options):
    """Principal components of the changes measured in another data set of the run, for genes that are perturbed alone
    there.
    """

    source: Literal["dataset"]
    datasets: dict[str, Name]
    """For each data set of the run, the one whose changes are taken: another screen of other cells. One of the same
    cells would give away its own test perturbations, and versions of one data set are refused."""
    components: Count = 10
    """Principal components."""


class ContextVectors(Options):
    """Principal components of what genes that are perturbed alone do in the other contexts: the means, over contexts
    that count alike, of the changes that are trained on there. Each context has vectors of its own.
    """

    source: Literal["contexts"]
    components: Count = 10
    """Principal components."""


class OwnVectors(Options):
    """A file of one's own, with a vector for each gene, named by symbols, or a graph of genes."""

    source: Literal["file"]
    path: Text
    """A table with genes in the first column and a header (`.tsv`, `.csv`, also `.gz`; `.parquet`, where the index may
    have the genes), an AnnData of genes x dimensions (`.h5ad`), or word2vec's text format (`.txt`). A graph is a table
    (`.tsv`, `.csv`, also `.gz`) of edges with the columns source, target and importance, or a `.tar.gz` with one."""
    made_from: Unique[Name] | None = None
    """Data sets of the data-set table whose cells the file was made from; `[]` for none of them, null where nobody
    knows. A file that was made from a data set of the run is refused: it may give away its test perturbations."""


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
    """What the method is; the method's name where it is not given."""
    seeds: Unique[Natural] = Field([0], min_length=1)
    """One run per seed. Methods without a random part give the same prediction for each."""


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
    """Number of perturbations that are averaged, or a list to choose from."""


class Coexpression(Options):
    """What genes are compared by."""

    components: Choice[Count] = [5, 10, 20, 50]
    """Principal components of the co-expression among control cells: a number, or a list to choose from."""


class Forest(Options):
    """A random forest."""

    components: Count = 20
    """Principal components of the co-expression among control cells."""
    trees: Count = 100
    """Number of trees."""
    max_features: Choice[UpToOne] = [0.3, 1.0]
    """Share of the features that a split of a tree may use: a number, or a list to choose from."""
    max_depth: Choice[Count] = [3, 10]
    """Depth of the trees: a number, or a list to choose from."""


class Scaled(Options):
    """Size of predicted changes."""

    scaled: bool = True
    """Whether the mean change, and what is predicted beside it, are multiplied by numbers from 0.1 to 1 that are
    chosen."""


class Vectors(Options):
    """Other vectors of genes."""

    vectors: str | None = None
    """A key of `vectors`, whose gene vectors take the place of what the method computes from the data set itself."""


class FromCheckpoint(Options):
    """What every method on a checkpoint takes."""

    checkpoint: Name
    """A key of `checkpoints`."""


class Flagged(Options):
    """The flagged call."""

    genes_fed: Literal["all", "nonzero"] = "all"
    """Genes of a control cell that the model is given: all, or its nonzero ones and the targets. A gene that is not
    given is predicted as 0."""


class Values(Options):
    """The values of a control cell."""

    value_input: ValueInput = "log1p"
    """What the value encoder is given of a control cell: log1p expression, as in the published perturbation path, or
    the bins 0 to n_bins - 1 on which it was pretrained. The decoder multiplies log1p expression with either."""


class SeveralSeeds(Options):
    """The seeds of methods that are trained."""

    seeds: Unique[Natural] = Field([0, 1, 2], min_length=1)
    """One run per seed. With a single one, verdicts are about this one training."""


class Search(Options):
    """The search of a recipe."""

    search: dict[
        Literal["batch_size", "dropout", "epochs", "freeze", "gamma", "learning_rate"],
        Annotated[Unique[JsonValue], Field(min_length=1)],
    ] = {}
    """Values to try of some options of this method. Each combination is a training of its own, with the first seed; the
    one that scores best on the validation perturbations is trained with the other seeds."""


class Finetuning(Options):
    """How scGPT is fine-tuned: the published values, except for the deviations that :mod:`scgpt.recipe` lists."""

    learning_rate: Positive = 1e-4
    """Learning rate of Adam in the first epoch."""
    gamma: Number = Field(0.9, gt=0, le=1)
    """Factor of the learning rate from epoch to epoch."""
    clip_norm: Positive = 1.0
    """Largest norm of a step's gradient."""
    batch_size: Count = 64
    """Pairs of a control and a perturbed cell per step, over all devices."""
    epochs: Count = 15
    """Passes over the training cells."""
    patience: Count | None = 10
    """Epochs without a better validation metric after which training ends; null never."""
    dropout: Number = Field(0.0, ge=0, lt=1)
    """Dropout."""
    max_seq_len: int = Field(1536, ge=2)
    """Genes per step; of more, a random subset is drawn."""
    keep_targets: bool = True
    """Whether the perturbed genes are always in that subset; false reproduces the published recipe, which mostly drops
    them."""
    select: Literal["pearson_delta", "pearson"] = "pearson_delta"
    """Validation metric that chooses the weights; pearson reproduces the published recipe."""
    pair_within: Unique[Literal["batch", "cell_type"]] = ["batch", "cell_type"]
    """What the control cell of a pair shares with the perturbed one. Where no control cell does, it is one of the same
    cell type, if that is asked for, or else any; the model's report.json counts these pairs (`paired_within`). []
    reproduces the published recipe."""
    redraw_controls: bool = True
    """Whether the control cell of a pair is drawn anew in every epoch; false reproduces the published recipe."""
    control_pairs: bool = False
    """Whether every control cell is a training pair too, with itself and without a flag; true reproduces the published
    recipe."""
    flag_direction: bool = True
    """Whether activated genes have a flag of their own, so that a model of activation and interference is told which is
    which; false reproduces the published recipe, which has one flag."""
    validation_cells: Count = 64
    """Control cells per validation perturbation behind the validation metrics."""


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
    """Share of the genes, beside the target, that the prompt gives."""
    draws: Count = 4
    """Draws of the given genes, over which the effect is averaged."""
    silenced_targets: Literal["zero", "left_out"] = "zero"
    """What a silenced target is in the prompt: a known gene of value 0, or left out. A checkpoint that was pretrained
    on expressed genes alone, as the published ones, has never seen a 0."""
    target_quantile: Number = Field(0.95, ge=0, le=1)
    """Where the data set's `perturbation_kind` is `activation`, a target is set to this quantile of its values in the
    control cells that express it; one that none of them expresses to the same quantile of all their genes, and is
    listed. Elsewhere a target is set to 0, and this has no meaning; one that no control cell expresses is listed
    too, since nothing is asked then."""
    batch_size: Count = 64
    """Cells per pass; fewer where so many genes are known that their memory would grow beyond 3 GB."""

    @model_validator(mode="after")
    def _every_gene_is_unknown_in_some_draw(self) -> Self:
        most = 1 - 1 / self.draws
        if self.known_share > most:
            expected = f"0 to {most} with {self.draws} draws, so that every gene is unknown in one of them"
            raise _fault(str(self.known_share), expected, "known_share")
        return self


class Rounds(Options):
    """Iterative generation."""

    rounds: int = Field(4, ge=2)
    """Rounds of generation."""
    confidence: Literal["agreement", "value", "random"] = "agreement"
    """What makes a prediction confident. agreement: of the gene's own token with the cell embedding; value: a high
    predicted bin; random: the ablation."""


class Graph(Options):
    """A graph of genes."""

    graph: Name
    """A key of `vectors` whose file is a graph: the columns source, target and importance."""


class GearsTraining(Options):
    """How GEARS is trained, by its published defaults; it has no uncertainty."""

    hidden_size: Count = 64
    """Width of the network."""
    similar_genes: Count = 20
    """Edges from the most similar genes of the graph that each perturbed gene has."""
    epochs: Count = 20
    """Passes over the training cells; the weights that are best on the validation perturbations are kept."""
    batch_size: int = Field(32, ge=2)
    """Cells per step."""
    learning_rate: Positive = 1e-3
    """Learning rate of Adam in the first epoch; it halves from epoch to epoch."""


class Foreign(Options):
    """How predictions of another program name things."""

    perturbation_column: str = "perturbation"
    """Column of obs that names the perturbation."""
    control_label: str = "control"
    """Label of control cells; several are joined by a vertical bar."""
    combination_separator: str = "+"
    """What joins the genes of a combination."""
    gene_symbol_column: str | None = None
    """Column of var with gene symbols; null takes the index."""
    missing_perturbations: Literal["refuse", "control-mean"] = "refuse"
    """What happens to a test perturbation that the file lacks: the file is refused, or the perturbation counts as
    unchanged and is listed."""
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
    """Python that runs it; null takes that of the workflow's own environment."""
    options: dict[str, JsonValue] = {}
    """Handed to the script as JSON."""


# The rest, and the study as a whole


class Hardware(Options):
    """What a job that runs or trains scGPT asks for."""

    gpu: Natural = 1
    """GPUs per job, of which a prediction of scGPT takes one; 0 runs on the CPU. A change from 0 or to 0 trains and
    predicts again."""
    threads: Count = 4
    """CPU threads per job."""
    save_minutes: Positive = 10
    """A training job saves its state this often, to go on after a kill. A damaged state is left, with a warning."""


class Inference(Options):
    """How scGPT is run."""

    batch_size: Count | None = None
    """Cells per batch; null chooses it from the free memory. In fp32 (on a CPU) another one moves a prediction by less
    than 1e-5, in bf16 (on a GPU) by more."""
    shards: Count = 1
    """Jobs that one prediction is dealt out to, each with whole perturbations. Another number predicts again."""
    keep_cells: bool = True
    """Whether every predicted cell is kept; false keeps the mean cell of each perturbation, in memory and on disk. What
    compares cells (energy distance, official scorers, submissions) then cannot judge scGPT."""


class Scores(Options):
    """From metrics per perturbation to scores with intervals and verdicts."""

    margin: Share = 0.05
    """Difference in skill that counts as none. A method is `equivalent` where its whole interval is within it; a
    `better` one may lose no more than this in what is specific and in size."""
    family: Unique[str] | None = Field(None, min_length=1)
    """Methods whose p-values are corrected together, for their number, when the question is about these alone; null for
    every judged method but untrained twins. Choose before you see scores."""


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
    """Year of the challenge. 2025 makes a `.vcc` file of log1p values, control cells included; 2026 an h5ad of counts
    without control cells, for `vcc prep`."""
    prediction: Name
    """An entry of `predict`, whose list is the challenge's."""
    contexts: dict[Text, Text] = {}
    """2026: for each context of the challenge (`A`), what it is called in the data set; none where both are the
    same."""
    genes: Text
    """The challenge's list of genes, one per line, no header."""
    methods: Unique[Name] = Field(min_length=1)
    """Methods whose predictions are submitted, one file of each."""
    missing_genes: Literal["refuse", "control-cell"] = "refuse"
    """2026: what becomes of a gene that a joined data set lacks, since not every part measured it. The submission is
    refused, or every cell has the counts of its control cell, as if nothing changed; the job's log says how many genes
    these are."""
    limits: dict[Literal["genes", "cells", "cells_per_perturbation", "counts_per_cell", "stored_entries"], Count] = {}
    """Limits of the challenge that differ from the published ones: the number of `genes`, the most `cells`; in 2026
    also `cells_per_perturbation`, exactly as many in every context, the most `counts_per_cell` and the most
    `stored_entries`."""

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
    """An entry of `datasets`: predictions start from its control cells, and methods learn from all its conditions."""
    perturbations: Text | None = None
    """A list of perturbations: one per line, or a TSV or CSV with the column `perturbation` (or `target_gene`, as the
    Virtual Cell Challenge calls it; other columns are not used) and, where a data set has both, `direction`. Symbols,
    in any case, or Ensembl identifiers; genes of a combination are joined by `+`."""
    targets_of: Name | None = None
    """In place of a list: the perturbations of another entry of `datasets`."""
    contexts: Unique[Text] = []
    """The contexts to predict; none for all that have control cells."""
    methods: Unique[Name] = []
    """The methods that predict; none for all that can: benchmark controls and imported predictions cannot."""
    cells_per_perturbation: Count = 100
    """Control cells that each prediction starts from, and so its predicted cells."""
    signature: Text | None = None
    """A TSV or CSV with the columns `gene` and `direction` (`up`, `down`): perturbations are also ranked by how closely
    their predicted changes follow it."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if (self.perturbations is None) == (self.targets_of is None):
            found = "neither or both"
            raise _fault(found, "a list, or targets_of a data set", "perturbations")
        return self


class Figures(Options):
    """What the figures show."""

    perturbations: int = Field(6, ge=1, le=24)
    """How many perturbations the predicted-against-true figure shows, those with the largest true effect first."""


class Study(Options):
    """Every key of a run's configuration, with its default. config/README.md explains them in prose."""

    study: str = Field(pattern=r"^(?![\s\S]*\n)[a-z0-9_-]+$")
    """What the study is called. All that it computes is below `results/<study>/`, so that studies do not overwrite each
    other; downloads are shared."""
    dataset_table: Text = "config/datasets.tsv"
    """Table of data drops, one row each. Where the folder of the run has no such file, that of the workflow is read."""
    checkpoint_table: Text = "config/checkpoints.tsv"
    """Table of published scGPT checkpoints, one row per file; the workflow's, as above."""
    published_results_table: Text = "config/published_results.tsv"
    """Table of published figures that the scores are set beside; the workflow's, as above."""
    vector_table: Text = "config/vectors.tsv"
    """Table of public gene vectors, one file per row; the workflow's, as above."""
    mirrors: Unique[Text] = []
    """Folders that are searched, by checksum, before anything is downloaded."""
    datasets: Unique[Name] = Field(min_length=1)
    """Which data sets to run, by their name in the data-set table."""
    generated: dict[Name, Generated] = {}
    """Options of the generated data sets (rows whose address is `generated`), by name."""
    harmonize: Harmonize = Harmonize()
    card: Card = Card()
    splits: Splits = Splits()
    controls: Controls = Controls()
    checkpoints: dict[Name, dict[str, Any]] = {}
    """The scGPT checkpoints that methods refer to, by name."""
    vectors: dict[Name, dict[str, Any]] = {}
    """The gene vectors that methods refer to, by name."""
    hardware: Hardware = Hardware()
    inference: Inference = Inference()
    methods: dict[Name, dict[str, Any]] = Field(min_length=1)
    """The methods that are compared, by name; the name is the folder of its results."""
    scores: Scores = Scores()
    official_scorers: Unique[Literal["cell_eval", "cell_eval2"]] = []
    """Scorers of the Virtual Cell Challenge that judge every prediction, as they are. They judge data sets of one cell
    type, `cell_eval2` only those with raw counts."""
    submissions: dict[Name, Submission] = {}
    """Files for the Virtual Cell Challenge, by name."""
    predict: dict[Name, Prediction] = {}
    """Perturbations that nobody measured, to be predicted, by a name for each list."""
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
