"""Which strategies exist, and how scores become feasible ones."""
