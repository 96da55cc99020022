"""A BPE tokenizer learns by one greedy rule: the most frequent pair of neighbors becomes a symbol.

The problem: a language model reads numbers, so a text has to be cut into pieces, and each piece
gets a number. The pieces are called tokens. If every letter is a token, texts become long, and a
model that works token by token gets slow. If every word is a token, the list of tokens (the
vocabulary) becomes huge, and a word that is not in it cannot be written at all.

The idea of byte-pair encoding (BPE): start with the smallest pieces, the bytes of the text, and
glue together what often stands together. A pair of neighbors that becomes one token makes the text
shorter by one token wherever it stands, so a frequent pair is worth more than a rare one. What is
rare stays in small pieces. Every byte remains a token, so every text can be written.

    1. Take a list of words. Here the words are names. Each word starts as the list of its bytes in
       UTF-8. A letter of English is one byte, and most others are two to four. The 256 possible
       bytes are the tokens 0 to 255, so the first token that is learned gets the number 256.
    2. most_frequent_pair: count how often each two tokens stand side by side, in all words. Take
       the pair with the highest count.
    3. merge: put a new token in the place of this pair, in every word.
    4. train: repeat steps 2 and 3, once for each token that is to be learned. The pairs are counted
       anew each time, because a merge gives tokens other neighbors. The rule is called greedy: it
       takes the pair that is best at the moment, and never goes back on a merge.
    5. encode: a new text starts as its bytes, and all merges are applied to it, the oldest first.
       The words of training went through the same merges in the same order. So the text is split
       as they were.
    6. decode: build_vocab lists the bytes that each token stands for. Joined, they are the text
       again, because merging only groups bytes and loses none.

Gage (1994) invented the rule to compress data. Sennrich, Haddow and Birch (2016) used it to split
words for translation, and Radford et al. (2019) used it on bytes for GPT-2. The form of this script
follows Andrej Karpathy's minbpe (2024). Left out are special tokens, such as the one for the end of
a text, and the rules that cut a running text into words, in training and before encoding.
"""

import functools
import hashlib
import os
import random
import time
import urllib.request

# === CONSTANTS ===
num_merges = 256  # tokens to learn, beside the 256 bytes; GPT-2 learned 50,000
num_training = 2000  # names to learn from; few, because all pairs are counted anew for each merge
num_heldout = 1000  # names to measure by; none of them is learned from
vocabulary_sizes = (256, 264, 272, 288, 320, 384, 512)  # for the drawing
# Texts to encode and decode beside the names: nothing, the character NUL, white space, letters of
# two and three bytes, and an emoji that is made of several characters.
AWKWARD = ["", "\0", " \t\r\n", "anna\nanna", "Zoë", "한글 이름", "👩‍👩‍👧‍👦"]


# === TRAINING: the most frequent pair becomes a new token, again and again ===
def count_pairs(words):
    """How often each two tokens stand side by side: {(left, right): count}.

    Each word is a list of tokens. With letters for tokens, "anna" has the pairs an, nn and na.
    """
    counts = {}
    for word in words:
        for pair in zip(word, word[1:]):
            counts[pair] = counts.get(pair, 0) + 1
    return counts


def most_frequent_pair(words):
    """The two tokens that most often stand side by side, or None if no word has two tokens."""
    counts = count_pairs(words)
    if not counts:
        return None
    highest = max(counts.values())
    candidates = [pair for pair in counts if counts[pair] == highest]
    # Several pairs often have the same count. Tokens are numbers, so min() takes the pair with the
    # smallest left token, and among those the one with the smallest right token.
    return min(candidates)


def merge(word, pair, new_token):
    """A copy of a word in which new_token stands wherever the pair stood.

    It goes from left to right, so merging (a, a) in [a, a, a] gives [aa, a].
    """
    merged = []
    i = 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            merged.append(new_token)
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return merged


def train(words, num_merges, choose=most_frequent_pair):
    """Learn merges from a list of words. Return {(left, right): new token}, in the order learned.

    (A dict keeps the order in which its keys were added.)

    `choose` is the function that picks the pair to merge next. Three merges from the words anna,
    hanna and annie:

        a n n a    h a n n a    a n n i e    merge a + n: 3 times, as n + n, but a comes first
        an n a     h an n a     an n i e     merge an + n: 3 times
        ann a      h ann a      ann i e      merge ann + a: 2 times
        anna       h anna       ann i e      these are the words after three merges

    It ends early if every word has become a single token.
    """
    split_words = [list(word.encode("utf-8")) for word in words]
    merges = {}
    for new_token in range(256, 256 + num_merges):
        pair = choose(split_words)
        if pair is None:
            break
        merges[pair] = new_token
        split_words = [merge(word, pair, new_token) for word in split_words]
    return merges


def build_vocab(merges):
    """The bytes that each token stands for: {token: bytes}.

    A learned token stands for the bytes of its two parts, one behind the other. Both parts are
    older than the token, so they are known already when the merges are gone through in order.
    """
    vocab = {token: bytes([token]) for token in range(256)}
    for (left, right), new_token in merges.items():
        vocab[new_token] = vocab[left] + vocab[right]
    return vocab


