"""Weights of other programs and other files: NumPy arrays by name, in and out."""
