"""One model writes different texts, depending on how each next token is chosen.

The problem: a language model does not write. It only answers a question: given the tokens so far,
how probable is every token that may come next? (Here a token is a letter, and a text is a name.)
Somebody has to choose a token, append it, and ask again, until the text ends. This is called
decoding. Two ways to choose come to mind first. One can always take the most probable token. That
gives only one text per prompt, and it need not be the most probable one. Or one can draw the next
token by its probability. But there are so many improbable tokens that one of them is drawn now and
then, and it can spoil a text. Both ways call the model once per token, which takes long if the
model is large.

The idea: leave the model as it is, and change what is done with its answers. To draw improbable
tokens less often, change the probabilities before drawing. To find more probable texts, follow
several of them at a time instead of one. To call the model less often, let a small model draft a
few tokens, and let the large model judge all of them in one call. This can be done so that nothing
else changes. If the most probable token is taken each time, the text is the one that the large
model would have written alone. If tokens are drawn, each text is as probable as from it alone.

    1. greedy: always take the most probable token. A text of the best next tokens need not be the
       most probable text.
    2. sampling: draw the next token. with_temperature makes probable tokens more probable still (or
       less). top_k keeps the k most probable tokens. top_p keeps as many of the most probable
       tokens as are needed for a given probability in total, such as 0.8.
    3. beam_search: keep a few candidates (texts that may be unfinished), extend each of them by
       every token, and keep the few most probable ones again. exact_search finds the most probable
       text of all. It is often a strange one: it ends at once.
    4. speculative_greedy: the small model (the draft model) writes gamma tokens. The large model
       (the target) reads them all in one call. The first one that the target would not have taken
       is replaced by the target's token. Those before it are accepted, those behind it dropped. If
       all are accepted, the target adds a token. So a call writes 1 to gamma + 1 tokens.
    5. speculative_sampling: the same for tokens that are drawn. A drafted token x is accepted with
       the probability min(1, p(x) / q(x)), where p(x) is its probability in the target and q(x) in
       the draft model. If x is rejected, draw another token in proportion to max(0, p - q). If all
       are accepted, draw one more from p. A token can be written in two ways, accepted or as a
       replacement. Together, these have the probability p, whatever q is (see the example below).

Sources: top-k sampling is by Fan et al. (2018), top-p sampling by Holtzman et al. (2020).
Speculative decoding is by Leviathan et al. (2023), who introduced these p, q and gamma, and by Chen
et al. (2023), who exchange p and q. Stahlberg and Byrne (2019) found in translation that the most
probable text is often empty. The target is the model of microgpt, after Andrej Karpathy (2026), and
the draft model has half its width. There are more clever ways to draft: a tree of tokens (Miao et
al. 2024), or extra output layers of the target itself in place of a draft model (Cai et al. 2024).
"""

import collections
import functools
import hashlib
import itertools
import math
import os
import random
import time
import urllib.request

# === CONSTANTS ===
temperature = 0.5  # below 1, probable tokens become more probable still
kept_tokens = 5  # the k of top-k
kept_probability = 0.8  # the p of top-p
beam_widths = (2, 8, 27)  # candidates that a beam keeps, to compare; there are 27 tokens
main_width = 8  # beam_log_prob and beam_losses, printed at the end, are about this width
gammas = (1, 2, 4)  # tokens that the draft model writes per call of the target, to compare
main_gamma = 4  # speculative_greedy() uses this one, and the savings in the results are about it
target_embd = 16  # the width of the target: how many numbers stand for a token inside it
draft_embd = 8  # the width of the draft model
prompt_letters = 2  # letters that the strategies are given
num_prompts = 100  # different beginnings of held-out names
repeats = 3  # texts per prompt, from strategies that draw
num_draws = 20000  # tokens, and then texts, that are drawn to check speculative sampling
num_heldout = 200  # names to judge the two models by; no training step sees them
# the following are read by the code that is repeated from microgpt, near the end
n_head = 4  # attention heads
n_layer = 1  # layers of attention and MLP
block_size = 16  # the context: the most tokens that a text has; is_finished() reads this too
num_steps = 1000  # steps of training a model, one name each; heldout_names() reads this too
learning_rate = 0.01  # falls linearly to 0
beta1 = 0.85  # Adam's memory of the gradient
beta2 = 0.99  # Adam's memory of the squared gradient
eps_adam = 1e-8  # keeps Adam's division finite

# === BORROWED from microgpt.py: what you need to know of it ===
# - Tokens are the numbers of letters. encode() turns a name into tokens, with the same boundary
#   token in front and behind. spell() turns tokens back into letters.
# - gpt(model, token, position, cache) reads one token. It returns a score (logit) for every
#   possible next token. The cache is what gpt() knows of earlier tokens: {layer: (keys, values)},
#   with a key and a value for each position. It is {} at first, and gpt() adds to it.
# - softmax() turns scores into probabilities. Adding the same number to all scores does not change
#   them. log() is the logarithm of a probability. 0 has none, so less than 1e-10 counts as 1e-10.
# - init_model() makes a model of any width, and train() trains it on names. as_values() prepares
#   its numbers for training, and as_floats() makes plain and fast numbers of them again.
# - name_loss() is the mean of -log(probability) over the tokens of a name.


# === THE QUESTION: which token comes next? ===
#
# A text is a list of tokens. A prompt is the beginning of a text, with a boundary in front. Each
# strategy below continues a prompt to a whole text, and returns it with the prompt in front. A
# model is a function here: next_probs(tokens) returns a list [vocab_size], with the probability of
# each token to be the next one.


def is_finished(tokens):
    """Whether a text is at its end: it has a second boundary, or the context is full."""
    boundary = tokens[0]  # every text begins with one
    return boundary in tokens[1:] or len(tokens) >= block_size


# === GREEDY: the best token each time is not the best text ===
def most_probable(probs):
    """The token with the largest probability. Of equal ones, the first."""
    return probs.index(max(probs))


def greedy(next_probs, prompt):
    """Always append the most probable token.

    A greedy text need not be the most probable text: tiny_tree() is a counterexample.
    """
    tokens = list(prompt)
    while not is_finished(tokens):
        probs = next_probs(tokens)
        tokens.append(most_probable(probs))
    return tokens


def tiny_tree(tokens):
    """A next_probs made by hand, in place of a trained model. It writes two letters, then ends.

        first letter    second letter    probability of the text
        a  0.6          c  0.4           0.6 * 0.4 = 0.24
                        d  0.3           0.6 * 0.3 = 0.18
                        e  0.3           0.6 * 0.3 = 0.18
        b  0.4          c  0.9           0.4 * 0.9 = 0.36
                        d  0.1           0.4 * 0.1 = 0.04

    greedy() takes a, because 0.6 > 0.4, and arrives at 0.24. The most probable text is bc, which
    begins with the less probable letter. The tokens 0 to 4 are the letters a to e, and 5 is the
    boundary. Returns the probabilities of a, b, c, d, e and the boundary, in this order.
    """
    following = {
        (): [0.6, 0.4, 0.0, 0.0, 0.0, 0.0],
        (0,): [0.0, 0.0, 0.4, 0.3, 0.3, 0.0],  # after a
        (1,): [0.0, 0.0, 0.9, 0.1, 0.0, 0.0],  # after b
    }
    end = [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]  # after two letters
    letters = tuple(tokens[1:])  # without the boundary in front
    return following.get(letters, end)


tiny_prompt = [5]
tiny_probs = {"ac": 0.24, "ad": 0.18, "ae": 0.18, "bc": 0.36, "bd": 0.04}  # of the texts above


# === SAMPLING: draw the token, but not every token ===
def draw(probs):
    """Draw a token. Each is drawn with its probability."""
    return random.choices(range(len(probs)), weights=probs)[0]


