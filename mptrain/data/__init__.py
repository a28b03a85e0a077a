"""Built-in datasets and how they are loaded; importing this package registers them, without importing torch.

Owns: names, Config classes, splits, loaders. Must not: know of models, tasks or precision.
"""

from mptrain.data.detection import entries as detection_entries
from mptrain.data.images import entries as images_entries
from mptrain.data.language import entries as language_entries
from mptrain.data.segmentation import entries as segmentation_entries
from mptrain.data.speech import entries as speech_entries
from mptrain.data.tables import entries as tables_entries
from mptrain.data.text import entries as text_entries

ENTRIES = (
    detection_entries,
    images_entries,
    language_entries,
    segmentation_entries,
    speech_entries,
    tables_entries,
    text_entries,
)
"""The modules whose import registers the built-in names."""
