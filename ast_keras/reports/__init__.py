"""What a run shows: tables, pictures, and one page that holds all of it."""
