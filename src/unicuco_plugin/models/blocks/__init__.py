"""Decoder blocks: found, counted, run one by one, switched off, dropped, halved; mixtures of experts in them."""
