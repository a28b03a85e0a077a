"""Built-in models; importing this package registers them, without importing torch.

Owns: names, Config classes and how to build each network in FP32. Must not: know of data, tasks or precision.
"""

from mptrain.models import entries
from mptrain.models.detection import entries as detection_entries
from mptrain.models.language import entries as language_entries
from mptrain.models.segmentation import entries as segmentation_entries
from mptrain.models.speech import entries as speech_entries
from mptrain.models.text import entries as text_entries

ENTRIES = (entries, detection_entries, language_entries, segmentation_entries, speech_entries, text_entries)
"""The modules whose import registers the built-in names."""
