"""The run's configuration: schema and loading. Nothing here imports torch."""
