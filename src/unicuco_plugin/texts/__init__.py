"""Text as windows of tokens: documents read, windows cut, or written by the model itself."""
