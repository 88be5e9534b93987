"""Files that may come from strangers, and those that we write beside what others wrote."""
