"""modifiers."""
