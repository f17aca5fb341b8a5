"""Products, categories and stock."""
