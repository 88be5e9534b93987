"""What families of models call their parts and their sizes, and where they do something of their own."""