def sampling(next_probs, prompt, change):
    """Draw each token from change(probs), where probs is what the model says.

    `change` is a function that turns probabilities into others: unchanged(), or one of the next
    three with a fixed second argument, such as lambda probs: top_k(probs, 5).
    """
    tokens = list(prompt)
    while not is_finished(tokens):
        probs = next_probs(tokens)
        tokens.append(draw(change(probs)))
    return tokens


def unchanged(probs):
    """Plain sampling: draw from what the model says."""
    return probs


def with_temperature(probs, t):
    """Raise every probability to the power of 1 / t, and rescale them to sum to 1.

    With t = 0.5, probabilities are squared: 0.8 and 0.2 become 0.64 and 0.04, and after rescaling
    0.94 and 0.06. Improbable tokens become rarer, but are not cut off as by the next two functions.
    Towards t = 0 this becomes greedy(). A t above 1 makes the probabilities more alike: with t = 2,
    0.8 and 0.2 become 0.67 and 0.33.

    exp(log(p) / t) is p to the power of 1 / t (if p is at least 1e-10), and softmax() rescales.
    The usual softmax(logits / t) is the same. A softmax divides each exp(logit) by their sum, so
    log(p) = logit - log(sum). And adding the same number to all logits changes no probability.
    """
    return softmax([log(p) / t for p in probs])


def ranking(probs):
    """All tokens, the most probable first. Of equal ones, the one with the smaller number first."""
    return sorted(range(len(probs)), key=lambda token: -probs[token])


def rescale(numbers):
    """Divide numbers by their sum, so that they sum to 1. ZeroDivisionError if all are 0."""
    total = math.fsum(numbers)
    return [x / total for x in numbers]


def keep(probs, kept):
    """Set the probability of all tokens outside `kept` to 0, and rescale the others."""
    return rescale([p if token in kept else 0.0 for token, p in enumerate(probs)])


def top_k(probs, k):
    """Draw only from the k most probable tokens.

    The many improbable tokens are ruled out, however probable they are together. The weakness is
    that k is the same everywhere: too large where the model is sure of the next token, and too
    small where many tokens would do.
    """
    return keep(probs, ranking(probs)[:k])


def top_p(probs, p):
    """Draw only from the most probable tokens that have the probability p together.

    These tokens are called the nucleus: take tokens, the most probable first, and stop as soon as
    their probabilities sum to p or more. So the number of tokens adapts to the model. With p = 0.8:

        probabilities                      nucleus
        0.9   0.05  0.03  0.02             the first token, because 0.9 >= 0.8
        0.3   0.25  0.2   0.15  0.1        the first four, because 0.75 < 0.8 and 0.9 >= 0.8
    """
    nucleus = []
    total = 0.0
    for token in ranking(probs):
        nucleus.append(token)
        total += probs[token]
        if total >= p:
            break
    return keep(probs, nucleus)


# === SEARCH: follow several candidates, and find more probable texts ===
# Search is common in translation. In stories, Holtzman et al. (2020) found its texts bland and
# repetitive. Names are too short to show this. They show that probable texts can be too short.

# A candidate is a prompt with tokens appended. It may be finished or not. log_prob is the sum of
# the log probabilities of the appended tokens.
Candidate = collections.namedtuple("Candidate", "tokens log_prob")


def log_prob(next_probs, tokens, given):
    """The log probability of tokens[given:] after tokens[:given], in nats (natural logarithm)."""
    total = 0.0
    for position in range(given, len(tokens)):
        probs = next_probs(tokens[:position])
        total += log(probs[tokens[position]])
    return total


def beam_search(next_probs, prompt, width):
    """Keep the `width` most probable candidates, extend them by every token, and keep again.

    In tiny_tree(), a beam of width 2 keeps a (0.6) and b (0.4). Extended, they become ac (0.24), ad
    (0.18), ae (0.18), bc (0.36) and bd (0.04). The beam keeps bc and ac. Both end with the next
    token, and bc is the result. (Tokens with p = 0 come too, but far behind, with log(1e-10).)

    With width 1 it is greedy(). With a larger width it may still return a less probable text than
    greedy(), because a beam can drop the beginning of the greedy text. Suppose that a beam of width
    2 has a (0.4) and b (0.35). After a comes e with 0.4, after b come c and d with 0.5 each. The
    beam keeps bc and bd (0.175 each), and drops ae (0.16). But after ae the end is certain, and
    after bc and bd there are again two tokens with 0.5 each. Then the greedy text has 0.16, and
    that of the beam 0.0875. The printed column "below" shows how often such a thing happens.
    """
    beam = [Candidate(list(prompt), 0.0)]  # the most probable one first
    # A further token never makes a candidate more probable. So once the first one of the beam is
    # finished, none of the others can overtake it.
    while not is_finished(beam[0].tokens):
        extended = []
        for candidate in beam:
            if is_finished(candidate.tokens):
                extended.append(candidate)  # stays, as long as it is among the best
                continue
            tokens, log_p = candidate
            for token, p in enumerate(next_probs(tokens)):
                extended.append(Candidate(tokens + [token], log_p + log(p)))
        extended.sort(key=lambda candidate: candidate.log_prob, reverse=True)
        beam = extended[:width]
    return beam[0].tokens


def exact_search(next_probs, prompt, start):
    """The most probable of all texts that continue the prompt (after Stahlberg & Byrne 2019).

    `start` is any finished text, here that of beam search. It is the first one to be beaten. More
    tokens only make a candidate less probable. So a candidate is dropped if it is no more probable
    than the best finished text so far. With 27 tokens and short names this is quick, but not with
    50,000 tokens and the texts of a large model.

    The result often ends right after the prompt: for 56 of 100 prompts. This is mainly an error of
    the model, which makes this end too probable (show_ends() prints how much). Suppose that it were
    as probable as among the names of the list with the same beginning, and all other texts as
    probable as they are. Then it would be the most probable one for only 4 of the 100 prompts. A
    beam of 8 never finds this end, because as a next token it has a rank from 10 to 26, and is
    dropped in the first step. A beam of 27 keeps every first token.
    """
    best = Candidate(start, log_prob(next_probs, start, len(prompt)))
    waiting = [Candidate(list(prompt), 0.0)]  # the last one is looked at next
    while waiting:
        candidate = waiting.pop()
        if candidate.log_prob <= best.log_prob:
            continue
        if is_finished(candidate.tokens):
            best = candidate
            continue
        tokens, log_p = candidate
        probs = next_probs(tokens)
        for token in reversed(ranking(probs)):  # pop() takes the last one: the most probable
            waiting.append(Candidate(tokens + [token], log_p + log(probs[token])))
    return best.tokens


# === SPECULATIVE GREEDY: what greedy writes, in fewer calls of the large model ===
#
# A real implementation of a transformer passes all tokens of a text through each layer together. So
# one call tells, for each position, what may follow there. Whoever writes token by token uses only
# the last of these answers. But suppose that the next few tokens are drafted already. Then one call
# over the text and the drafted tokens tells, for each of these, which token the model itself would
# have put there. On a GPU, such a call takes about as long as one for a single token, because with
# a small batch most of the time goes into reading the model from memory (Chen et al. 2023).
#
# A smaller model drafts the tokens, because its calls cost less. However bad they are, the text
# comes out right. The better they are, the fewer calls of the target are needed.

# What a call of the target has done: the tokens that were drafted for it, how many of these were
# accepted, and all tokens that it has added to the text.
Call = collections.namedtuple("Call", "drafted accepted written")


