"""Errors as text."""

from ast_keras.errors import AstKerasError


def error_of(function, *args, **kwargs):
    """Returns the message with which a call fails; fails if it does not, or not in one line."""
    try:
        function(*args, **kwargs)
    except AstKerasError as error:
        message = str(error)
        assert "\n" not in message, message
        return message
    raise AssertionError("no error was raised")
