"""A draw depends on the seed and on names, and on nothing else."""

import numpy as np

from scgpt_bench.seeding import random_generator, stream_seed


def test_the_same_names_give_the_same_draw_on_every_machine():
    # The stream is part of the contract: another value here changes every result of every run.
    assert stream_seed(1, "planted", "STAT1") == 6186403439333547400
    assert random_generator(1, "planted", "STAT1").integers(1000) == random_generator(1, "planted", "STAT1").integers(
        1000
    )


def test_seed_names_and_their_borders_matter():
    streams = [(1, "a", "b"), (2, "a", "b"), (1, "b", "a"), (1, "ab"), (1, "a", "b", "")]
    assert len({stream_seed(*stream) for stream in streams}) == len(streams)


def test_streams_are_independent():
    draws = np.array([random_generator(1, "perturbation", name).normal(size=500) for name in range(40)])
    correlation = np.corrcoef(draws)[np.triu_indices(40, 1)]
    assert abs(correlation).max() < 0.25
    assert abs(correlation.mean()) < 0.01