def call_target(target, tokens, drafted):
    """One call of the target: its distributions for the places of all drafted tokens and one more.

    Element i judges drafted[i]. The last one is for one token more, behind all of them. As gpt()
    reads one token at a time, what counts as one call is written as several questions here.
    """
    return [target(tokens + drafted[:i]) for i in range(len(drafted) + 1)]


def speculative_greedy(target, draft, prompt, gamma):
    """The text of greedy(target, prompt), and the list of the calls of the target that it took.

    target and draft are the next_probs of two models with the same vocabulary. At most gamma
    tokens are drafted for each call.
    """
    tokens = list(prompt)
    calls = []
    while not is_finished(tokens):
        # 1. The draft model writes tokens, as greedy() does.
        drafted = []
        while len(drafted) < gamma and not is_finished(tokens + drafted):
            probs = draft(tokens + drafted)
            drafted.append(most_probable(probs))

        # 2. One call of the target: own[i] is the token that it takes in the place of drafted[i].
        own = [most_probable(probs) for probs in call_target(target, tokens, drafted)]

        # 3. Accept the drafted tokens before the first one that the target would not have taken.
        # Those behind it are of no use, because they continue a text that is not written.
        accepted = 0
        while accepted < len(drafted) and drafted[accepted] == own[accepted]:
            accepted += 1

        # 4. Unless the accepted tokens end the text, add own[accepted], the target's token for the
        # place behind them. It replaces the rejected token, or follows if all were accepted.
        written = drafted[:accepted]
        if not is_finished(tokens + written):
            written.append(own[accepted])
        tokens += written
        calls.append(Call(drafted, accepted, written))
    return tokens, calls


# === SPECULATIVE SAMPLING: a token drawn from q becomes a token drawn from p ===
#
# If the target draws its tokens, there is not one right token to compare a drafted one with. Let q
# be the distribution of the draft model, from which the token x was drawn, and p that of the target
# for the same place. x has to become a token that is distributed like p. Where q(x) > p(x), x is
# drafted too often. So such an x is accepted only with the probability p(x) / q(x), and any other
# x always. What was rejected is replaced by tokens that are drafted too rarely. Let kept(x) be the
# probability that x is drafted and accepted. Then the replacements have to add short(x) = p(x) -
# kept(x), so they are drawn in proportion to short(x). An example:
#
#     x     p(x)  q(x)  accepted with       kept(x)               short(x)    replaced by x with
#     a     0.4   0.3   1                   0.3                   0.1         0.1 / 0.4 = 0.25
#     b     0.2   0.6   0.2 / 0.6 = 0.333   0.6 * 0.333 = 0.2     0           0
#     c     0.4   0.1   1                   0.1                   0.3         0.3 / 0.4 = 0.75
#     sum   1     1                         0.6                   0.4         1
#
# 0.6 of the tokens are kept, and 0.4 are replaced. So a comes out with 0.3 + 0.4 * 0.25 = 0.4, b
# with 0.2 + 0.4 * 0 = 0.2, and c with 0.1 + 0.4 * 0.75 = 0.4. This is p.
#
# It is always so (Leviathan et al. 2023, appendix A.1). For any token x:
#
#     kept(x) = q(x) * min(1, p(x) / q(x)) = min(q(x), p(x))
#     short(x) = p(x) - kept(x) = max(0, p(x) - q(x))
#
# Let R be the probability that a token is rejected, 0.4 above. As q and p both sum to 1,
#
#     R = (sum of all q(x)) - (sum of all kept(x)) = 1 - (sum of all kept(x))
#     sum of all short(x) = (sum of all p(x)) - (sum of all kept(x)) = R
#
# So the replacement can be drawn with the probabilities short(x) / R, and x comes out with
#
#     kept(x) + R * short(x) / R = kept(x) + short(x) = p(x)
#
# If the replacement were drawn from p, b would come out too often: 0.2 + 0.4 * 0.2 = 0.28.


def acceptance(x, q, p):
    """The probability to accept a token x that was drawn from q: min(1, p(x) / q(x))."""
    return min(1.0, p[x] / q[x])


def residual(q, p):
    """The distribution of the replacement: short(x) = max(0, p(x) - q(x)), rescaled to sum to 1.

    It is needed only if a token was rejected. For that one, p < q. As p and q both sum to 1, some
    other token has p > q. So `short` is not 0 everywhere, and can be rescaled.
    """
    short = [max(0.0, p_x - q_x) for p_x, q_x in zip(p, q)]
    return rescale(short)


def accept_or_replace(x, q, p):
    """Turn x, drawn from q, into a token distributed like p: (token, whether x was accepted)."""
    if random.random() < acceptance(x, q, p):
        return x, True
    return draw(residual(q, p)), False


def speculative_sampling(target, draft, prompt, gamma):
    """A text with the distribution of sampling(target, prompt, unchanged), and the target's calls.

    Accepting or replacing a drafted token writes a token with the distribution p, given the text so
    far. An added token is drawn from p. So the probability of a text is the product p(first) *
    p(second | first) * ..., as if the target had drawn it. For another kind of sampling, let target
    and draft return changed probabilities.
    """
    tokens = list(prompt)
    calls = []
    while not is_finished(tokens):
        # 1. The draft model draws tokens. qs[i] is the distribution that drafted[i] was drawn from.
        drafted = []
        qs = []
        while len(drafted) < gamma and not is_finished(tokens + drafted):
            qs.append(draft(tokens + drafted))
            drafted.append(draw(qs[-1]))

        # 2. One call of the target: ps[i] is its distribution for the place of drafted[i].
        ps = call_target(target, tokens, drafted)

        # 3. Accept the drafted tokens before the first rejected one, and replace that one. Those
        # behind it are of no use, because they were drafted and judged as if it were still there.
        accepted = 0
        written = []
        for i, x in enumerate(drafted):
            token, is_accepted = accept_or_replace(x, qs[i], ps[i])
            written.append(token)
            if not is_accepted:
                break
            accepted += 1

        # 4. If all were accepted and have not ended the text, add a token in the place behind them.
        # Nothing was drafted there, so it is drawn from the target's distribution directly.
        if accepted == len(drafted) and not is_finished(tokens + written):
            written.append(draw(ps[-1]))
        tokens += written
        calls.append(Call(drafted, accepted, written))
    return tokens, calls


# === THE MODELS: a GPT that answers the question ===
class Reader:
    """A GPT of floats that can be asked about any text, and remembers what it has answered.

    gpt() reads one token at a time, and needs the cache of the tokens before. A Reader keeps the
    cache of every text. So for a text that is one token longer, gpt() reads only this token. A
    production system keeps the caches of open texts only, and removes rejected tokens from them.
    """

    def __init__(self, model):
        self.model = model
        self.known = {}  # {tokens of a text: (probabilities of the next token, cache)}

    def next_probs(self, tokens):
        """The probability of every token to follow these tokens, [vocab_size]."""
        probs, _ = self.read(tuple(tokens))
        return probs

    def read(self, text):
        """Read a text, a tuple of tokens. Returns (probabilities of the next token, cache)."""
        if text not in self.known:
            cache = {}
            if len(text) > 1:
                _, shared = self.read(text[:-1])
                # gpt() will append to these lists. Other texts that begin in the same way need
                # them as they are, so this text gets copies.
                for layer, (keys, values) in shared.items():
                    cache[layer] = (list(keys), list(values))
            logits = gpt(self.model, text[-1], len(text) - 1, cache)
            self.known[text] = (softmax(logits), cache)
        return self.known[text]


def train_model(title, n_embd, names, chars):
    """Train a GPT of this width on the first names, show the progress, and return it in floats."""
    print(f"\nTraining the {title} on {num_steps} names:")
    model = as_values(init_model(len(chars) + 1, n_embd))
    show_training(train(model, names, chars), num_steps)
    return as_floats(model)


