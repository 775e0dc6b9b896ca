"""The host's jobs: settings, passes, accounts."""
