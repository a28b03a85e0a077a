"""Optimizers, learning-rate schedules and the moving average of weights. Registers its entries; imports no torch."""

from mptrain.optim import entries as entries
