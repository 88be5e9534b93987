"""Two checkpoints compared, on text and on tasks."""
