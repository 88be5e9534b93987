"""Hooks, the built-in plugins, and the manager that asks all of them."""
