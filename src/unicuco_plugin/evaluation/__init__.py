"""Two checkpoints beside each other, on text and on tasks."""
