# Set by the harness.
data_path = ""
