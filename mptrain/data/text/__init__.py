"""Datasets for text classification and translation."""
