"""What learns: the loop that measures, fits the surrogate and trains StratNet."""
