"""How much a part of a model matters, by statistics of one pass."""
