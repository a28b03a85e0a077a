"""The training loop and the step. Start reading at `step.py` (what one step does), then `trainer.py` (the loop)."""
