"""Built-in datasets and how they are loaded; importing this package registers them, without importing torch.

Owns: names, Config classes, splits, loaders. Must not: know of models, tasks or precision.
"""

from mptrain.data import entries
from mptrain.data.detection import entries as detection_entries
from mptrain.data.language import entries as language_entries
from mptrain.data.segmentation import entries as segmentation_entries
from mptrain.data.speech import entries as speech_entries
from mptrain.data.text import entries as text_entries

ENTRIES = (entries, detection_entries, language_entries, segmentation_entries, speech_entries, text_entries)
"""The modules whose import registers the built-in names."""
