"""A checkpoint as files: what is in it, its archive, and whether Transformers loads it as what is in memory."""
