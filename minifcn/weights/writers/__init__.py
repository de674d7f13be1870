"""Writers of weight files for other frameworks."""
