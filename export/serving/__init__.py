"""What runs beside TensorFlow Serving: its settings, and a client."""
