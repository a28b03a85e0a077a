"""Datasets for semantic segmentation."""
