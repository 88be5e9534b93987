"""Tensors of any model: where they are kept, put aside for a while, and whether their numbers are finite."""
