"""The preference task of microdpo, microppo and microgrpo, in models small enough to enumerate.

A tiny model knows a few letters and a boundary, whose token has the last id. It writes at most
block_size - 1 letters, so that all that it can write can be listed with its probability.
"""

import itertools
import math
import string

from support.numbers import gpt_matrices, softmax

CHARS = list(string.ascii_lowercase)


def tokens_of(name):
    """The tokens of a name of the letters a to z: boundary, letters, boundary."""
    return [26, *map(CHARS.index, name), 26]


def alternates(name):
    """Whether vowels and consonants take turns in a name."""
    kinds = [letter in "aeiouy" for letter in name]
    return all(a != b for a, b in zip(kinds, kinds[1:]))


def tiny_models(script, monkeypatch, count=2, letters=2, block_size=4):
    """Float models of the given sizes, which the script is set to as well.

    The weights are four times as large as at the start of training, so that the models differ.
    """
    monkeypatch.setattr(script, "n_embd", 4)
    monkeypatch.setattr(script, "block_size", block_size)
    return [gpt_matrices(letters + 1, 4, block_size, seed=3 + 3 * i) for i in range(count)]


def all_completions(prompt, letters=2, block_size=4):
    """Every token sequence that a tiny model can write after a boundary and the prompt."""
    boundary = letters
    for length in range(block_size - 1):
        for completion in itertools.product(range(letters), repeat=length):
            yield [boundary, prompt, *completion, boundary]
    for completion in itertools.product(range(letters), repeat=block_size - 1):
        yield [boundary, prompt, *completion]


def next_probs(script, model, tokens):
    """For each token after the prompt, the probabilities [vocab_size] of all tokens in its place.

    They come from the script's logits by the tests' own softmax.
    """
    cache = {}
    logits = [script.gpt(model, token, i, cache) for i, token in enumerate(tokens[:-1])]
    return [softmax(row) for row in logits[1:]]


def probability(script, model, tokens):
    """The probability of a completion given its prompt, by the chain rule."""
    probs = next_probs(script, model, tokens)
    return math.prod(p[token] for p, token in zip(probs, tokens[2:], strict=True))


def kl(probs, ref_probs):
    """KL(p || q) = sum p log(p / q) of two distributions, in nats."""
    return math.fsum(p * math.log(p / q) for p, q in zip(probs, ref_probs, strict=True))
