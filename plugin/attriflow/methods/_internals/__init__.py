"""What the internals methods share: recorded layers, how attention mixes tokens, the residual stream."""
