"""A tokenizer is one greedy rule: the commonest pair of neighbours becomes a symbol, repeatedly.

Byte-pair encoding compressed data (Gage 1994) before it made subwords for translation (Sennrich,
Haddow & Birch 2016) and, on bytes, the tokens of GPT-2 (Radford et al. 2019). After Karpathy's
minbpe (2024), with the pair counts kept up to date. Left out: the rules that cut running text into
words before training (a name is a word), and special tokens such as end-of-text.
"""

import collections
import functools
import hashlib
import itertools
import os
import random
import time
import urllib.request

# === CONSTANTS: the size of the vocabulary, the texts it is tried on ===
num_merges = 512  # tokens to learn beyond the 256 bytes; GPT-2 learned 50,000
num_heldout = 2000  # names to measure compression on, none of them trained on
# More than a byte a character, combining marks, joined emoji, white space, NUL, and nothing at all.
AWKWARD = ["Zoë", "한글 이름", "e\u0301", "👩‍👩‍👧‍👦", "🏴‍☠️", "anna\nanna", " \t\r\n", "\0", "a", ""]

NAMES_URL = "https://raw.githubusercontent.com/karpathy/makemore/988aa59/names.txt"
NAMES_SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
print = functools.partial(print, flush=True)  # flush each line, into a pipe too


# === DATA: names, each of them a word ===
def load_names():
    """All names, in file order: from names.txt beside this script, or else in 01-foundations.

    If there is neither, one is downloaded and kept. SystemExit, in one line, if it is not usable.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    beside, shared = (os.path.join(here, d, "names.txt") for d in ("", "../01-foundations"))
    source = next(filter(os.path.exists, (beside, shared)), NAMES_URL)
    is_url = source == NAMES_URL
    try:
        with urllib.request.urlopen(source, timeout=10) if is_url else open(source, "rb") as file:
            raw = file.read(5_000_000 if is_url else -1)  # longer cannot be it
        if is_url and hashlib.sha256(raw).hexdigest() != NAMES_SHA256:
            raise ValueError("its SHA-256 is not the one expected")
        names = raw.decode("ascii").split()
        if len(set(names)) < 10000:  # too few to train on some and hold out others
            raise ValueError("it has fewer than 10000 different names")
    except Exception as error:  # urllib alone raises three families of them
        advice = f"Put an ASCII text file of names, one a line, at {beside}"
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


# === TRAINING: count the pairs, merge the commonest, count again ===
#
# Single bytes make sequences long; whole words leave no way to write a new one. Merges lie between:
# what is common becomes short, and a piece that was never seen is still spelled in bytes.


def merge(ids, pair, new_id):
    """`ids` with `pair` replaced by `new_id`, from left to right: (a, a) takes the first of aaa."""
    merged, i = [], 0
    while i < len(ids):
        found = tuple(ids[i : i + 2]) == pair
        merged.append(new_id if found else ids[i])
        i += 2 if found else 1
    return merged


def train(word_counts, num_merges):
    """Learn from {word: how often it occurs}: {(left id, right id): new id}, in the order learned.

    Stops early once every word is a single token.
    """
    words = [(list(word.encode()), count) for word, count in word_counts.items()]
    pair_counts = collections.Counter()
    words_with = collections.defaultdict(set)  # pair -> indices of words that hold it, or once did
    for i, (ids, count) in enumerate(words):
        for pair in zip(ids, ids[1:]):
            pair_counts[pair] += count
            words_with[pair].add(i)
    merges = {}
    while len(merges) < num_merges:
        top = max(pair_counts.values(), default=0)
        if top == 0:
            break  # every pair has been merged away
        best = min([pair for pair in pair_counts if pair_counts[pair] == top])  # ties: lowest ids
        merges[best] = 256 + len(merges)
        # Only words that hold the pair change. Counting all words anew after each merge gives the
        # same numbers, and takes some 40 times as long here.
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

    Of the pairs present, the one learned first is merged first, however common the others are in
    this text: so a word splits as it did in training. Each merge goes over the whole text, which
    is right for words and slow for books.
    """
    ids = list(text.encode() if isinstance(text, str) else text)
    while len(ids) > 1:
        best = min(zip(ids, ids[1:]), key=lambda pair: merges.get(pair, float("inf")))
        if best not in merges:
            break
        ids = merge(ids, best, merges[best])
    return ids


