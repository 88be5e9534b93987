"""What strategies cost, each cost by its name."""
