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
    return script.train(collections.Counter(script.load_names()[:1500]), 150)


def test_the_run_tries_enough_texts_and_draws(run):
    assert run.metrics["roundtrip_inputs"] > 2000 + 256
    assert run.stdout.count("#") > 100


def test_the_encyclopedias_example(script):
    """Wikipedia, Byte-pair encoding: aaabdaaabac becomes XdXac with Z = aa, Y = ab, X = ZY."""
    merges = script.train({"aaabdaaabac": 1}, 3)
    assert merges == {(97, 97): 256, (97, 98): 257, (256, 257): 258}
    assert script.encode("aaabdaaabac", merges) == [258, 100, 258, 97, 99]
    assert script.build_vocab(merges)[258] == b"aaab"


def recount(words):
    """{pair: how often it occurs} in words [(ids, count)]."""
    counts = collections.Counter()
    for ids, count in words:
        for pair in zip(ids, ids[1:]):
            counts[pair] += count
    return counts


def replace(ids, pair, new_id):
    """Ids with the pair replaced, left to right, as str.replace does it on characters."""
    text = "".join(map(chr, ids))
    return list(map(ord, text.replace(chr(pair[0]) + chr(pair[1]), chr(new_id))))


def train_by_recounting(word_counts, num_merges):
    """The merges of train(), with every pair of every word counted anew for each of them."""
    words = [(list(word.encode()), count) for word, count in word_counts.items()]
    merges = {}
    for _ in range(num_merges):
        counts = recount(words)
        if not counts:
            break
        pair = sorted(counts, key=lambda p: (-counts[p], p))[0]
        merges[pair] = 256 + len(merges)
        words = [(replace(ids, pair, merges[pair]), count) for ids, count in words]
    return merges


def test_incremental_counts_equal_recounting(script):
    words = collections.Counter(script.load_names()[:400])
    ours, theirs = script.train(words, 80), train_by_recounting(words, 80)
    assert list(ours.items()) == list(theirs.items())


def test_incremental_counts_equal_recounting_where_pairs_overlap(script):
    rng = random.Random(4)
    for _ in range(60):
        words = {
            "".join(rng.choices("ab", k=rng.randrange(12))): rng.randrange(1, 4) for _ in range(6)
        }
        assert script.train(words, 12) == train_by_recounting(words, 12)


def test_ties_go_to_the_smallest_pair(script):
    assert list(script.train({"cd": 1, "ba": 1, "ab": 1}, 3)) == [(97, 98), (98, 97), (99, 100)]


def test_training_ends_when_every_word_is_one_token(script):
    assert script.train({"abc": 2, "": 5, "x": 1}, 50) == {(97, 98): 256, (256, 99): 257}
    assert script.train({}, 5) == {}


def test_counts_weigh_the_words(script):
    assert list(script.train({"ab": 1, "ac": 1, "xy": 3}, 1)) == [(120, 121)]


def encode_by_order(raw, merges):
    """Token ids of bytes: each merge, in the order learned, is applied to the whole sequence."""
    ids = list(raw)
    for pair, new_id in merges.items():
        ids = replace(ids, pair, new_id)
    return ids


def test_encode_applies_merges_in_the_order_learned(script, merges):
    rng = random.Random(9)
    names = script.load_names()[3000:3300]
    noise = ["".join(rng.choices("aeinlr", k=rng.randrange(30))) for _ in range(100)]
    for text in names + noise + AWKWARD:
        ids = script.encode(text, merges)
        assert ids == encode_by_order(text.encode(), merges)
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
