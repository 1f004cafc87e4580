"""How many are enough to say something."""

FEWEST = 3  # of anything: one or two cells, perturbations or genes have no spread that says anything
