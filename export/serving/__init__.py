"""TensorFlow Serving: a client, and configuration files for the server."""
