"""What a run shows and records: console, JSON files, throughput. Never touches the model or the step."""
