"""What replaces a part of what was removed, folded into weights that stay."""
