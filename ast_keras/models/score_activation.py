"""How logits become scores: the activation that belongs to a loss."""

import functools

import keras
from keras import ops

from ast_keras.errors import ArgumentError

ACTIVATIONS = {"softmax": ops.softmax, "sigmoid": ops.sigmoid}

# By the function that computes a loss, which is also the attribute `fn` of Keras's loss objects.
_BY_LOSS = {
    keras.losses.binary_crossentropy: "sigmoid",
    keras.losses.binary_focal_crossentropy: "sigmoid",
    keras.losses.categorical_crossentropy: "softmax",
    keras.losses.categorical_focal_crossentropy: "softmax",
    keras.losses.sparse_categorical_crossentropy: "softmax",
}


def require_activation(name):
    """Refuses a name that is not in `ACTIVATIONS`.

    Args:
        name: The name of an activation.

    Returns:
        The name.

    Raises:
        ArgumentError: If there is no such activation.

    Example:

    >>> require_activation("sigmoid")
    'sigmoid'
    """
    if name not in ACTIVATIONS:
        raise ArgumentError(
            f"score_activation must be one of {', '.join(ACTIVATIONS)}. "
            f"Received: score_activation={name!r}"
        )
    return name


def activation_of_loss(loss):
    """Returns the activation that belongs to a loss, and whether the loss takes logits.

    Args:
        loss: A loss as for `keras.Model.compile`: an object, a function, a name, a configuration,
            or a list or dictionary of one loss.

    Returns:
        "sigmoid", "softmax" or None for another loss; and whether it takes logits.

    Example:

    >>> activation_of_loss(keras.losses.BinaryCrossentropy(from_logits=True))
    ('sigmoid', True)
    >>> activation_of_loss("sparse_categorical_crossentropy")
    ('softmax', False)
    """
    if not isinstance(loss, dict) or "class_name" not in loss:
        losses = keras.tree.flatten(loss)
        loss = losses[0] if len(losses) == 1 else None
    loss = keras.losses.get(loss) if isinstance(loss, str | dict) else loss
    if isinstance(loss, functools.partial):
        function, arguments = loss.func, loss.keywords
    else:
        function, arguments = getattr(loss, "fn", loss), getattr(loss, "_fn_kwargs", {})
    activation = _BY_LOSS.get(function) if callable(function) else None
    return activation, bool(arguments.get("from_logits", False))
