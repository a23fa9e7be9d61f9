"""The error of everything that reads, translates or writes weights."""


class WeightsError(ValueError):
    """Raised when a weights file cannot be read, or when its tensors are not the model's."""
