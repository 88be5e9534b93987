"""The methods we compare with, as their authors describe them, each behind the same hook."""
