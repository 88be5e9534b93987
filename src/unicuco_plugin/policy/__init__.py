"""What answers: a posterior, a network, descents, the contest at each budget; no BoTorch, no Transformers."""
