"""Sentences that a run has shown to be false do not come back, in captions, figures, start page or documents."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = [
    *(ROOT / "workflow" / "report").glob("*.rst"),
    *(ROOT / "workflow" / "lib" / "scgpt_bench").glob("*/*.py"),
    *(ROOT / "workflow" / "lib" / "scgpt_bench" / "report").glob("*.html"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "config").glob("*.md"),
    ROOT / "README.md",
]
FALSE = {
    "Largest difference": "the best one was shown, and the worst was larger",
    "is close to 1 for every method": "the flagged call scores -0.84 in the Pearson correlation of the demo",
    "scores close to 1 in `pearson`": "the same",
    "could reach at most about": "the planted truth of the demo scores more",
    "reaches at most about": "the same",
    "tables) are not measured": "every rule has a benchmark file",
    "in all, {": "the costs are those of some rules",
    "an open marker shows no difference": "its own caption said otherwise",
    "are in other batches than the controls": "of papalexi_2021: the same batches, in other shares",
    "not shown to be more than noise": "the flag is no test, and STAT3 of papalexi_2021 was shown to be more",
    "no method can be expected to predict it": "the same",
    "Where a gene truly changes by 1": "the slope has no unit, and strong responses count most",
}


@pytest.mark.parametrize("sentence", FALSE)
def test_a_sentence_that_was_false_is_nowhere(sentence):
    assert len(PLACES) > 80
    assert [place for place in PLACES if sentence in " ".join(place.read_text(encoding="utf-8").split())] == []
