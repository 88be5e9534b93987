"""The level database: every prunable linear pruned once at a ladder of sparsities, so that any plan can be stitched."""
