"""A job's settings: schema, job, presets, passes, PNG info, model families, few-step models."""
