"""Datasets for object detection."""
