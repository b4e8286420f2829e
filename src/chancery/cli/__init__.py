"""The command line and the one place where ports meet adapters."""
