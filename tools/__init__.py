"""What people use: the command line, data preparation, checks, timing, plots."""
