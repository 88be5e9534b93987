"""Head groups and neurons inside attentions and MLPs, and what is left of a module without some of them."""
