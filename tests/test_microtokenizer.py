"""microtokenizer against training by recounting, and encoding by applying every merge in order."""

import collections
import itertools
import random

import pytest
from support.scripts import load

AWKWARD = [
    "",
    "\0",
    "a",
    " ",
    "\r\n\t",
    "anna\nanna",
    "\uc548\ub155\ud558\uc138\uc694",  # Korean, composed
    "\u1112\u1161\u11ab",  # Korean, as separate jamo
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",  # an emoji of three people with joiners
    "e\u0301",  # a combining accent
    "\ufeff\u202e\U0010ffff",
    "aaaaaaaaa",
]


@pytest.fixture(scope="module")
def merges():
    script = load("microtokenizer")
    return script.train(script.load_names()[:1000], 100)


def test_the_encyclopedias_example(script):
    """Wikipedia, Byte-pair encoding: aaabdaaabac becomes XdXac with Z = aa, Y = ab, X = ZY."""
    merges = script.train(["aaabdaaabac"], 3)
    assert merges == {(97, 97): 256, (97, 98): 257, (256, 257): 258}
    assert script.encode("aaabdaaabac", merges) == [258, 100, 258, 97, 99]
    assert script.build_vocab(merges)[258] == b"aaab"


def replace(ids, pair, new_id):
    """Ids with the pair replaced, left to right, as str.replace does it on characters."""
    text = "".join(map(chr, ids))
    return list(map(ord, text.replace(chr(pair[0]) + chr(pair[1]), chr(new_id))))


def reference_merges(words, num_merges):
    """The merges of train(), on strings of characters, with each pair counted by Counter."""
    words = [list(word.encode()) for word in words]
    merges = {}
    for _ in range(num_merges):
        counts = collections.Counter(pair for ids in words for pair in zip(ids, ids[1:]))
        if not counts:
            break
        pair = sorted(counts, key=lambda p: (-counts[p], p))[0]
        merges[pair] = 256 + len(merges)
        words = [replace(ids, pair, merges[pair]) for ids in words]
    return merges


def test_training_equals_the_reference(script):
    words = script.load_names()[:300]
    ours, theirs = script.train(words, 60), reference_merges(words, 60)
    assert list(ours.items()) == list(theirs.items())


def test_training_equals_the_reference_where_pairs_overlap(script):
    rng = random.Random(4)
    for _ in range(60):
        words = ["".join(rng.choices("ab", k=rng.randrange(12))) for _ in range(12)]
        assert script.train(words, 12) == reference_merges(words, 12)


def test_most_frequent_pair(script):
    assert script.count_pairs([[1, 2, 1, 2], [5, 5, 5]]) == {(1, 2): 2, (2, 1): 1, (5, 5): 2}
    assert script.most_frequent_pair([[1, 2, 1, 2], [2, 3]]) == (1, 2)
    assert script.most_frequent_pair([[7], []]) is None
    assert script.most_frequent_pair([[9, 1], [2, 9], [2, 4]]) == (2, 4)  # a tie


def test_ties_go_to_the_smallest_pair(script):
    assert list(script.train(["cd", "ba", "ab"], 3)) == [(97, 98), (98, 97), (99, 100)]


def test_training_ends_when_every_word_is_one_token(script):
    assert script.train(["abc", "abc", "", "x"], 50) == {(97, 98): 256, (256, 99): 257}
    assert script.train([], 5) == {}


def test_words_that_come_twice_count_twice(script):
    assert list(script.train(["ab", "ac", "xy", "xy"], 1)) == [(120, 121)]


def test_the_docstrings_example(script):
    merges = script.train(["anna", "hanna", "annie"], 3)
    assert list(script.build_vocab(merges).values())[256:] == [b"an", b"ann", b"anna"]


def test_a_random_pair_is_drawn_by_its_frequency(script):
    random.seed(3)
    drawn = collections.Counter(script.random_pair([[1, 2, 1, 2], [2, 1]]) for _ in range(3000))
    assert set(drawn) == {(1, 2), (2, 1)}
    assert abs(drawn[1, 2] - 1500) < 140  # it stands in two of the four places
    assert script.random_pair([[1], []]) is None
    merges = script.train(["abcabc", "bca"], 4, script.random_pair)
    assert list(merges.values()) == [256, 257, 258, 259]


def test_training_words_are_encoded_as_they_were_left_by_training(script):
    words = script.load_names()[:200]
    split_words = [list(word.encode()) for word in words]
    merges = script.train(words, 60)
    for pair, token in merges.items():
        split_words = [replace(ids, pair, token) for ids in split_words]
    assert [script.encode(word, merges) for word in words] == split_words


