"""Words, tables and pictures of what a profile knows; they return text or write one file, and print nothing."""
