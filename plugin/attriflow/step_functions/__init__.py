"""Step functions: the scalar scored at each generation step.

A step function takes a `Forward` and returns `[batch, step]`; keyword-only parameters are its options. Only tensor
methods are used, so listing the registry imports no torch.
"""
