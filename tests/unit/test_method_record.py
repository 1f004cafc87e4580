"""``method.json``: what is written is read back; what is not known is refused."""

import json

import pytest

from scgpt_bench.data.conditions import Condition
from scgpt_bench.errors import InputError
from scgpt_bench.method_record import Embeddings, LoadReport, Scgpt, joined, read_record, record_of, write_record

KNOWN, UNKNOWN = Condition("STAT1", "K562"), Condition("FOS+JUN", "RPE1")
LOAD_REPORT = LoadReport(
    checkpoint="pretrained",
    checkpoint_pretrained=True,
    checkpoint_fine_tuned=False,
    stored_as=("float32",),
    seed=1,
    pretrained={"encoder.weight": 6},
    random={"decoder.weight": 4},
    unused={},
    n_pretrained=6,
    n_random=4,
    n_unused=0,
)


def record(conditions=(KNOWN, UNKNOWN), fallbacks=None, not_measured=(), **entries):
    scgpt = Scgpt(
        load_report=LOAD_REPORT,
        checkpoint_sha256="0" * 64,
        attention="sdpa",
        precision="fp32",
        device="cpu",
        versions={"torch": "2.13.0"},
        targets_not_measured=not_measured,
        genes_padded=1,
        genes_renamed=0,
    )
    given = {"kind": "scgpt-zero-shot", "options": {"genes_fed": "all", "batch": None}, "seed": 0, "n_genes": 5}
    return record_of(conditions, fallbacks, scgpt=scgpt, **{**given, **entries})


def test_a_record_is_read_as_it_was_written(tmp_path):
    made = record(fallbacks={UNKNOWN: ("no token", "no change")})
    write_record(made, tmp_path / "method.json")
    assert read_record(tmp_path / "method.json") == made
    assert [entry.condition for entry in made.asked] == [KNOWN]
    assert [(entry.condition, entry.reason, entry.prediction) for entry in made.fallbacks] == [
        (UNKNOWN, "no token", "no change")
    ]


def test_the_weights_of_a_record_are_those_of_the_model_or_of_the_gene_vectors():
    vectors = Embeddings(
        source="checkpoint",
        name="untrained",
        sha256="0" * 64,
        dimensions=8,
        genes_without_vector=2,
        checkpoint_pretrained=False,
    )
    assert record().weights == LOAD_REPORT
    assert record_of([KNOWN], kind="knn", options={}, seed=0, n_genes=5, embeddings=vectors).weights == vectors
    assert record_of([KNOWN], kind="knn", options={}, seed=0, n_genes=5).weights is None


def test_shards_have_the_record_of_the_whole_prediction():
    fallback = {UNKNOWN: ("no token", "no change")}
    shards = [record([UNKNOWN], fallback, ("FOS+JUN",)), record([KNOWN], None, ("STAT1",))]
    assert joined(shards) == record([KNOWN, UNKNOWN], fallback, ("FOS+JUN", "STAT1"))
    assert joined([*shards, shards[0]]) == joined(shards)  # more shards than conditions: one is predicted again


@pytest.mark.parametrize(
    ("change", "where", "found"),
    [
        (lambda document: document.pop("seed"), "seed", "no such key"),
        (lambda document: document.pop("halved"), "halved", "no such key"),
        (lambda document: document.update(told=[]), "told", "an unknown key"),
        (lambda document: document.update(seed="0"), "seed", "'0'"),
        (lambda document: document["asked"][0].pop("context"), "asked.0.context", "no such key"),
        (lambda document: document["scgpt"]["load_report"].update(n_random=0.5), "scgpt.load_report.n_random", "0.5"),
    ],
)
def test_a_record_that_is_not_as_this_version_writes_it_is_refused(tmp_path, change, where, found):
    document = json.loads(record().model_dump_json())
    change(document)
    (tmp_path / "method.json").write_text(json.dumps(document))
    with pytest.raises(InputError) as error:
        read_record(tmp_path / "method.json")
    assert (error.value.where, error.value.found) == (where, found)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"[]"])
def test_a_file_that_is_no_record_is_refused_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "method.json").write_bytes(content)
    with pytest.raises(InputError) as error:
        read_record(tmp_path / "method.json")
    assert "\n" not in str(error.value)
