"""How a strategy of each space is carried out while the toolkit runs."""
