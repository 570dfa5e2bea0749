"""Arithmetic on tensors that knows no model, no batch and no tokenizer; and values against type annotations."""
