"""What llm-compressor does around a modifier, and fixes to that."""
