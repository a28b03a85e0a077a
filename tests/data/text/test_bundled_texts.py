"""The bundled texts: what a passage holds, who is tested on what, where special tokens stand."""

import pytest

from mptrain.data.bundled_files import read_bundled
from mptrain.data.text.configs import BibleConfig, CmudictConfig, ShakespeareGenreConfig
from mptrain.data.text.pairs import TEST_BOOKS, bible_en_es, cmudict
from mptrain.data.text.shakespeare import FILE, GENRES, PLAYS, TEST_PLAYS, shakespeare_genre, spoken
from mptrain.errors import ConfigError
from mptrain.interfaces import BOS, EOS, PAD


@pytest.fixture(scope="module")
def genres():
    return shakespeare_genre(ShakespeareGenreConfig(name="shakespeare_genre", vocab_size=1024))


@pytest.fixture(scope="module")
def words():
    return cmudict(CmudictConfig(name="cmudict", num_train=3000, num_test=500))


@pytest.fixture(scope="module")
def verses():
    return bible_en_es(BibleConfig(name="bible_en_es", vocab_size=1024))


def test_a_text_needs_a_token_beside_the_special_one():
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        ShakespeareGenreConfig(name="shakespeare_genre", max_tokens=1)


def texts(codec, rows):
    return [codec.decode(row.tolist()) for row in rows]


def test_the_plays_are_in_the_files_order():
    found = [play.strip().split("\n")[0] for play in read_bundled(FILE).decode().split("\n\n\n")]
    assert len(found) == len(PLAYS) == 38
    spelled = {  # as the file has it
        "Love's Labour's Lost": "Love's Labours Lost",
        "The Two Gentlemen of Verona": "Two Gentlemen of Verona",
        "Henry IV, Part 1": "Henry IV, Part I",
        "Measure for Measure": "ACT I",
        "The Winter's Tale": "A Winter's Tale",
    }
    assert found == [spelled.get(play, play) for play in PLAYS]


def test_every_genre_is_tested_on_two_plays_and_the_majority_class_is_a_third(genres):
    assert sorted(PLAYS[play] for play in TEST_PLAYS) == [genre for genre in GENRES for _ in range(2)]
    shares = genres.test.targets.bincount() / len(genres.test)
    assert len(shares) == 3
    assert shares.max() < 0.34


def test_a_passage_is_what_is_spoken():
    play = (
        "Title\n\nACT I\n\nSCENE I. Rome.\n\n[Enter CAESAR]\n\nCAESAR:\nI came, [Aside] I saw,\nI won.\n\n[Exit]\n\n"
        "First Lord:\nHe says: so."
    )
    assert spoken(play) == "I came,  I saw,\nI won.\nHe says: so."


def test_passages_are_of_one_length_and_of_plays_apart(genres):
    for split in (genres.train, genres.test):
        assert tuple(split.inputs.shape) == (len(split.targets), 128)
        assert (split.inputs[:, 0] == BOS).all()
        assert (split.inputs != PAD).all()
    train = "".join(texts(genres.spec.input_text, genres.train.inputs))
    assert "Benedick" not in train  # a name of a test play
    assert "Benedick" in "".join(texts(genres.spec.input_text, genres.test.inputs))


def test_words_are_spelled_and_ended(words):
    letters, phones = words.spec.input_text, words.spec.output_text
    source, shifted, target = words.test.inputs[0][0], words.test.inputs[1][0], words.test.targets[0]
    length = int((target >= 0).sum())
    assert shifted[0] == BOS
    assert target[length - 1] == EOS
    assert shifted[1:length].tolist() == target[: length - 1].tolist()
    assert set(target[length:].tolist()) <= {-100}
    assert set(shifted[length:].tolist()) <= {PAD}
    known = dict(line.split("\t") for line in read_bundled("cmudict_g2p.tsv.xz").decode().splitlines())
    assert known[letters.decode(source.tolist())] == phones.decode(shifted.tolist())
    assert (words.spec.vocab_size, words.spec.num_outputs) == (4 + 27, 4 + 39)


def test_no_test_word_is_learned_and_the_test_does_not_depend_on_how_many_are(words):
    letters = words.spec.input_text
    train, test = (texts(letters, split.inputs[0]) for split in (words.train, words.test))
    assert (len(set(train)), len(set(test))) == (3000, 500)
    assert not set(train) & set(test)
    fewer = cmudict(CmudictConfig(name="cmudict", num_train=10, num_test=500))
    assert texts(letters, fewer.test.inputs[0]) == test


def test_more_words_than_there_are():
    with pytest.raises(ConfigError, match=r"ask for 124793 words, CMUdict has 124792"):
        cmudict(CmudictConfig(name="cmudict", num_train=124_000, num_test=793))


def test_verses_are_split_by_book(verses):
    rows = [line.split("\t") for line in read_bundled("bible_en_es.tsv.xz").decode().splitlines()]
    held = [row for row in rows if row[0].rsplit(" ", 1)[0] in TEST_BOOKS]
    assert {row[0].rsplit(" ", 1)[0] for row in held} == set(TEST_BOOKS)
    assert (len(verses.train), len(verses.test)) == (len(rows) - len(held), len(held))
    codec = verses.spec.input_text
    assert codec is verses.spec.output_text
    short = next(i for i, row in enumerate(held) if len(row[1]) < 40 and len(row[2]) < 40)
    assert codec.decode(verses.test.inputs[0][short].tolist()) == held[short][1]
    assert codec.decode(verses.test.inputs[1][short].tolist()) == held[short][2]


def test_what_is_cut_still_ends_in_the_source_but_not_in_the_target():
    splits = bible_en_es(BibleConfig(name="bible_en_es", vocab_size=300, max_tokens=8))
    assert (splits.train.inputs[0][0, -1], splits.train.targets[0, -1] == EOS) == (EOS, False)
    assert tuple(splits.train.inputs[1].shape[1:]) == splits.spec.more_inputs[0].shape == (8,)
