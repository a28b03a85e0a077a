"""Models for language modelling."""