def heldout_names(names):
    """All names that are not among the first num_steps, which are for training. Each comes once."""
    trained = set(names[:num_steps])
    return [name for name in dict.fromkeys(names) if name not in trained]


def make_prompts(names, chars):
    """Prompts: a boundary and the first letters of each name. Each prompt occurs once."""
    different = dict.fromkeys(name[:prompt_letters] for name in names)
    return [encode(letters, chars)[:-1] for letters in different]  # without the final boundary


def ways_to_change():
    """The ways to change probabilities before drawing: {title: function for sampling()}."""
    return {
        "plain": unchanged,
        "temperature": lambda probs: with_temperature(probs, temperature),
        "top-k": lambda probs: top_k(probs, kept_tokens),
        "top-p": lambda probs: top_p(probs, kept_probability),
    }


def write_all(next_probs, prompts):
    """The texts of every strategy that needs one model: {title: texts}.

    Strategies that draw go through all prompts `repeats` times, and the others once.
    """
    texts = {"greedy": [greedy(next_probs, prompt) for prompt in prompts]}
    for title, change in ways_to_change().items():
        texts[title] = [sampling(next_probs, prompt, change) for prompt in prompts * repeats]
    for width in beam_widths:
        texts[f"beam {width}"] = [beam_search(next_probs, prompt, width) for prompt in prompts]
    widest = texts[f"beam {max(beam_widths)}"]
    pairs = zip(prompts, widest, strict=True)
    texts["exact"] = [exact_search(next_probs, prompt, text) for prompt, text in pairs]
    return texts


def speculate_all(target, draft, prompts):
    """{gamma: [(tokens, calls) for each prompt]} of speculative_sampling()."""
    results = {}
    for gamma in gammas:
        results[gamma] = [speculative_sampling(target, draft, prompt, gamma) for prompt in prompts]
    return results


# === HOW GOOD IS IT: how probable, how different, how real, and in how many calls ===
def count_params(model):
    """How many numbers a model has."""
    return sum(len(matrix) * len(matrix[0]) for matrix in model.values())


def heldout_loss(model, names, chars):
    """The mean of name_loss() over num_heldout names that no training step has seen."""
    return mean([name_loss(model, encode(name, chars)) for name in names[:num_heldout]])


def log_probs_of(next_probs, texts):
    """log_prob() of each text, given its prompt: a boundary and prompt_letters letters."""
    return [log_prob(next_probs, tokens, prompt_letters + 1) for tokens in texts]


def count_below(log_probs, greedy_log_probs):
    """How many texts are less probable than the greedy text of their prompt."""
    # Strategies that draw went through all n prompts several times, so text i is of prompt i % n.
    n = len(greedy_log_probs)
    return [x < greedy_log_probs[i % n] for i, x in enumerate(log_probs)].count(True)


def empty_share(texts):
    """The share of texts that end at once: a boundary, the letters of the prompt, a boundary."""
    return mean([len(tokens) == prompt_letters + 2 for tokens in texts])


def end_rates(next_probs, names, prompts, chars):
    """How often a name ends right after a prompt: (by the model, in the list of names).

    Both are means over the prompts. A prompt counts as often as names of the list begin with it, so
    that a prompt of a single name does not weigh as much as one of hundreds.
    """
    by_model = 0.0
    in_list = 0
    total = 0
    for prompt in prompts:
        letters = spell(prompt, chars)
        starting_so = [name for name in names if name.startswith(letters)]
        by_model += len(starting_so) * next_probs(prompt)[prompt[0]]  # prompt[0] is a boundary
        in_list += starting_so.count(letters)
        total += len(starting_so)
    return by_model / total, in_list / total


def different_per_prompt(texts, prompts):
    """How many different texts there are per prompt. greedy() always has 1.

    A text contains its prompt, and all prompts differ. So texts of two prompts are never equal.
    """
    different = {tuple(tokens) for tokens in texts}
    return len(different) / len(prompts)


def real_share(texts, names, chars):
    """The share of texts that are names of the list and longer than their prompt."""
    known_names = {name for name in names if len(name) > prompt_letters}
    return mean([spell(tokens, chars) in known_names for tokens in texts])


Savings = collections.namedtuple("Savings", "drafts per_drafted per_examined tokens_per_call gain")


def savings_of(results, cost):
    """What speculative decoding saves, from [(tokens, calls)] of several prompts. Returns Savings.

    A call of the target costs 1, and a call of the draft model costs `cost`. The gain is the number
    of tokens written / cost of all calls of both models. Without drafts it would be 1. It is below
    1 where too few tokens are accepted. Other random draws change it by up to 0.03.

    Tokens behind a rejected one are not examined. So per_examined estimates the acceptance rate a
    of Leviathan et al. (2023). They assume that all tokens are accepted with this rate, whatever
    came before, and that texts have no end. Then a call writes 1 + a + ... + a**gamma tokens (their
    equation 1). Names do end, and their ends are accepted more often than other tokens. Without
    ends, a was 0.88 with gamma = 4. The formula gives 3.93, and 3.96 were counted. (This was
    measured outside this run.)
    """
    num_calls = 0
    drafted = 0
    examined = 0
    accepted = 0
    written = 0
    for _, calls in results:
        for call in calls:
            num_calls += 1
            drafted += len(call.drafted)
            # If fewer are accepted than drafted, one more was examined: the first rejected one.
            examined += min(call.accepted + 1, len(call.drafted))
            accepted += call.accepted
            written += len(call.written)
    return Savings(
        drafts=drafted / num_calls,
        per_drafted=accepted / drafted,
        per_examined=accepted / examined,
        tokens_per_call=written / num_calls,
        gain=written / (num_calls + cost * drafted),
    )


def distance(p, q):
    """How different two distributions are: half the sum of all |p(x) - q(x)|, between 0 and 1.

    It is called the total variation. As both sum to 1, p exceeds q in some places by as much as q
    exceeds p in others. Each of these is half of the sum. If q drafts for p, it is the share of
    drafted tokens that are rejected: the R above.
    """
    return 0.5 * math.fsum(abs(p_x - q_x) for p_x, q_x in zip(p, q))


def most_different(target, draft, prompts):
    """The prompt after which the models differ most."""
    return max(prompts, key=lambda prompt: distance(target(prompt), draft(prompt)))


def shares(tokens, vocab_size):
    """How often each token is among these tokens, as shares [vocab_size]."""
    counts = collections.Counter(tokens)
    return [counts[token] / len(tokens) for token in range(vocab_size)]


def speculated_shares(q, p, n):
    """The shares [vocab_size] of n tokens that were drawn from q, and accepted or replaced."""
    pairs = [accept_or_replace(draw(q), q, p) for _ in range(n)]
    return shares([token for token, _ in pairs], len(p))


def direct_shares(p, n):
    """The shares [vocab_size] of n tokens that were drawn from p. They differ from p by chance."""
    return shares([draw(p) for _ in range(n)], len(p))


def blind(tokens):
    """A next_probs to draft for tiny_tree() without any knowledge: all tokens are equal."""
    return [1 / 6] * 6


def text_shares(speculations):
    """{title: shares of the texts of tiny_probs, in its order}, from results of speculate_all()."""
    found = {}
    for gamma, results in speculations.items():
        counts = collections.Counter(spell(tokens, "abcde") for tokens, _ in results)
        found[f"gamma {gamma}"] = [counts[letters] / len(results) for letters in tiny_probs]
    return found


def text_distance(drawn_shares):
    """How far shares of the texts, in the order of tiny_probs, are from their probabilities."""
    return distance(tiny_probs.values(), drawn_shares)


