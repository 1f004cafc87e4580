"""Benchmark scGPT's perturbation predictions against baselines, floors and ceilings.

Every module answers one question and imports only what it needs: a workflow job pays for its imports.
Nothing here knows Snakemake; ``workflow/scripts`` connects the two.
"""

__version__ = "1.0.0.dev0"
