"""Networks of transformers, from a local folder: what they take and give, and what is refused. No network access."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from mptrain.errors import CapabilityError, ConfigError, DataError
from mptrain.interfaces import PAD, DataSpec, InputSpec, forward
from mptrain.models.configs import HfConfig
from mptrain.registry import MODELS

CONFIGS = {
    "gpt2": {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32, "vocab_size": 100},
    "llama": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32,
    },
    "bert": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    },
    "bart": {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_position_embeddings": 32,
    },
}
LANGUAGE = DataSpec((8,), 50, kind="language_modelling", vocab_size=50)
TEXTS = DataSpec((8,), 3, kind="classification", vocab_size=50)
PAIRS = DataSpec((8,), 50, kind="translation", vocab_size=50, more_inputs=(InputSpec((6,), 50),))


@pytest.fixture
def built(tmp_path):
    """Build the network of a folder that holds nothing but a configuration."""

    def build(model_type, spec, **options):
        folder = tmp_path / model_type
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"model_type": model_type, **CONFIGS[model_type]}))
        torch.manual_seed(0)
        return MODELS.build(HfConfig(name=f"hf/{folder}", **options), spec).eval()

    return build


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_language_models_predict_every_token_from_those_before(built, model_type):
    model = built(model_type, LANGUAGE)
    ids = torch.randint(50, (2, 8))
    logits = model(ids)
    assert logits.shape == (2, 8, 50)
    assert logits.dtype == torch.float32
    changed = ids.clone()
    changed[:, 5] = (ids[:, 5] + 1) % 50
    difference = (model(changed) - logits).abs().amax((0, 2))
    assert difference[:5].max() == 0
    assert difference[5] > 0


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
@pytest.mark.parametrize("pad_id", [PAD, 3])
def test_padding_does_not_change_what_a_text_is_taken_for(built, model_type, pad_id):
    model = built(model_type, replace(TEXTS, pad_id=pad_id))
    short = torch.randint(4, 50, (2, 5))
    padded = torch.nn.functional.pad(short, (0, 3), value=pad_id)
    assert model(padded).shape == (2, 3)
    torch.testing.assert_close(model(padded), model(short))


def test_translation_takes_a_source_and_a_shifted_target(built):
    model = built("bart", PAIRS)
    inputs = torch.randint(4, 50, (2, 8)), torch.randint(4, 50, (2, 6))
    assert forward(model, inputs).shape == (2, 6, 50)
    other = torch.randint(4, 50, (2, 8))
    assert not torch.equal(forward(model, (other, inputs[1])), forward(model, inputs))


def test_its_own_weights_and_padded_vocabulary(built, tmp_path):
    model = built("gpt2", LANGUAGE, num_classes=64)
    assert model(torch.zeros(1, 8, dtype=torch.int64)).shape == (1, 8, 64)
    model.network.save_pretrained(tmp_path / "saved")
    again = MODELS.build(HfConfig(name=f"hf/{tmp_path / 'saved'}", pretrained=True), LANGUAGE).eval()
    ids = torch.randint(50, (2, 8))
    assert torch.equal(again(ids), model(ids))


def test_a_plan_has_the_shapes_of_pretrained_weights_without_reading_them(built, tmp_path):
    built("gpt2", LANGUAGE)  # its folder holds no weights
    with torch.device("meta"):
        model = MODELS.build(HfConfig(name=f"hf/{tmp_path / 'gpt2'}", pretrained=True), LANGUAGE)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_weights_that_do_not_fit_the_options_are_refused_but_for_a_new_head(built, tmp_path, caplog):
    built("gpt2", replace(TEXTS, num_outputs=7)).network.save_pretrained(tmp_path / "saved")
    name = f"hf/{tmp_path / 'saved'}"
    assert MODELS.build(HfConfig(name=name, pretrained=True), TEXTS)(torch.ones(1, 8, dtype=torch.int64)).shape == (
        1,
        3,
    )
    assert f"{name} starts without score.weight" in caplog.text
    for options in ({"n_embd": 32}, {"n_positions": 64}):
        with pytest.raises(
            ConfigError, match=r"model.options: .* in the weights of hf/.*, or set model.pretrained=false"
        ):
            MODELS.build(HfConfig(name=name, pretrained=True, options=options), TEXTS)


def test_options_change_the_configuration(built):
    assert len(built("gpt2", LANGUAGE, options={"n_layer": 3}).network.transformer.h) == 3
    with pytest.raises(ConfigError, match=r"model.options: .* \(gpt2\) has no 'n_layers'"):
        built("gpt2", LANGUAGE, options={"n_layers": 3})


@pytest.mark.parametrize("options", [{"n_layer": "two"}, {"n_head": 0}, {"n_head": 5}, {"activation_function": "no"}])
def test_options_of_no_use_are_one_line(built, options):
    with pytest.raises(ConfigError, match=r"model\.(options|name): ") as caught:
        built("gpt2", LANGUAGE, options=options)
    assert "\n" not in str(caught.value)


def test_data_that_do_not_suit_are_refused(built):
    with pytest.raises(ConfigError, match="takes tokens"):
        built("gpt2", DataSpec((3, 8, 8), 10))
    with pytest.raises(ConfigError, match="has 32 positions, the data's samples have 40"):
        built("gpt2", DataSpec((40,), 50, kind="language_modelling", vocab_size=50))
    with pytest.raises(ConfigError, match="one vocabulary, the data have 40 and 50"):
        built("bart", DataSpec((8,), 40, "translation", vocab_size=50, more_inputs=(InputSpec((6,), 40),)))
    with pytest.raises(ConfigError, match=r"transformers cannot build .* for translation"):
        built("gpt2", PAIRS)


def test_a_folder_without_a_configuration_is_named(tmp_path):
    with pytest.raises(DataError, match=r"the configuration of hf/.*nothing cannot be read"):
        MODELS.build(HfConfig(name=f"hf/{tmp_path / 'nothing'}"), LANGUAGE)


def test_the_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CapabilityError, match=r"pip install 'mptrain\[hf\]'"):
        MODELS.build(HfConfig(name="hf/gpt2"), LANGUAGE)
