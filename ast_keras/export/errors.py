"""What can go wrong with an export."""


class ExportError(ValueError):
    """Raised when a model cannot be exported as asked, or what came out is not good enough."""
