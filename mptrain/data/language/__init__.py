"""Datasets for language modelling."""