def test_lengths_and_first_merges(script):
    merges = {(97, 98): 256, (256, 99): 257}
    assert script.first_merges(merges, 1) == {(97, 98): 256}
    assert script.first_merges(merges, 0) == {}
    assert script.mean_length(["abc", "xy", "ab"], merges) == (1 + 2 + 1) / 3
    assert script.mean_length(["abc", "xy"], {}) == 2.5


def encode_by_search(raw, merges):
    """Token ids of bytes: of the pairs that are there, the one learned first is merged, and so on.

    This is how production tokenizers do it. The script applies every merge once instead.
    """
    ids = list(raw)
    while True:
        pairs = [pair for pair in zip(ids, ids[1:]) if pair in merges]
        if not pairs:
            return ids
        pair = min(pairs, key=merges.get)
        ids = replace(ids, pair, merges[pair])


def test_encode_applies_merges_in_the_order_learned(script, merges):
    rng = random.Random(9)
    names = script.load_names()[3000:3300]
    noise = ["".join(rng.choices("aeinlr", k=rng.randrange(30))) for _ in range(100)]
    for text in names + noise + AWKWARD:
        ids = script.encode(text, merges)
        assert ids == encode_by_search(text.encode(), merges)
    # (b, c) is commoner here, but (a, b) was learned first.
    assert script.encode("abcbc", {(97, 98): 256, (98, 99): 257}) == [256, 99, 257]


@pytest.mark.parametrize("text", AWKWARD, ids=ascii)
def test_text_comes_back(script, merges, text):
    vocab = script.build_vocab(merges)
    ids = script.encode(text, merges)
    assert script.decode(ids, vocab) == text
    assert script.encode(text.encode(), merges) == ids
    assert all(0 <= i < len(vocab) for i in ids)


def test_any_bytes_come_back(script, merges):
    vocab = script.build_vocab(merges)
    rng = random.Random(11)
    raws = [bytes([i]) for i in range(256)] + [rng.randbytes(40) for _ in range(50)]
    for raw in [*raws, bytes(range(256)), b"\xff\xfe", b"\xed\xa0\x80"]:
        assert script.decode_bytes(script.encode(raw, merges), vocab) == raw


def test_half_a_character_decodes_to_the_replacement_character(script, merges):
    vocab = script.build_vocab(merges)
    assert script.decode([0xED, 0x95], vocab) == "\ufffd"
    with pytest.raises(KeyError):
        script.decode([len(vocab)], vocab)
    with pytest.raises(UnicodeEncodeError):
        script.encode("\ud800", merges)


def test_merges_never_cross_words(script, merges):
    vocab = script.build_vocab(merges)
    assert not any(b"\n" in token for i, token in vocab.items() if i >= 256)
    together = script.encode("anna\nmaria\nolivia", merges)
    apart = [script.encode(name, merges) for name in ("anna", "\n", "maria", "\n", "olivia")]
    assert together == list(itertools.chain(*apart))


def test_vocabulary_is_one_to_one(script, merges):
    vocab = script.build_vocab(merges)
    assert list(vocab) == list(range(256 + len(merges)))
    assert len(set(vocab.values())) == len(vocab)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [([], []), ([1], [1]), ([1, 1], [9]), ([1, 1, 1], [9, 1]), ([2, 1, 1, 1, 1], [2, 9, 9])],
)
def test_merge(script, ids, expected):
    assert script.merge(ids, (1, 1), 9) == expected


def test_count_failures(script, merges, monkeypatch):
    texts = ["anna", "", b"\xff", "zo\u00eb"]
    assert script.count_failures(texts, merges) == 0
    encode = script.encode
    monkeypatch.setattr(script, "encode", lambda text, merges: encode(text, merges)[:-1])
    assert script.count_failures(texts, merges) == 3  # all but the empty text


def test_drawings(script, capsys, merges):
    vocab = script.build_vocab(merges)
    script.show_small_training(["anna", "hanna", "annie"])
    script.show_merges(script.load_names()[:1000], merges, vocab)
    script.show_encoding("annabel", merges, vocab)
    script.show_tokens(AWKWARD, merges, vocab)
    script.draw_vocabulary_sizes(["anna"], merges)
    out = capsys.readouterr().out
    assert "an n a | h an n a | an n i e" in out
    assert "#" in out
    assert out.isascii()
