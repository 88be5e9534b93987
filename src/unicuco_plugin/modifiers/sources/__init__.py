"""Where a strategy comes from: a profile, a file, a peer."""
