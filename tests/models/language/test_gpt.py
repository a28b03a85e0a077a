"""GPT-2 against transformers' on the same random weights; causality, tying, initial weights, weight files, refusals."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mptrain.errors import ConfigError, DataError
from mptrain.interfaces import DataSpec
from mptrain.models.language.configs import Gpt2Config, GptConfig
from mptrain.models.language.entries import GPT2_SIZES
from mptrain.optim.build import decay_groups
from mptrain.registry import MODELS

VOCABULARY, LENGTH = 60, 16
SPEC = DataSpec((LENGTH,), VOCABULARY, kind="language_modelling", vocab_size=VOCABULARY)
PARAMETERS = {"gpt2-124m": 124_439_808, "gpt2-350m": 354_823_168, "gpt2-774m": 774_030_080, "gpt2-1.5b": 1_557_611_200}
"""Of transformers' GPT2LMHeadModel with the published configurations (50257 tokens, 1024 positions)."""


def small(spec=SPEC, **options):
    torch.manual_seed(0)
    return MODELS.build(GptConfig(name="gpt", **{"width": 32, "depth": 3, "heads": 4, **options}), spec)


def transformers_gpt2(**options):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    settings = {"n_layer": 3, "n_head": 4, "n_embd": 32, "n_positions": LENGTH, "vocab_size": VOCABULARY, **options}
    model = GPT2LMHeadModel(GPT2Config(**settings, bos_token_id=None, eos_token_id=None)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)  # all of them: zero biases and unit norms would hide a swap
    return model


@pytest.fixture
def ids():
    return torch.randint(VOCABULARY, (3, LENGTH), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("prefix", ["", "transformer."], ids=["as published", "as saved"])
@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_same_logits_as_transformers_for_the_same_weights(tmp_path, ids, ending, prefix):
    theirs = transformers_gpt2()
    state = {name.removeprefix("transformer."): value for name, value in theirs.state_dict().items()}
    del state["lm_head.weight"]  # the published files leave the tied weight out, and have the causal mask as buffers
    state = {f"{prefix}{name}": value.contiguous() for name, value in state.items()}
    state |= {f"{prefix}h.{block}.attn.bias": torch.ones(1, 1, LENGTH, LENGTH).tril() for block in range(3)}
    path = tmp_path / f"gpt2{ending}"
    save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    ours = small(weights=str(path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-5, atol=1e-5)


def test_a_token_is_predicted_from_those_before_it_only(ids):
    model = small().eval()
    changed = ids.clone()
    changed[:, 9] = (ids[:, 9] + 1) % VOCABULARY
    difference = (model(changed) - model(ids)).abs().amax((0, 2))
    assert difference[:9].max() == 0
    assert (difference[9:] > 0).all()
    torch.testing.assert_close(model(ids[:, :5]), model(ids)[:, :5])


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_published_sizes(name, count):
    spec = DataSpec((1024,), 50257, kind="language_modelling", vocab_size=50257)
    with torch.device("meta"):
        model = MODELS.build(Gpt2Config(name=name), spec)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert len(model.blocks) == GPT2_SIZES[name][1]


def test_embedding_and_head_share_their_weight():
    model = small(num_classes=64)
    assert model.head.weight is model.tokens.weight
    assert model.head.weight.shape == (64, 32)
    model(torch.zeros(1, LENGTH, dtype=torch.int64)).sum().backward()
    assert model.tokens.weight.grad.abs().sum() > 0


def test_initial_weights_are_gpt2s():
    model = small(width=128)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            ends_branch = name.endswith(("attn.proj.weight", "mlp.fc2.weight"))
            expected = 0.02 / math.sqrt(2 * 3) if ends_branch else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
    ids = torch.arange(LENGTH + 1)
    loss = nn.functional.cross_entropy(model(ids[None, :-1])[0], ids[1:])
    assert loss.item() == pytest.approx(math.log(VOCABULARY), abs=0.3)


def test_without_biases_and_without_their_decay():
    assert not [name for name, _ in small(bias=False).named_parameters() if name.endswith("bias")]
    decayed, free = decay_groups(small(), 0.1, decay_norm_and_bias=False)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) == 2 + 3 * 4  # two embeddings (one is the head too), four products a block
    assert all(parameter.ndim == 1 for parameter in free["params"])


def test_dropout_is_for_training(ids):
    model = small(dropout=0.5)
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


def test_weights_of_fewer_tokens_and_more_positions_are_fitted(tmp_path, ids, caplog):
    theirs = transformers_gpt2(n_positions=32, vocab_size=VOCABULARY)
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    ours = small(weights=str(tmp_path / "w.pt"), num_classes=64).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(ids)[..., :VOCABULARY], theirs(ids).logits, rtol=1e-5, atol=1e-5)
    assert "has 60 tokens, the model 64" in caplog.text
    assert "has 32 positions, the model takes the first 16" in caplog.text


def test_its_own_weights(tmp_path, ids):
    model = small().eval()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    assert torch.equal(small(weights=str(tmp_path / "w.pt")).eval()(ids), model(ids))


@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        ({"fc.weight": torch.zeros(2)}, ConfigError, "of another network: it lacks .*; check model.name"),
        (transformers_gpt2(n_embd=16).state_dict(), ConfigError, r"tokens.weight is \(60, 16\) in the weights"),
        ([1, 2], DataError, "no state dict"),
    ],
    ids=["other", "narrower", "none"],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, state, error, text):
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(error, match=text):
        small(weights=str(tmp_path / "w.pt"))


def test_a_weight_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*none.pt"):
        small(weights=str(tmp_path / "none.pt"))


@pytest.mark.parametrize(
    ("spec", "options", "text"),
    [
        (DataSpec((3, 8, 8), 10), {}, "the data are for classification"),
        (SPEC, {"context": 8}, "8 positions, but the data's samples have 16 tokens"),
        (SPEC, {"num_classes": 59}, "59, but the data have 60 tokens"),
    ],
)
def test_data_that_do_not_suit_are_refused(spec, options, text):
    with pytest.raises(ConfigError, match=text):
        small(spec, **options)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"heads \(5\) must divide width \(32\)"):
        GptConfig(name="gpt", width=32, heads=5)
