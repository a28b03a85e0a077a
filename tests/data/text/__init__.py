"""Tests of the datasets for text classification and translation."""
