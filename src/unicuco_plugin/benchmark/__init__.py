"""Methods compared on one model: what runs, and what comes out."""
