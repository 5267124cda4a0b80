"""Data of your own: csv tables and NumPy arrays, as sequences or as a series, with their splits and scaling."""
