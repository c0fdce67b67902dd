"""`subq compare`: which model serves given data, at a given length, on this machine."""
