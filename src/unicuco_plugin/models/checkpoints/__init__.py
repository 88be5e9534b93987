"""A checkpoint as files: its folder, its archive, and whether Transformers loads it as what is in memory."""
