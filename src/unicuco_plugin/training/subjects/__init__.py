"""What a run over each space is about."""
