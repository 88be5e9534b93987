"""Files that may be untrusted, and files that we write beside those of others."""
