"""Demo page: classifies recordings and the microphone in the browser, and its local server."""
