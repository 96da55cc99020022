import collections
import itertools
import random

import pytest
from harness import meets

CRITERIA = {
    "compression_ratio": ">= 1.5",
    "roundtrip_failures": "== 0",
    "runtime_seconds": "< 120",
}
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
    from harness import load

    script = load("microtokenizer")
    return script.train(collections.Counter(script.load_names()[:3000]), 200)


@pytest.mark.parametrize("metric", CRITERIA)
def test_criterion(run, metric):
    assert meets(run.metrics[metric], CRITERIA[metric])
    assert run.criteria[metric] == CRITERIA[metric]


def test_the_run_says_what_it_measured(run):
    assert run.metrics["vocab_size"] == 768
    assert run.metrics["heldout_names"] == 2000
    assert run.metrics["roundtrip_inputs"] > 2000 + 256


def test_larger_vocabulary_shorter_sequences(run):
    table = [line.split() for line in run.stdout.splitlines() if line.endswith("#")]
    sizes, lengths = zip(*((int(row[0]), float(row[1])) for row in table))
    assert len(sizes) >= 6
    assert sorted(sizes) == list(sizes)
    assert sorted(lengths, reverse=True) == list(lengths)
    assert lengths[0] / lengths[-1] == pytest.approx(run.metrics["compression_ratio"], abs=0.01)


def test_the_encyclopedias_example(script):
    """Wikipedia, Byte-pair encoding: aaabdaaabac becomes XdXac with Z = aa, Y = ab, X = ZY."""
    merges = script.train({"aaabdaaabac": 1}, 3)
    assert merges == {(97, 97): 256, (97, 98): 257, (256, 257): 258}
    assert script.encode("aaabdaaabac", merges) == [258, 100, 258, 97, 99]
    assert script.build_vocab(merges)[258] == b"aaab"


def recount(words):
    counts = collections.Counter()
    for ids, count in words:
        for pair in zip(ids, ids[1:]):
            counts[pair] += count
    return counts


def replace(ids, pair, new_id):
    """Left to right, on a string of characters: str.replace does the same."""
    text = "".join(map(chr, ids))
    return list(map(ord, text.replace(chr(pair[0]) + chr(pair[1]), chr(new_id))))


def train_by_recounting(word_counts, num_merges):
    words = [(list(word.encode()), count) for word, count in word_counts.items()]
    merges = {}
    while len(merges) < num_merges and (counts := recount(words)):
        pair = sorted(counts, key=lambda p: (-counts[p], p))[0]
        merges[pair] = 256 + len(merges)
        words = [(replace(ids, pair, merges[pair]), count) for ids, count in words]
    return merges


def test_incremental_counts_equal_recounting(script):
    words = collections.Counter(script.load_names()[:1500])
    ours, theirs = script.train(words, 150), train_by_recounting(words, 150)
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


def encode_by_order(script, raw, merges):
    """Apply each merge, in the order learned, to the whole sequence."""
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
        assert ids == encode_by_order(script, text.encode(), merges)
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
