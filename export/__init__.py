"""Commands that export a model, a client of a model server and a demo page.

They run from a checkout and are not part of the wheel; the library is `ast_keras.export`.
"""
