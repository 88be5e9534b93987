"""Quality of strategies: how far candidates are from the dense model."""
