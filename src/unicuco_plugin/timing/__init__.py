"""Models timed where they will run."""