# === CHECKS: to check the run, not to learn from ===
def is_valid(tokens, prompt, vocab_size):
    """Whether a text consists of tokens, continues the prompt, and ends where it has to."""
    continues = tokens[: len(prompt)] == prompt and set(tokens) <= set(range(vocab_size))
    return continues and is_finished(tokens) and not is_finished(tokens[:-1])


def count_invalid(texts, drawn, prompts, vocab_size):
    """How many texts are not valid, of {title: texts} and of the results of speculate_all()."""
    written = list(itertools.chain(*texts.values()))
    for results in drawn.values():
        written += [tokens for tokens, _ in results]
    n = len(prompts)  # text i belongs to prompt i % n, as in count_below()
    valid = [is_valid(tokens, prompts[i % n], vocab_size) for i, tokens in enumerate(written)]
    return valid.count(False)


def count_changed(results, greedy_texts):
    """How many texts of [(tokens, calls)] are not the greedy text of their prompt."""
    pairs = zip(results, greedy_texts, strict=True)
    return [tokens == expected for (tokens, _), expected in pairs].count(False)


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)
    show_tiny_tree()
    show_tiny_draft()
    # Two models, trained on the same names. Prompts will be the first letters of held-out names.
    names = load_names()
    random.shuffle(names)
    chars = sorted(set("".join(names)))
    heldout = heldout_names(names)
    target_model = train_model("target", target_embd, names, chars)
    draft_model = train_model("draft model", draft_embd, names, chars)
    show_models({"target": target_model, "draft model": draft_model}, heldout, chars)
    target = Reader(target_model).next_probs
    draft = Reader(draft_model).next_probs

    # What does each strategy make of the same prompts? What would be the most probable text?
    prompts = make_prompts(heldout, chars)[:num_prompts]
    show_changes(target(prompts[0]), prompts[0], chars)
    texts = write_all(target, prompts)
    log_probs = {title: log_probs_of(target, texts[title]) for title in texts}
    beam = f"beam {main_width}"
    show_strategies(texts, log_probs, prompts, names, chars)
    show_ends(*end_rates(target, names, prompts, chars))

    # How many calls of the target does speculative decoding save? Are the texts still the same?
    greedily = [speculative_greedy(target, draft, prompt, main_gamma) for prompt in prompts]
    drawn = speculate_all(target, draft, prompts * repeats)
    cost = count_params(draft_model) / count_params(target_model)
    show_calls(drawn[main_gamma][:4], prompts, chars)
    show_savings({"greedy": {main_gamma: greedily}, "sampling": drawn}, cost)
    savings = savings_of(drawn[main_gamma], cost)

    # Does a token drawn from q become one drawn from p? Look where p and q differ most.
    prompt = most_different(target, draft, prompts)
    p = target(prompt)
    q = draft(prompt)
    speculated = speculated_shares(q, p, num_draws)
    show_distributions(p, q, speculated, direct_shares(p, num_draws), prompt, chars)
    # Are whole texts as probable as tiny_tree() says? 20000 direct draws are about 0.005 off.
    tiny = text_shares(speculate_all(tiny_tree, blind, [tiny_prompt] * num_draws))
    show_tiny_texts(tiny)
    print_results(
        [
            ("invalid_texts", count_invalid(texts, drawn, prompts, len(p)), "== 0"),
            ("greedy_log_prob", mean(log_probs["greedy"]), ""),
            ("beam_log_prob", mean(log_probs[beam]), f"> {mean(log_probs['greedy']) + 0.1:.4f}"),
            ("beam_losses", count_below(log_probs[beam], log_probs["greedy"]), ""),
            ("empty_is_best_share", empty_share(texts["exact"]), "> 0.3"),
            ("top_k_different", different_per_prompt(texts["top-k"], prompts), "> 2"),
            ("top_p_different", different_per_prompt(texts["top-p"], prompts), "> 2"),
            ("speculative_changes", count_changed(greedily, texts["greedy"]), "== 0"),
            ("accepted_per_drafted", savings.per_drafted, "> 0.5"),
            ("tokens_per_target_call", savings.tokens_per_call, "> 1.5"),
            ("draft_distance", distance(p, q), "> 0.05"),
            ("speculative_distance", distance(p, speculated), "< 0.03"),
            ("text_distance", max(map(text_distance, tiny.values())), "< 0.015"),
            ("runtime_seconds", time.perf_counter() - started, "< 420"),
        ]
    )


# === DRAWING: nothing below is needed to understand the algorithm ===
def letters_of(tokens, chars):
    """Tokens as letters, with a dot for the boundary."""
    return "".join(chars[token] if token < len(chars) else "." for token in tokens)


def show_tiny_tree():
    """Print where greedy() loses and beam_search() wins, in the model of tiny_tree()."""
    print("A model made by hand writes two letters. Its best first letter is a trap:")
    found = {"greedy": greedy(tiny_tree, tiny_prompt)}
    found["a beam of 2"] = beam_search(tiny_tree, tiny_prompt, 2)
    for title, tokens in found.items():
        first = tiny_tree(tokens[:1])[tokens[1]]
        second = tiny_tree(tokens[:2])[tokens[2]]
        text = spell(tokens, "abcde")
        print(f"{title:<12} finds {text}   {first:.1f} * {second:.1f} = {first * second:.2f}")


def show_tiny_draft():
    """Print the example of speculative sampling, with one token accepted and one rejected."""
    letters = "abc"
    p = [0.4, 0.2, 0.4]
    q = [0.3, 0.6, 0.1]
    replacement = residual(q, p)
    print("\nA token drawn from q (draft model) becomes a token drawn from p (target):")
    print(f"For a, b and c, p is {p} and q is {q}.")
    number = 0.7  # given here, where accept_or_replace() would draw it
    for x in (2, 1):
        ratio = f"{p[x]} / {q[x]} = {p[x] / q[x]:.3f}"
        print(f"Draft {letters[x]}: p / q = {ratio}, random number {number}.")
        if number < acceptance(x, q, p):
            print("  The number is smaller: accepted.")
        else:
            others = [f"{letters[y]} with {replacement[y]:.2f}" for y in (0, 2)]
            print(f"  The number is larger: rejected, and replaced by {' or '.join(others)}.")


def show_models(models, heldout, chars):
    """Print the size of each model, and how well it predicts names that it has not seen."""
    print()
    for title, model in models.items():
        loss = heldout_loss(model, heldout, chars)
        print(f"The {title} has {count_params(model)} parameters. Its held-out loss is {loss:.4f}.")


def show_changes(probs, prompt, chars):
    """Print what each way of choosing makes of the same probabilities, in percent."""
    name = spell(prompt, chars)
    print(f"\nThe token after '{name}', in percent. A - is exactly 0. Others are all that remain.")
    print(f"(The temperature is {temperature}, k is {kept_tokens}, and p is {kept_probability}.)")
    columns = ranking(probs)[:12]
    others = ranking(probs)[12:]
    rows = {"greedy": keep(probs, [most_probable(probs)])}
    for title, change in ways_to_change().items():
        rows[title] = change(probs)
    print(f"{'':16}" + "".join(f"{letters_of([x], chars):>4}" for x in columns) + "  others")
    for title, changed in rows.items():
        cells = "".join(f"{100 * changed[x]:4.0f}" if changed[x] else "   -" for x in columns)
        print(f"{title:<16}{cells}{100 * math.fsum(changed[x] for x in others):8.0f}")


