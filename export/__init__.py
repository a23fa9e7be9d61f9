"""Thin commands over `ast_keras.export`; they run from a checkout, not from the wheel."""
