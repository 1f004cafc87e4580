"""The functions that predict, by their kind in the registry of methods."""

from functools import partial

from scgpt_bench.methods import baselines, benchmark_controls, registry

SIMPLE = {name: getattr(baselines, kind.function) for name, kind in registry.KINDS.items() if kind.group.judges}
SIMPLE["forest"] = partial(baselines.forest, trees=2)  # it takes long
CONTROLS = {
    name: getattr(benchmark_controls, kind.function)
    for name, kind in registry.KINDS.items()
    if kind.group is registry.BENCHMARK_CONTROL
}