def show_strategies(texts, log_probs, prompts, names, chars):
    """Print a line for each strategy, with its texts for the first four prompts."""
    print(f"\n{len(prompts)} prompts of {prompt_letters} letters, each of them completed")
    print(f"once by greedy and by search, and {repeats} times by strategies that draw:")
    print("log-prob   mean of log p(text | prompt) in the target: how probable, not how good")
    print("below      share of texts that are less probable than the greedy one")
    print(f"different  different texts per prompt: at most {repeats} if they are drawn, else 1")
    print("real       share of texts that are names of the list and longer than the prompt")
    print("ends       share of texts that end at once, right after the prompt")
    print("The settings of temperature, top-k and top-p are not matched: this does not rank them.")
    print("strategy     log-prob  below  different   real   ends   texts for the first prompts")
    for title, written in texts.items():
        below = count_below(log_probs[title], log_probs["greedy"]) / len(written)
        examples = " ".join(spell(tokens, chars) for tokens in written[:4])
        print(
            f"{title:<13}{mean(log_probs[title]):8.2f}{below:7.2f}"
            f"{different_per_prompt(written, prompts):11.2f}"
            f"{real_share(written, names, chars):7.2f}{empty_share(written):7.2f}   {examples}"
        )


def show_ends(by_model, in_list):
    """Print how much too probable the end is right after a prompt."""
    print(f"Of the names with these beginnings, {100 * in_list:.2f} % end right after them.")
    print(f"The target gives this end {100 * by_model:.2f} %, averaged over the same names.")


def show_calls(results, prompts, chars):
    """Print the calls of the target for some results of speculative_sampling()."""
    print(f"\nSpeculative sampling for the first prompts, gamma {main_gamma}, one line per call.")
    print("The target adds a token in place of the first rejected one, or behind all of them if")
    print("they were accepted and have not ended the name. A dot is the end.")
    print("text so far  drafted  accepted  added by the target")
    for (_, calls), prompt in zip(results, prompts):
        text = spell(prompt, chars)
        for call in calls:
            drafted = letters_of(call.drafted, chars)
            written = letters_of(call.written, chars)
            accepted = written[: call.accepted] or "-"
            added = written[call.accepted :] or "-"
            print(f"{text:<13}{drafted:<9}{accepted:<10}{added}")
            text += written


def show_savings(speculations, cost):
    """Print how much is accepted and saved, for each strategy and gamma."""
    ratio = f"{cost:.4f}"
    print("\nWhat speculation saves. In a call of the target, it examines drafted tokens until one")
    print("is rejected. A call has fewer drafts than gamma if these end the name. No decoding is")
    print("timed. Assume that a call of the target costs 1, for one token or a few, and a call of")
    print(f"the draft model {ratio}, the ratio of their parameters. Then the gain is tokens/call /")
    print(f"(1 + {ratio} * drafts/call). Without drafts it would be 1. Much is accepted, because")
    print("both models have learned the same names, and the larger one hardly more of them.")
    print("strategy  gamma  drafts/call  accepted/drafted  accepted/examined  tokens/call  gain")
    for title, by_gamma in speculations.items():
        for gamma, results in by_gamma.items():
            row = savings_of(results, cost)
            accepted = f"{row.per_drafted:18.2f}{row.per_examined:19.2f}"
            saved = f"{row.tokens_per_call:13.2f}{row.gain:6.2f}"
            print(f"{title:<10}{gamma:5d}{row.drafts:13.2f}{accepted}{saved}")


def show_distributions(p, q, speculated, direct, prompt, chars):
    """Print distributions of one token side by side, for the tokens that are most probable in p."""
    name = spell(prompt, chars)
    print(f"\nOf all prompts, the models differ most after '{name}'. Here are p and q of the next")
    print(f"token, and two samples of {num_draws} tokens. One was drawn from q and accepted or")
    print("replaced, the other was drawn from p.")
    columns = {"p (target)": p, "q (draft model)": q}
    columns["accepted or replaced"] = speculated
    columns["drawn from p"] = direct
    print("   " + "".join(f"{title:<24}" for title in columns).rstrip())
    for token in ranking(p)[:8]:
        bars = [f"{x[token]:.3f} {'*' * round(60 * x[token])}" for x in columns.values()]
        print(f"{letters_of([token], chars)}  " + "".join(f"{bar:<24}" for bar in bars).rstrip())
    print("Distance from p. The last one is what chance alone makes in one sample:")
    print("   " + "".join(f"{distance(p, x):<24.4f}" for x in columns.values()).rstrip())


def show_tiny_texts(tiny):
    """Print how probable each text of tiny_tree() is, and how often it was drawn."""
    print("\nSpeculative sampling with the model made by hand as the target. The draft model gives")
    print(f"all tokens the same probability. {num_draws} texts per gamma, in shares:")
    print("text  probability" + "".join(f"{title:>10}" for title in tiny))
    for i, (letters, p) in enumerate(tiny_probs.items()):
        print(f"{letters}{p:15.3f}" + "".join(f"{x[i]:10.3f}" for x in tiny.values()))
    print(f"{'distance':<17}" + "".join(f"{text_distance(x):10.4f}" for x in tiny.values()))


# === REPEATED from microgpt.py, word for word ===
def encode(name, chars):
    """The tokens of a name: the numbers of its letters, with a boundary in front and behind.

    The token of a letter is its place in chars, and the boundary is the number after the last of
    them. With chars a to z, "anna" becomes

        [26, 0, 13, 13, 0, 26]        boundary a n n a boundary

    Raises ValueError if a letter of the name is not in chars.
    """
    boundary = len(chars)
    return [boundary, *[chars.index(letter) for letter in name], boundary]


def spell(tokens, chars):
    """The letters of the tokens, without boundaries: [26, 0, 13, 13, 0, 26] -> "anna"."""
    return "".join(chars[token] for token in tokens if token < len(chars))


class Value:
    """A number, the numbers it was computed from, and how strongly it depends on each of them.

    Take loss = (a * b + a) ** 2 with a = 2 and b = 3. Every operation makes a new Value. (Below,
    "the gradient by a" means the gradient with respect to a.)

        product = a * b = 6        total = product + a = 8        loss = total ** 2 = 64

    Each of them keeps its inputs, and the derivative of its own operation by each input. These are
    called local gradients:

        product: by a it is b = 3, by b it is a = 2
        total: by product it is 1, by a it is 1
        loss: by total it is 2 * total = 16

    The Values and their inputs form a graph. backward() goes through it from the loss back to a and
    b, and combines the local gradients by the chain rule.
    """

    __slots__ = ("data", "grad", "_inputs", "_local_grads", "_order")
    _created = itertools.count()

    def __init__(self, data, inputs=(), local_grads=()):
        self.data = data  # the number itself
        self.grad = 0.0  # d(loss)/d(self), once loss.backward() has been called
        self._inputs = inputs  # the Values that it was computed from
        self._local_grads = local_grads  # d(self)/d(input), a float for each input
        self._order = next(Value._created)  # 0 for the first Value ever made, then 1, 2, ...

    def __add__(self, other):
        # d(a + b)/da = 1        d(a + b)/db = 1
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other):
        # d(a * b)/da = b        d(a * b)/db = a
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, k):
        # d(a ** k)/da = k * a ** (k - 1)        k is a plain number
        local_grad = k * self.data ** (k - 1)
        result = math.pow(self.data, k)  # like **, but an error where ** gives a complex number
        return Value(result, (self,), (local_grad,))

    def exp(self):
        # d(exp(a))/da = exp(a)
        result = math.exp(self.data)
        return Value(result, (self,), (result,))

    def log(self):
        # d(log(a))/da = 1 / a        a is a probability; log(0) does not exist, so a < 1e-10 counts
        # as 1e-10
        clipped = max(self.data, 1e-10)
        return Value(math.log(clipped), (self,), (1 / clipped,))

    def tanh(self):
        # d(tanh(a))/da = 1 - tanh(a) ** 2
        result = math.tanh(self.data)
        return Value(result, (self,), (1 - result * result,))

    def relu(self):
        # d(relu(a))/da = 1 if a > 0, else 0
        local_grad = 1.0 if self.data > 0 else 0.0
        return Value(max(0.0, self.data), (self,), (local_grad,))

    # The other operators are made of those above. The ones that start with r are for a plain
    # number on the left: 2.0 - a calls a.__rsub__(2.0).
    def __neg__(self):
        return self * -1.0

    def __sub__(self, other):
        return self + -other

    def __truediv__(self, other):
        return self * other**-1

    def __radd__(self, other):
        return self + other

    def __rmul__(self, other):
        return self * other

    def __rsub__(self, other):
        return -self + other

    def __rtruediv__(self, other):
        return self**-1 * other

    def __rpow__(self, base):
        # base ** a = exp(a * log(base))
        return (self * math.log(base)).exp()

    def backward(self):
        """Add d(self)/d(x) to x.grad, for every Value x that self was computed from.

        The chain rule: if x is an input of several nodes of the graph, each of them contributes its
        own gradient times its local gradient by x. In the example of the class, a is an input of
        product and of total:

            total.grad = 16        product.grad = 16 * 1 = 16
            a.grad = 16 * 3 (by way of product) + 16 * 1 (by way of total) = 64

        The graph is used up: a second backward() through a part of it raises AttributeError.
        """
        # Collect self and the Values that it was computed from. The list grows while the loop walks
        # along it. A Value without inputs, such as a parameter, passes nothing on. So it is not in
        # the list, but it gets its gradient like all others.
        nodes = [self]
        seen = {self}
        for node in nodes:
            for x in node._inputs:
                if x._inputs and x not in seen:
                    seen.add(x)
                    nodes.append(x)
        # A node may pass its gradient on only when the gradient is complete, which means that all
        # that was computed from the node has passed its own gradient on. What was computed from a
        # node is newer than the node. So the newest goes first: loss, then total, then product.
        nodes.sort(key=lambda node: node._order, reverse=True)
        self.grad = 1.0  # d(self)/d(self)
        for node in nodes:
            for x, local_grad in zip(node._inputs, node._local_grads):
                x.grad += node.grad * local_grad
            del node._inputs, node._local_grads  # frees their memory, as they are not needed again


