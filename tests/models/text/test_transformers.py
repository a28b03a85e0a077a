"""The transformers on text: torch's own layers with the same weights, padding that changes nothing, causality."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mptrain.errors import ConfigError
from mptrain.interfaces import DataSpec, EncoderDecoder, InputSpec
from mptrain.models.text.configs import Seq2SeqConfig, TextEncoderConfig
from mptrain.models.text.encoder import text_encoder
from mptrain.models.text.layers import Attention, DecoderLayer, EncoderLayer, padding_mask
from mptrain.models.text.seq2seq import seq2seq

TEXT = DataSpec((12,), 3, vocab_size=20)
PAIR = DataSpec((7,), 11, kind="translation", vocab_size=9, more_inputs=(InputSpec((8,), 11),))
SMALL = {"width": 16, "heads": 2, "hidden": 24, "depth": 2}


def encoder(spec=TEXT, **options):
    torch.manual_seed(0)
    return text_encoder(TextEncoderConfig(name="text_encoder", **{**SMALL, **options}), spec)


def translator(spec=PAIR, **options):
    torch.manual_seed(0)
    return seq2seq(Seq2SeqConfig(name="seq2seq", **{**SMALL, **options}), spec)


def copy(attention: Attention, torchs: nn.MultiheadAttention) -> None:
    torchs.in_proj_weight.data = torch.cat([attention.query.weight, attention.key_value.weight])
    torchs.in_proj_bias.data = torch.cat([attention.query.bias, attention.key_value.bias])
    torchs.out_proj.load_state_dict(attention.proj.state_dict())


def copy_layer(ours, torchs) -> None:
    copy(ours.attn, torchs.self_attn)
    if isinstance(ours, DecoderLayer):
        copy(ours.cross, torchs.multihead_attn)
    for name in ("norm1", "norm2", "norm3"):
        if hasattr(ours, name):
            getattr(torchs, name).load_state_dict(getattr(ours, name).state_dict())
    torchs.linear1.load_state_dict(ours.mlp.fc1.state_dict())
    torchs.linear2.load_state_dict(ours.mlp.fc2.state_dict())


def torchs_options():
    return {"nhead": 2, "dim_feedforward": 24, "dropout": 0.0, "activation": "gelu", "batch_first": True}


def test_an_encoder_layer_is_torchs():
    config = TextEncoderConfig(name="text_encoder", **SMALL, dropout=0.0)
    ours, torchs = EncoderLayer(config), nn.TransformerEncoderLayer(16, **torchs_options(), norm_first=True)
    copy_layer(ours, torchs)
    hidden, tokens = torch.randn(3, 5, 16), torch.tensor([[4, 5, 6, 0, 0], [4, 5, 6, 7, 8], [4, 0, 0, 0, 0]])
    expected = torchs(hidden, src_key_padding_mask=tokens == 0)
    torch.testing.assert_close(ours(hidden, padding_mask(tokens)), expected)


def test_a_decoder_layer_is_torchs():
    config = Seq2SeqConfig(name="seq2seq", **SMALL, dropout=0.0)
    ours, torchs = DecoderLayer(config), nn.TransformerDecoderLayer(16, **torchs_options(), norm_first=True)
    copy_layer(ours, torchs)
    hidden, memory, tokens = torch.randn(2, 4, 16), torch.randn(2, 3, 16), torch.tensor([[4, 5, 0], [4, 5, 6]])
    causal = torch.ones(4, 4, dtype=torch.bool).triu(1)
    expected = torchs(hidden, memory, tgt_mask=causal, memory_key_padding_mask=tokens == 0)
    torch.testing.assert_close(ours(hidden, memory, padding_mask(tokens)), expected)


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_padding_does_not_change_a_texts_outputs(pooling):
    model = encoder(pooling=pooling).eval()
    text = torch.tensor([[1, 5, 6, 7]])
    padded = nn.functional.pad(text, (0, 8))
    torch.testing.assert_close(model(padded), model(text))
    assert model(text).shape == (1, 3)
    assert not torch.equal(model(torch.tensor([[1, 5, 6, 8]])), model(text))


def test_padding_does_not_change_a_translation():
    model = translator().eval()
    source, target = torch.tensor([[4, 5, 2]]), torch.tensor([[1, 6, 7]])
    padded = model(nn.functional.pad(source, (0, 4)), nn.functional.pad(target, (0, 5)))
    torch.testing.assert_close(padded[:, :3], model(source, target))


def test_a_target_token_sees_only_those_before_it():
    model = translator().eval()
    source, first, second = torch.tensor([[4, 5, 2]]), torch.tensor([[1, 6, 7, 8]]), torch.tensor([[1, 6, 9, 8]])
    assert torch.equal(model(source, first)[:, :2], model(source, second)[:, :2])
    assert not torch.equal(model(source, first)[:, 2], model(source, second)[:, 2])


def test_decoding_step_by_step_gives_the_scores_of_the_whole():
    model = translator().eval()
    assert isinstance(model, EncoderDecoder)
    source, target = torch.tensor([[4, 5, 2, 0], [4, 4, 4, 2]]), torch.tensor([[1, 6, 7], [1, 3, 3]])
    whole, encoded = model(source, target), model.encode(source)
    for length in range(1, 4):
        torch.testing.assert_close(model.next_scores(target[:, :length], encoded), whole[:, length - 1])


def test_the_output_layer_is_the_targets_embedding_and_may_be_the_sources_too():
    model = translator()
    assert model.head.weight is model.target.tokens.weight
    assert model.source.tokens.weight is not model.target.tokens.weight
    same = DataSpec((7,), 11, kind="translation", vocab_size=11, more_inputs=(InputSpec((8,), 11),))
    shared = translator(same, share_embeddings=True)
    assert shared.source.tokens.weight is shared.target.tokens.weight
    # Scores of a fresh model are of the order of 1: embeddings are small, and scaled up where they are looked up.
    assert 0.3 < translator()(torch.full((4, 7), 8), torch.full((4, 8), 10)).std() < 3


@pytest.mark.parametrize("size", [(512, 8, 2048, 65_000_000), (1024, 16, 4096, 213_000_000)])
def test_the_papers_sizes(size):
    width, heads, hidden, published = size  # Vaswani et al. 2017, table 3: 65 and 213 million, 37,000 shared tokens
    spec = DataSpec((64,), 37000, kind="translation", vocab_size=37000, more_inputs=(InputSpec((64,), 37000),))
    with torch.device("meta"):
        model = translator(spec, width=width, heads=heads, hidden=hidden, depth=6, share_embeddings=True)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(published, rel=0.03)


@pytest.mark.parametrize("build", [encoder, translator])
def test_training_needs_no_values(build):
    with FakeTensorMode():
        model = build()
        inputs = [torch.full((2, *each.shape), 3) for each in (TEXT if build is encoder else PAIR).inputs]
        model(*inputs).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: encoder(DataSpec((12,), 3)), "takes rows of token ids"),
        (lambda: encoder(DataSpec((1, 28), 3, vocab_size=5)), "takes rows of token ids"),
        (lambda: translator(TEXT), "takes a source and a target, and this data has 1 input"),
        (lambda: translator(share_embeddings=True), "the vocabularies differ, 9 and 11 tokens"),
        (
            lambda: translator(DataSpec((7,), 12, vocab_size=9, more_inputs=PAIR.more_inputs)),
            "model.num_classes: 12, but 'seq2seq' shares its output layer",
        ),
    ],
)
def test_data_that_do_not_suit(build, reason):
    with pytest.raises(ConfigError, match=reason):
        build()


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match=r"heads \(3\) must divide width \(16\)"):
        encoder(heads=3)
