"""Text becomes numbers by one greedy rule: the commonest pair of neighbours becomes a new symbol.

Byte-pair encoding was a compression algorithm (Gage 1994) before it made words for translation
(Sennrich, Haddow & Birch 2016) and, on bytes, the tokens of GPT-2 (Radford et al. 2019). Karpathy's
minbpe is the model for its size here. Left out: the rules that cut running text into words first
(a name is a word), and special tokens such as end-of-text.
"""

import collections
import functools
import hashlib
import itertools
import os
import random
import time
import urllib.request

# === CONSTANTS: how much to learn, what to try it on ===
num_merges = 512  # tokens to learn beyond the 256 bytes; GPT-2 learned 50,000
num_heldout = 2000  # names to measure compression on, none of them trained on
AWKWARD = ["", "a", "\0", " \t\r\n", "anna\nanna", "Zoë", "e\u0301", "한글 이름", "👩‍👩‍👧‍👦", "🏴‍☠️"]

NAMES_URL = "https://raw.githubusercontent.com/karpathy/makemore/988aa59/names.txt"
NAMES_SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
print = functools.partial(print, flush=True)  # a line is seen when it is printed, in a pipe too


# === DATA: names, each of them a word ===
def load_names():
    """All names in file order: from beside this script, else 01-foundations, else the network.

    Raises SystemExit, one line and exit status 1, where no usable file is to be had.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    beside, shared = (os.path.join(here, d, "names.txt") for d in ("", "../01-foundations"))
    source = next(filter(os.path.exists, (beside, shared)), NAMES_URL)
    is_url = source == NAMES_URL
    try:
        with urllib.request.urlopen(source, timeout=10) if is_url else open(source, "rb") as file:
            raw = file.read(5_000_000 if is_url else -1)
        if is_url and hashlib.sha256(raw).hexdigest() != NAMES_SHA256:
            raise ValueError("its SHA-256 is not the one expected")
        names = raw.decode("ascii").split()
        if len(set(names)) < 2000:  # too few to train on some and hold out others
            raise ValueError("it has fewer than 2000 different names")
    except Exception as error:  # urllib alone raises three families of them
        advice = f"Put a text file of names, one a line, at {beside}"
        raise SystemExit(f"No names from {source}: {str(error).strip()}. {advice}") from None
    if is_url:
        temporary = f"{beside}.{os.getpid()}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(raw)
            os.replace(temporary, beside)  # in one move: nobody ever meets half a file
        except OSError as error:  # no reason to stop: the names are in memory
            print(f"The names could not be kept for the next run: {error}")
        finally:
            if os.path.exists(temporary):
                os.remove(temporary)
    return names


# === TRAINING: count the pairs, merge the commonest, repeat ===
#
# Single bytes make sequences long; whole words leave no way to write a new one. Merges lie between:
# what is common becomes short, and what was never seen is still spelled in bytes.


def merge(ids, pair, new_id):
    """`ids` with every occurrence of `pair` replaced by `new_id`, found from left to right."""
    merged, i = [], 0
    while i < len(ids):
        # The slice is empty at the last id, which has no right neighbour.
        found = ids[i] == pair[0] and ids[i + 1 : i + 2] == [pair[1]]
        merged.append(new_id if found else ids[i])
        i += 2 if found else 1  # past both: "aaa" counts (a, a) twice and merges it once
    return merged


def train(word_counts, num_merges):
    """Merges {(left id, right id): new id}, in the order learned, from {word: how often it occurs}.

    Fewer than `num_merges` if every word has become a single token before.
    """
    words = [(list(word.encode()), count) for word, count in word_counts.items()]
    pair_counts = collections.Counter()
    words_with = collections.defaultdict(set)  # pair -> indices of the words that hold it
    for i, (ids, count) in enumerate(words):
        for pair in zip(ids, ids[1:]):
            pair_counts[pair] += count
            words_with[pair].add(i)
    merges = {}
    while len(merges) < num_merges:
        top = max(pair_counts.values(), default=0)
        if top == 0:
            break  # nothing is left to merge
        best = min([p for p, count in pair_counts.items() if count == top])  # ties: the lowest ids
        merges[best] = 256 + len(merges)
        # Only words that hold the pair change. To count all pairs anew after each merge would give
        # the same numbers, and is what makes the textbook version slow.
        for i in words_with.pop(best):
            ids, count = words[i]
            for pair in zip(ids, ids[1:]):
                pair_counts[pair] -= count
            ids = merge(ids, best, merges[best])
            for pair in zip(ids, ids[1:]):
                pair_counts[pair] += count
                words_with[pair].add(i)
            words[i] = ids, count
    return merges


def build_vocab(merges):
    """{token id: its bytes}: the 256 bytes, then for each merge the bytes of its two halves."""
    vocab = {i: bytes([i]) for i in range(256)}
    for (left, right), new_id in merges.items():  # in order, so both halves are there
        vocab[new_id] = vocab[left] + vocab[right]
    return vocab


# === INFERENCE: text to tokens and back ===
def encode(text, merges):
    """Token ids of a str (as UTF-8) or of bytes. UnicodeEncodeError for half a surrogate pair.

    Merges are applied in the order they were learned, not by how common they are in this text:
    a later merge may need what an earlier one makes.
    """
    ids = list(text.encode() if isinstance(text, str) else text)
    while len(ids) > 1:
        pair = min(zip(ids, ids[1:]), key=lambda pair: merges.get(pair, len(merges) + 256))
        if pair not in merges:
            break  # no pair left that was ever learned
        ids = merge(ids, pair, merges[pair])
    return ids


def decode_bytes(ids, vocab):
    """The bytes that `ids` stand for: always the exact inverse of encode. KeyError: no such id."""
    return b"".join(vocab[i] for i in ids)


def decode(ids, vocab):
    """The text that `ids` stand for; U+FFFD where they are not UTF-8, as when a model made them."""
    return decode_bytes(ids, vocab).decode("utf-8", errors="replace")


# === OUTPUT: proof ===
def print_results(rows):
    """Print the proof, a metric a line: name, value, and the criterion that it has to meet."""
    print("\n=== results ===")
    for name, value, criterion in rows:
        value = f"{value:.4f}" if isinstance(value, float) else value
        print(f"{name:<26}{value:<9}{criterion}".rstrip())


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)
    names = load_names()
    unique = list(dict.fromkeys(names))  # some stand in the list twice, for girls and boys
    random.shuffle(unique)
    heldout, trained = unique[:num_heldout], set(unique[num_heldout:])
    print(f"Learning {num_merges} merges from {len(trained)} names, {num_heldout} others held out.")
    merges = train(collections.Counter(name for name in names if name in trained), num_merges)
    vocab = build_vocab(merges)
    learned = [vocab[i].decode() for i in merges.values()]
    print(f"\nThe first merges: {' '.join(learned[:24])}")
    print(f"The longest of them all: {' '.join(sorted(learned, key=len)[-8:])}")

    # The price of short sequences is a large vocabulary: each token needs its own row in a model's
    # embedding table, and each doubling of the table buys less.
    print("\nvocabulary  tokens a held-out name")
    num_bytes = sum(len(name) for name in heldout)
    for n in (0, 8, 16, 32, 64, 128, 256, num_merges):
        first = dict(itertools.islice(merges.items(), n))  # the merges of a smaller vocabulary
        num_tokens = sum(len(encode(name, first)) for name in heldout)
        mean = num_tokens / num_heldout
        print(f"{256 + n:10d}  {mean:5.2f} {'#' * round(8 * mean)}")

    print("\nHeld-out names as tokens, then what no name taught: bytes")
    for text in heldout[:5] + AWKWARD[5:8]:  # a token that is half a character is shown as \x..
        ids = encode(text, merges)
        print(f"{ascii(text):32} {' '.join(ascii(vocab[i])[2:-1] for i in ids)}")

    every_byte = [bytes([i]) for i in range(256)] + [bytes(range(256)), b"\xff\xfe\x80"]
    texts = heldout + AWKWARD  # every str is valid UTF-8; bytes need not be
    failures = sum(decode(encode(text, merges), vocab) != text for text in texts)
    failures += sum(decode_bytes(encode(raw, merges), vocab) != raw for raw in every_byte)
    rows = [
        ("vocab_size", len(vocab), ""),
        ("heldout_names", num_heldout, ""),
        ("compression_ratio", num_bytes / num_tokens, ">= 1.5"),
        ("roundtrip_inputs", len(texts) + len(every_byte), ""),
        ("roundtrip_failures", failures, "== 0"),
        ("runtime_seconds", time.perf_counter() - started, "< 120"),
    ]
    print_results(rows)


if __name__ == "__main__":
    main()
