"""A compressed model trained a little towards the dense one: low-rank adapters, merged at the end."""