# === ENCODING AND DECODING: from a text to tokens and back ===
def to_bytes(text):
    """The bytes of a str in UTF-8. Bytes stay as they are."""
    return text.encode("utf-8") if isinstance(text, str) else text


def encode(text, merges):
    """The tokens of a text. `text` is bytes, or a str, which counts as its bytes in UTF-8.

    The order of the merges matters. The merge of "an" and "n" finds nothing as long as "a" and "n"
    have not been merged. And in "ala" both a + l and l + a fit. The older of the two gets the l.

    Raises UnicodeEncodeError for a str that UTF-8 cannot express.
    """
    tokens = list(to_bytes(text))
    for pair, new_token in merges.items():
        tokens = merge(tokens, pair, new_token)
    return tokens


def decode_bytes(tokens, vocab):
    """The bytes that some tokens stand for. Raises KeyError if a token is not in the vocabulary."""
    return b"".join(vocab[token] for token in tokens)


def decode(tokens, vocab):
    """The text that some tokens stand for.

    A language model may write tokens whose bytes are no valid UTF-8, because a token can hold a
    part of a character. Such bytes become the replacement character U+FFFD.
    """
    return decode_bytes(tokens, vocab).decode("utf-8", errors="replace")


# === HOW GOOD IT IS: how short texts become, and whether they come back unchanged ===
def mean_length(texts, merges):
    """The average number of tokens per text."""
    return sum(len(encode(text, merges)) for text in texts) / len(texts)


def first_merges(merges, count):
    """What training would have learned if it had stopped after `count` merges."""
    return dict(list(merges.items())[:count])


def random_pair(words):
    """The pair at a random place in all words, or None if there is none. It is for a comparison.

    A pair that occurs often is drawn often, but the pair that is drawn is rarely the most frequent.
    """
    pairs = [pair for word in words for pair in zip(word, word[1:])]
    return random.choice(pairs) if pairs else None


def count_failures(texts, merges):
    """How many texts (str or bytes) are not the same after encoding and decoding.

    This finds bytes that were lost or changed. It cannot find merges that are useless: with those
    of random_pair(), every text comes back as well.
    """
    vocab = build_vocab(merges)
    failures = 0
    for text in texts:
        tokens = encode(text, merges)
        same_bytes = decode_bytes(tokens, vocab) == to_bytes(text)
        same_text = isinstance(text, bytes) or decode(tokens, vocab) == text
        if not (same_bytes and same_text):
            failures += 1
    return failures


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)
    # Some names stand in the list twice. Here each counts once.
    names = list(dict.fromkeys(load_names()))
    random.shuffle(names)
    show_small_training(["anna", "hanna", "annie"])

    training = names[:num_training]
    heldout = names[num_training : num_training + num_heldout]
    print(f"\nLearning {num_merges} merges from {len(training)} of {len(names)} names. The first:")
    merges = train(training, num_merges)
    vocab = build_vocab(merges)
    show_merges(training, merges, vocab)
    show_encoding(heldout[0], merges, vocab)
    show_tokens([*heldout[1:6], "Zoë", "한글 이름"], merges, vocab)

    # How much shorter do the names become? The ratio is bytes per name / tokens per name. In
    # reversed order, about half of the merges come before the tokens that they need. The others,
    # mostly pairs of two bytes, still work. Pairs from random places are more or less frequent.
    draw_vocabulary_sizes(heldout, merges)
    bytes_per_name = mean_length(heldout, {})
    ratio = bytes_per_name / mean_length(heldout, merges)
    youngest_first = dict(reversed(merges.items()))
    reversed_ratio = bytes_per_name / mean_length(heldout, youngest_first)
    random_merges = train(training, num_merges, choose=random_pair)
    random_ratio = bytes_per_name / mean_length(heldout, random_merges)

    # Does every text come back, and every single byte?
    texts = heldout + AWKWARD + [bytes([i]) for i in range(256)] + [bytes(range(256))]

    print_results(
        [
            ("vocab_size", len(vocab), ""),
            ("heldout_names", len(heldout), ""),
            ("bytes_per_name", bytes_per_name, ""),
            ("compression_ratio", ratio, ">= 1.5"),  # the bounds are chosen by hand
            ("reversed_order_ratio", reversed_ratio, f"< {ratio - 0.1:.4f}"),
            ("random_places_ratio", random_ratio, f"< {ratio - 0.1:.4f}"),
            ("roundtrip_inputs", len(texts), ""),
            ("roundtrip_failures", count_failures(texts, merges), "== 0"),
            ("runtime_seconds", time.perf_counter() - started, "< 120"),
        ]
    )


# === DRAWING: nothing below is needed to understand the algorithm ===
def pieces(tokens, vocab):
    """The bytes of each token as text. Bytes that ASCII cannot show become numbers, as in \\xc3."""
    return [ascii(vocab[token])[2:-1] for token in tokens]  # without the b and the quotes


def replay(words, merges):
    """Repeat training. For each merge, yield the words before it, the pair, its token and count."""
    split_words = [list(word.encode("utf-8")) for word in words]
    for pair, new_token in merges.items():
        yield split_words, pair, new_token, count_pairs(split_words)[pair]
        split_words = [merge(word, pair, new_token) for word in split_words]


