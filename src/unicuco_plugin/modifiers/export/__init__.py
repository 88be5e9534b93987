"""From a model and a recipe to a checkpoint that is whole, judged and described."""
