"""A page that names sounds in the browser, and the small server that shows it."""
