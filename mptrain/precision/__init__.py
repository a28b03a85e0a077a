"""Number formats and loss scaling: the only package that touches autocast, torch.amp or dtype policy.

It knows neither trainer nor telemetry: it returns tensors, others count them.
"""