def show_small_training(words):
    """Print three merges of a few words: the words before each merge, and the merge."""
    print(f"Three merges, learned from {', '.join(words)}:")
    merges = train(words, 3)
    vocab = build_vocab(merges)
    for split_words, pair, new_token, count in replay(words, merges):
        before = " | ".join(" ".join(pieces(word, vocab)) for word in split_words)
        left, right, result = pieces([*pair, new_token], vocab)
        print(f"{before:<36}{left} + {right} -> {result} ({count} times)")
    after = [encode(word, merges) for word in words]
    print(" | ".join(" ".join(pieces(word, vocab)) for word in after))


def show_merges(words, merges, vocab):
    """Print the first merges, and how often each pair occurred when it was merged."""
    for _, pair, new_token, count in replay(words, first_merges(merges, 8)):
        left, right, result = pieces([*pair, new_token], vocab)
        print(f"{left} + {right} -> {result} ({count} times)")


def show_encoding(name, merges, vocab):
    """Print how a name is encoded, without the merges that change nothing in it."""
    print(f'\nEncoding "{name}", a held-out name, with the merges in the order learned:')
    tokens = encode(name, {})
    print(" ".join(pieces(tokens, vocab)))
    for number, (pair, new_token) in enumerate(merges.items(), 1):
        merged = merge(tokens, pair, new_token)
        if merged != tokens:
            left, right = pieces(pair, vocab)
            split = " ".join(pieces(merged, vocab))
            print(f"{split:<24}after merge {number}, {left} + {right}")
        tokens = merged
    print(f"Merge number n made the token 255 + n, so the tokens are {tokens}.")


def show_tokens(texts, merges, vocab):
    """Print some texts, cut into their tokens."""
    print("\nHeld-out names as tokens, then texts with characters that no name has, which no merge")
    print(
        "joins. On the right, bytes that ASCII does not have are shown as numbers, such as \\xed:"
    )
    for text in texts:
        print(f"{ascii(text):<32} {'|'.join(pieces(encode(text, merges), vocab))}")


def draw_vocabulary_sizes(texts, merges):
    """Print how the length of texts falls with the size of the vocabulary."""
    print("\nvocabulary  tokens per held-out name (a # is an eighth of a token)")
    for size in vocabulary_sizes:
        length = mean_length(texts, first_merges(merges, size - 256))
        print(f"{size:10d}  {length:5.2f} {'#' * round(8 * length)}")


# === REPEATED from microgpt.py, word for word ===
def print_results(rows):
    """Print the results: one per line, with its name, its value, and the bound it has to meet."""
    print("\n=== results ===")
    for name, value, bound in rows:
        text = f"{value:.4f}" if isinstance(value, float) else value
        print(f"{name:<26}{text:<8} {bound}".rstrip())


# Figures in comments are of runs on the list in 01-foundations, which has 32,178 names. The list
# that is downloaded is an earlier release of it, with 32,033, and a run on it has other figures.
NAMES_URL = "https://raw.githubusercontent.com/karpathy/makemore/988aa59/names.txt"
NAMES_SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
print = functools.partial(print, flush=True)  # print each line at once, also into a pipe


def load_names():
    """All names, in file order: from names.txt beside this script or else in ../01-foundations.

    If neither file exists, the list is downloaded. Whatever fails ends in SystemExit, with one line
    that says what to do.
    """
    folder = os.path.dirname(os.path.abspath(__file__))
    path = os.path.join(folder, "names.txt")
    source = path
    if not os.path.exists(source):
        source = os.path.join(folder, "..", "01-foundations", "names.txt")
    try:
        if os.path.exists(source):
            with open(source, "rb") as file:
                raw = file.read()
        else:
            source = NAMES_URL
            raw = download_names(path)
        names = raw.decode("ascii").split()
        if len(set(names)) < 10000:  # too few to train on some and to hold out others
            raise ValueError("it has fewer than 10000 different names")
    except Exception as error:  # of many kinds: OSError, HTTPException, UnicodeDecodeError, ...
        advice = f"Put an ASCII text file of names, one per line, at {path}"
        raise SystemExit(f"No names from {source}: {str(error).strip()}. {advice}") from None
    return names


def download_names(path):
    """Download the list of names, check that it is the expected one, and keep it at `path`.

    Returns its bytes. Raises an exception if the download fails or the list is another one. If it
    cannot be kept, it prints a line and goes on.
    """
    with urllib.request.urlopen(NAMES_URL, timeout=10) as answer:
        raw = answer.read(5_000_000)  # the list has 228,145 bytes
    if hashlib.sha256(raw).hexdigest() != NAMES_SHA256:
        raise ValueError("its SHA-256 is not the one expected")
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(raw)
        os.replace(temporary, path)  # in one move, so that nobody ever meets half a file
    except OSError as error:
        print(f"The names could not be kept for the next run: {error}")
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
    return raw


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(0)  # the reader of the pipe has gone, as in `python script.py | head`