# --- AUTOGRAD DIFFERENCES IN THIS SCRIPT ---
# None. This is the engine of microgpt and of docs/autograd-interface.md.


# Training needs Values. A trained model only has to be asked, and needs no gradient: its numbers
# are floats, which is much faster. The functions below take both.
def exp(x):
    """e to the power of x, a Value or a float."""
    return x.exp() if isinstance(x, Value) else math.exp(x)


def log(x):
    """The natural logarithm of a probability, a Value or a float. x < 1e-10 counts as 1e-10."""
    return x.log() if isinstance(x, Value) else math.log(max(x, 1e-10))


def relu(x):
    """x if it is positive, else 0. x is a Value or a float."""
    return x.relu() if isinstance(x, Value) else max(0.0, x)


def floats(xs):
    """The numbers in a list of Values, without their history. A list of floats stays as it is."""
    if xs and isinstance(xs[0], Value):
        return [x.data for x in xs]
    return xs


def dot(a, b):
    """a[0] * b[0] + a[1] * b[1] + ..., as one node of the graph.

    Networks consist mostly of dot products. With 16 numbers in a and b, * and + would make 31
    nodes, which all have to be created and walked through. One node is enough, because the
    derivatives are known. With s = dot(a, b):

        ds/da[i] = b[i]        ds/db[i] = a[i]

    Tensor libraries go further in the same direction: there, a whole matrix product is one node.

    a and b are each a list of Values or a list of floats. They may be the same list: then each
    element is an input twice, and backward() adds up both contributions. The result is a Value if
    one of them holds Values, else a float. Raises ValueError if the lengths differ.
    """
    xs = floats(a)
    ys = floats(b)
    total = 0.0  # in a loop, because the built-in sum() rounds differently from Python 3.12 on
    for x, y in zip(xs, ys, strict=True):
        total += x * y
    inputs = []
    local_grads = []
    if a and isinstance(a[0], Value):
        inputs += a
        local_grads += ys
    if b and isinstance(b[0], Value):
        inputs += b
        local_grads += xs
    return Value(total, inputs, local_grads) if inputs else total


def init_model(vocab_size, n_embd):
    """The parameters {name: matrix}, random floats near 0. A matrix is a list of rows.

        wte      [vocab_size][n_embd]    token embedding: one vector per token
        wpe      [block_size][n_embd]    position embedding: one vector per position
        lm_head  [vocab_size][n_embd]    from the final vector to one score per token
        attn_wq, attn_wk, attn_wv, attn_wo  [n_embd][n_embd]       query, key, value, output
        mlp_fc1  [4 * n_embd][n_embd]    the two matrices of the MLP
        mlp_fc2  [n_embd][4 * n_embd]

    The last six exist once per layer. MLP is short for multi-layer perceptron. A matrix of shape
    [n_out][n_in] takes a vector of n_in numbers to one of n_out. The numbers are drawn from a
    Gaussian with standard deviation 0.08, in the order of Karpathy's microgpt. (The width n_embd is
    an argument, because other scripts make models of several widths.)
    """
    shapes = {
        "wte": (vocab_size, n_embd),
        "wpe": (block_size, n_embd),
        "lm_head": (vocab_size, n_embd),
    }
    for layer in range(n_layer):
        shapes[f"layer{layer}.attn_wq"] = (n_embd, n_embd)
        shapes[f"layer{layer}.attn_wk"] = (n_embd, n_embd)
        shapes[f"layer{layer}.attn_wv"] = (n_embd, n_embd)
        shapes[f"layer{layer}.attn_wo"] = (n_embd, n_embd)
        shapes[f"layer{layer}.mlp_fc1"] = (4 * n_embd, n_embd)
        shapes[f"layer{layer}.mlp_fc2"] = (n_embd, 4 * n_embd)
    model = {}
    for name, (rows, columns) in shapes.items():
        model[name] = [[random.gauss(0, 0.08) for _ in range(columns)] for _ in range(rows)]
    return model


def as_values(model):
    """A copy of a model in which every number is a Value, so that it can be trained."""
    return {name: [[Value(x) for x in row] for row in matrix] for name, matrix in model.items()}


def as_floats(model):
    """A copy of a model in which every number is a float, so that it is frozen and fast."""
    return {name: [floats(row) for row in matrix] for name, matrix in model.items()}


def linear(x, matrix):
    """Multiply a matrix [n_out][n_in] with a vector x [n_in]. Return [n_out].

    Each row is compared with x: output i is the dot product of row i and x.
    """
    return [dot(row, x) for row in matrix]


def softmax(logits):
    """Turn scores [n] into probabilities [n]: exp(score), divided by the sum of all exp(score).

    The probabilities are positive and sum to 1. Adding the same number to all scores does not
    change them. So the largest score is subtracted first, and exp() never sees a number above 0,
    which could overflow.
    """
    largest = max(floats(logits))
    exps = [exp(x - largest) for x in logits]
    total = dot(exps, [1.0] * len(exps))  # their sum, as one node
    inverse = total**-1
    return [e * inverse for e in exps]


def rmsnorm(x):
    """Rescale a vector [n] so that the mean of its squares is 1 (Zhang & Sennrich 2019, eq. 4).

    However large the numbers of a vector have become, the next part of the model then meets numbers
    around 1. The 1e-5 keeps the division finite if all numbers are 0. The learned factors of the
    paper are left out.
    """
    mean_square = dot(x, x) * (1 / len(x))
    scale = (mean_square + 1e-5) ** -0.5
    return [xi * scale for xi in x]


