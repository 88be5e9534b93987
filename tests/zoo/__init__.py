"""Every decoder-only family of the installed Transformers, in miniature, through every space; see README.md beside."""
