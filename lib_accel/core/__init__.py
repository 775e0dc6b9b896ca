"""What every part speaks: rows, row slicing, sites, schedule, noise, errors, setting fields, the report."""
