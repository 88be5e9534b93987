"""What llm-compressor does around a modifier, and what has to be mended of it."""