def attention_weights(q, keys):
    """How much a position reads each position: softmax(q . k / sqrt(d)) over the keys k.

    q [d] is the query of the one that reads, and keys [t][d] has one key for each position up to
    this one. d is the number of numbers that one head of gpt() works with. Returns [t]: one weight
    per position, positive, with sum 1.

    Why sqrt(d): a score is a sum of d products. The more there are, the farther apart the scores
    tend to be, and with large differences softmax gives nearly all weight to one position. The
    division keeps the scores of narrow and wide models alike.
    """
    scores = [dot(q, key) * len(q) ** -0.5 for key in keys]
    return softmax(scores)


def attend(q, keys, values):
    """One attention head at one position: softmax(q K^T / sqrt(d)) V (Vaswani et al. 2017, eq. 1).

    The paper writes it for all positions at once: K and V are the matrices whose rows are the keys
    and the values [t][d]. The result [d] is an average of the values. A position counts the more,
    the better its key matches the query. For example, with two positions and d = 4:

        q . key of the positions    2.2 and 0
        divided by sqrt(4)          1.1 and 0
        softmax                     0.75 and 0.25
        result                      0.75 * value of the first + 0.25 * value of the second
    """
    weights = attention_weights(q, keys)
    result = []
    for i in range(len(values[0])):
        column = [value[i] for value in values]  # [t]: number i of every position
        result.append(dot(weights, column))
    return result


def embed(model, token, position):
    """The vector [n_embd] that a position starts with: which token it has, and where it stands.

    Attention by itself would not know the order of the letters. The position embedding tells it.
    """
    tok_emb = model["wte"][token]
    pos_emb = model["wpe"][position]
    return rmsnorm([t + p for t, p in zip(tok_emb, pos_emb)])


def gpt(model, token, position, cache):
    """The scores (logits) [vocab_size] of what may follow `token`, which stands at `position`.

    The model reads one token per call. Attention also needs the keys and values of the earlier
    positions, so each call keeps those of its own position in `cache`. It is {} at the start of a
    name, then {layer: (keys, values)}, with a list of keys and a list of values, one per position.
    No position can look ahead, because what comes later is not in the lists yet.

    In training the cache holds Values. A later position reads the keys and values of an earlier
    one, so its loss depends on them, and backward() goes back to the earlier position as well.
    """
    x = embed(model, token, position)  # [n_embd]: what this position knows so far
    head_size = len(x) // n_head
    for layer in range(n_layer):
        # Attention: the position collects information from itself and the positions before it. A
        # layer begins with a norm, so that its input has numbers of the usual size.
        h = rmsnorm(x)
        query = linear(h, model[f"layer{layer}.attn_wq"])  # what this position looks for
        key = linear(h, model[f"layer{layer}.attn_wk"])  # what it can be found by
        value = linear(h, model[f"layer{layer}.attn_wv"])  # what it hands over when it is found
        if layer not in cache:
            cache[layer] = ([], [])
        keys, values = cache[layer]
        keys.append(key)
        values.append(value)
        # One head can only make one average of the past. Several heads can look for several things
        # at once. With 16 numbers and four heads, the first head works with the numbers 0 to 3 of
        # every query, key and value, the second with 4 to 7, and so on.
        heads = []
        for start in range(0, len(x), head_size):
            part = slice(start, start + head_size)
            head_keys = [k[part] for k in keys]
            head_values = [v[part] for v in values]
            heads.extend(attend(query[part], head_keys, head_values))
        attended = linear(heads, model[f"layer{layer}.attn_wo"])  # mixes what the heads found
        # x + f(x): a layer adds to x and does not replace it. So what x knew is kept, and gradients
        # have a direct way back to the first layer.
        x = [xi + ai for xi, ai in zip(x, attended)]

        # MLP: attention only averages. Here the position computes something new from what it has
        # collected. Without relu() between them, two matrices could do no more than one.
        h = rmsnorm(x)
        hidden = [relu(u) for u in linear(h, model[f"layer{layer}.mlp_fc1"])]  # [4 * n_embd]
        computed = linear(hidden, model[f"layer{layer}.mlp_fc2"])
        x = [xi + ci for xi, ci in zip(x, computed)]
    return linear(x, model["lm_head"])


def name_loss(model, tokens):
    """The mean of -log p(next token) over one name. It is called cross-entropy.

    The probability of a name is the product of the probabilities of its tokens, each given those
    before. The logarithm of this product is the sum of the logarithms. So when the loss falls, the
    name becomes more probable, and that is what training wants. The loss is 0 if every token was
    predicted with probability 1, and log(27) = 3.30 for a blind guess among 27 tokens. Its unit is
    called nat. A name that is longer than the context loses its end.
    """
    num_predictions = min(block_size, len(tokens) - 1)
    cache = {}
    total = 0.0
    for position in range(num_predictions):
        logits = gpt(model, tokens[position], position, cache)
        probs = softmax(logits)
        total = total - log(probs[tokens[position + 1]])
    return total * (1 / num_predictions)


def adam_step(params, m, v, step, rate):
    """Move each parameter against its average gradient, in place. Set the gradients back to 0.

    Plain gradient descent is p.data -= rate * p.grad. Adam (Kingma & Ba 2015, algorithm 1) improves
    on it in two ways. It takes a running average m of the gradient, because the gradient of a
    single step is noisy. And it divides by the root of v, a running average of the squared
    gradient. So it does not matter whether all gradients of a parameter are large or small: the
    parameter moves by about `rate` if they agree in sign, and by much less if they do not. m and v
    have one number per parameter, and step counts 1, 2, ...
    """
    # m and v start at 0. After step 1, m is (1 - beta1) * grad, which is too small by this factor.
    m_correction = 1 - beta1**step
    v_correction = 1 - beta2**step
    for i, p in enumerate(params):
        m[i] = beta1 * m[i] + (1 - beta1) * p.grad
        v[i] = beta2 * v[i] + (1 - beta2) * p.grad * p.grad
        m_hat = m[i] / m_correction
        v_hat = v[i] / v_correction
        p.data -= rate * m_hat / (math.sqrt(v_hat) + eps_adam)
        p.grad = 0.0


def train(model, names, chars):
    """Train a model of Values in place, one name per step.

    This is a generator. Each step yields the loss that its name had, and waits until the next one
    is asked for. show_training() asks for all of them.
    """
    params = [p for matrix in model.values() for row in matrix for p in row]
    m = [0.0] * len(params)
    v = [0.0] * len(params)
    for step in range(num_steps):
        name = names[step % len(names)]  # starts over if there are fewer names than steps
        loss = name_loss(model, encode(name, chars))
        loss.backward()
        rate = learning_rate * (1 - step / num_steps)  # falls to 0
        adam_step(params, m, v, step + 1, rate)
        yield loss.data


def mean(values):
    """The average of some numbers. fsum() rounds only once, so every Python gives the same."""
    return math.fsum(values) / len(values)


def show_progress(step, num_steps, loss, started):
    """Print step, loss, elapsed and remaining time: on a terminal always in the same line.

    In a pipe or a file, print a line for the first three steps and for every tenth of all steps.
    """
    elapsed = time.perf_counter() - started
    remaining = elapsed * (num_steps / step - 1)
    line = f"step {step:4d}/{num_steps}  loss {loss:.5f}  {elapsed:5.1f} s, {remaining:5.1f} s left"
    if os.isatty(1):
        print(f"\r{line} ", end="\n" if step == num_steps else "")
    elif step <= 3 or step % max(1, num_steps // 10) == 0:
        print(line)


def show_training(losses, num_steps):
    """Run a generator of losses to its end, and show its progress. Return the losses."""
    started = time.perf_counter()
    seen = []
    for loss in losses:
        seen.append(loss)
        show_progress(len(seen), num_steps, loss, started)
    return seen


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
