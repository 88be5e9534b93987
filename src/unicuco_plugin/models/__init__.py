"""The only room that knows Transformers: find blocks, measure them, drop and restore them, feed them text."""
