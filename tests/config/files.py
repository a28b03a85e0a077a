"""Config texts that tests start from."""

from pathlib import Path

PLAIN = """\
model: {name: resnet18, stem: small}
data: fashion_mnist_12k
task: classification
optimizer:
  name: sgd
  lr: 1e-1
  momentum: 0.9
schedule: one_cycle
train:
  epochs: 4
"""


def write(folder: Path, name: str, text: str) -> Path:
    """Write one config file and return its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
