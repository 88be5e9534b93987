"""Processes that measure the candidates of a run, on one machine or many."""
