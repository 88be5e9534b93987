"""Recipes of strangers: what in them would run code or be out of range."""
