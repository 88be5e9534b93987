"""Untrusted recipes: what in them would run code or is out of range."""
