"""Methods beside each other on one model: what is run, and what comes out of it."""
