"""Names, descriptions and Config classes of the built-in tasks.

Owns: their registration. Must not: import torch at module level; each build names its module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mptrain.config.schema import TaskConfig
from mptrain.config.section import Fraction, NonNegativeFloat, PositiveInt
from mptrain.errors import ConfigError
from mptrain.interfaces import DataSpec
from mptrain.registry import TASKS

if TYPE_CHECKING:
    from mptrain.interfaces import Task


class ClassificationConfig(TaskConfig):
    """Cross-entropy over classes."""

    label_smoothing: Fraction = 0.0
    """Share of the target spread evenly over all classes in training; the reported test loss has none."""


class RegressionConfig(TaskConfig):
    """Mean squared error."""


class SegmentationConfig(TaskConfig):
    """Cross-entropy over the classes of pixels."""

    aux_weight: NonNegativeFloat = 0.5
    """Weight of the auxiliary classifier's loss, where the network has one; 0.5 is torchvision's, 0.4 others'."""


class DetectionConfig(TaskConfig):
    """A detector's own loss."""


class LanguageModellingConfig(TaskConfig):
    """Cross-entropy over the next token."""


class TranslationConfig(TaskConfig):
    """Cross-entropy over the tokens of the target, and decoding in evaluation."""

    label_smoothing: Fraction = 0.1
    """Share of the target spread evenly over all tokens in training; the reported test loss has none."""
    beam_size: PositiveInt = 1
    """Sequences kept while decoding in evaluation; 1 is greedy."""
    length_penalty: NonNegativeFloat = 0.6
    """With more than one beam: exponent by which longer sequences are favoured (Wu et al. 2016); 0 does not."""
    metric: Literal["bleu", "chrf", "error_rate", "exact"] = "bleu"
    """Main metric; error_rate counts the edits of words (or phonemes)."""


class TranscriptionConfig(TaskConfig):
    """CTC over the tokens of the transcript."""


@TASKS.register(
    "classification", config=ClassificationConfig, description="Cross-entropy over classes; accuracy, F1, top-5"
)
def _classification(config: ClassificationConfig, spec: DataSpec) -> Task:
    from mptrain.tasks.classification import Classification

    _check_kind(config, spec)
    return Classification(spec.num_outputs, config.label_smoothing, spec.class_names)


@TASKS.register("regression", config=RegressionConfig, description="Mean squared error; MSE, R2")
def _regression(config: RegressionConfig, spec: DataSpec) -> Task:
    from mptrain.tasks.regression import Regression

    _check_kind(config, spec)
    return Regression(spec.num_outputs)


@TASKS.register(
    "segmentation", config=SegmentationConfig, description="Cross-entropy over pixels; mean IoU, pixel accuracy"
)
def _segmentation(config: SegmentationConfig, spec: DataSpec) -> Task:
    from mptrain.tasks.segmentation import Segmentation

    _check_kind(config, spec)
    _check_classes(spec, "masks")
    return Segmentation(spec.num_outputs, config.aux_weight, spec.class_names)


@TASKS.register("detection", config=DetectionConfig, description="A detector's own loss; COCO's mAP, by pycocotools")
def _detection(config: DetectionConfig, spec: DataSpec) -> Task:
    from mptrain.tasks.detection import Detection

    _check_kind(config, spec)
    _check_classes(spec, "boxes")
    return Detection(spec.class_names)


@TASKS.register(
    "language_modelling",
    config=LanguageModellingConfig,
    description="Cross-entropy over the next token; perplexity, bits per byte",
)
def _language_modelling(config: LanguageModellingConfig, spec: DataSpec) -> Task:
    from mptrain.tasks.language_modelling import LanguageModelling

    _check_kind(config, spec)
    return LanguageModelling(spec.num_outputs, spec.output_text, spec.bytes_per_token)


@TASKS.register(
    "translation", config=TranslationConfig, description="Cross-entropy over target tokens; BLEU, chrF, error rate"
)
def _translation(config: TranslationConfig, spec: DataSpec) -> Task:
    from mptrain.tasks.translation import Translation

    _check_kind(config, spec)
    return Translation(
        spec.num_outputs,
        spec.input_text,
        spec.output_text,
        label_smoothing=config.label_smoothing,
        beam_size=config.beam_size,
        length_penalty=config.length_penalty,
        metric=config.metric,
    )


@TASKS.register(
    "transcription",
    config=TranscriptionConfig,
    description="CTC over a transcript's tokens; word, character error rate",
)
def _transcription(config: TranscriptionConfig, spec: DataSpec) -> Task:
    from mptrain.tasks.transcription import Transcription

    _check_kind(config, spec)
    if spec.output_text is not None and spec.num_outputs != spec.output_text.vocab_size:
        raise ConfigError(
            f"model.num_classes: {spec.num_outputs} outputs, but the transcripts have {spec.output_text.vocab_size} "
            "tokens; set model.num_classes to null"
        )
    return Transcription(spec.num_outputs, spec.output_text)


def _check_kind(config: TaskConfig, spec: DataSpec) -> None:
    if config.name != spec.kind:
        raise ConfigError(
            f"task.name: '{config.name}', but the dataset's targets are for {spec.kind}; set task={spec.kind}"
        )


def _check_classes(spec: DataSpec, what: str) -> None:
    """Raise ConfigError where the model gives fewer outputs than `what` the data hold has classes."""
    count = len(spec.class_names)
    if spec.num_outputs < count:
        raise ConfigError(
            f"model.num_classes: {spec.num_outputs} outputs, but the {what} have {count} classes; set "
            f"model.num_classes to {count} or more, or to null"
        )