def decode_bytes(ids, vocab):
    """The bytes that `ids` stand for: those that encode() was given. KeyError for an unknown id."""
    return b"".join(vocab[i] for i in ids)


def decode(ids, vocab):
    """The text that `ids` stand for; U+FFFD where they are not UTF-8, as when a model made them."""
    return decode_bytes(ids, vocab).decode("utf-8", errors="replace")


def count_failures(texts, merges):
    """How many of the texts (str or bytes) are not what their tokens decode to."""
    vocab, failures = build_vocab(merges), 0
    for text in texts:
        back = decode if isinstance(text, str) else decode_bytes
        failures += back(encode(text, merges), vocab) != text
    return failures


# === OUTPUT: results ===
def print_results(rows):
    """Print the results, one a line: name, value, and the bound that the tests hold it to."""
    print("\n=== results ===")
    for name, value, criterion in rows:
        value = f"{value:.4f}" if isinstance(value, float) else value
        print(f"{name:<26}{value:<9}{criterion}".rstrip())


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)
    names = load_names()
    unique = list(dict.fromkeys(names))  # some names stand in the list twice, and count twice
    random.shuffle(unique)
    heldout, trained = unique[:num_heldout], set(unique[num_heldout:])
    print(f"{num_merges} merges to learn from {len(trained)} names; {len(heldout)} are held out.")
    merges = train(collections.Counter(name for name in names if name in trained), num_merges)
    vocab = build_vocab(merges)
    learned = [decode([i], vocab) for i in merges.values()]
    print(f"\nThe first of them: {' '.join(learned[:24])}")
    print(f"Some long ones: {' '.join(sorted(learned, key=len)[-8:])}")

    # Short sequences cost a large vocabulary: a model keeps a row of its embedding table for each
    # token, and the later a token was learned, the rarer it is.
    print("\nvocabulary  tokens a held-out name (8 # each)")
    num_bytes = sum(len(name.encode()) for name in heldout)
    for n in [n for n in (0, 8, 16, 32, 64, 128, 256) if n < len(merges)] + [len(merges)]:
        first = dict(itertools.islice(merges.items(), n))  # what training would stop at
        num_tokens = sum(len(encode(name, first)) for name in heldout)
        mean = num_tokens / len(heldout)
        print(f"{256 + n:10d}  {mean:5.2f} {'#' * round(8 * mean)}")
    compression_ratio = num_bytes / num_tokens  # with all merges

    print("\nHeld-out names in tokens, then characters that are in no name and stay bytes")
    for text in heldout[:5] + AWKWARD[:3]:
        tokens = [ascii(vocab[i])[2:-1] for i in encode(text, merges)]  # without b'...'
        print(f"{ascii(text):32} {'|'.join(tokens)}")

    # Names are ASCII, so their merges never join parts of a character. Those learned from the
    # awkward texts do.
    awkward_merges = train(collections.Counter(AWKWARD), 64)
    texts = heldout + AWKWARD + [bytes([i]) for i in range(256)] + [bytes(range(256)), b"\xff\xfe"]
    failures = count_failures(texts, merges) + count_failures(texts, awkward_merges)
    rows = [
        ("vocab_size", len(vocab), ""),
        ("heldout_names", len(heldout), ""),
        ("compression_ratio", compression_ratio, ">= 1.5"),  # against a token for each byte
        ("roundtrip_inputs", len(texts), ""),
        ("roundtrip_failures", failures, "== 0"),
        ("runtime_seconds", time.perf_counter() - started, "< 120"),
    ]
    print_results(rows)


if __name__ == "__main__":
    main()
