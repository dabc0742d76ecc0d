"""Lists of labelled images in files, such as CSV files."""
