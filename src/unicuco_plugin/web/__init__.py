"""Answers for many: a service over HTTP, and the page that shows a profile in a browser."""
