"""A preference can be trained as a classification: no reward model, no sampling loop.

The problem: there is a model that writes names, and there are pairs of names of which somebody
preferred one. The model should write more names like the preferred ones, and they should still be
names. The older way, reinforcement learning from human feedback (RLHF, see microppo), needs two
stages. First it trains a reward model: a second model that gives preferred names a larger number,
their reward. Then it lets the first model write names, and makes those more probable that get a
large reward. It also charges a price for moving away from the original model, so that the model
does not forget what a name is.

The idea of direct preference optimization (DPO): let beta be the price for moving away. If we knew
the rewards, there would be a formula for the best model, which gets the most reward after paying.
THE LOSS below derives it: take the original model, multiply the probability of every name by
exp(reward / beta), and rescale, so that the probabilities sum to 1. This formula can be read
backwards. Take any model, and let the reward of a name be beta * log(its probability of the name /
the original's probability). For these rewards, the best model is that model itself. So every model
defines rewards of its own, and no reward model is needed. We train the model so that its own
rewards explain the pairs. That is an ordinary classification: which of two names is the preferred
one?

    1. Train a small GPT on names. A frozen copy of it is called the reference. The model that is
       trained further is called the policy.
    2. make_pairs: two names with the same first letter, one chosen and one rejected.
    3. log_ratio: how much more probable a name is to the policy than to the reference, as the
       difference of two logarithms. The log ratio of the chosen name minus that of the rejected
       name is called the margin of the pair.
    4. dpo_loss: -log sigmoid(beta * margin). sigmoid(z) = 1 / (1 + exp(-z)) turns any number into a
       probability. The loss falls when the margin grows. train_dpo takes one step of the optimizer
       (Adam) on the loss of each pair.
    5. judge: let the policy write names, and count how many have the preferred property.

The paper is Rafailov et al. (2023). The equation numbers are theirs, the notation is ours. The GPT
is that of microgpt, after Andrej Karpathy (2026), with half its width and context. In production, a
pair is two answers of a large model to one question, compared by people, and every step of training
takes many pairs at once.
"""

import functools
import hashlib
import itertools
import math
import os
import random
import time
import urllib.request

# === CONSTANTS ===
# microdpo, microppo and microgrpo have the same task, base model and evaluation, so that their
# results can be compared.
vowels = "aeiouy"
min_letters = 4  # a shorter name is never preferred
num_pair_names = 4000  # names to make pairs of; the names after them in the list are held out
num_prompts = 1000  # names that each model writes to be judged by
dpo_steps = 300  # one pair per step, and each pair once
dpo_learning_rate = 0.0015  # how far a step of DPO moves a parameter
betas = (0.1, 0.5, 2.0)  # prices for leaving the reference; one policy is trained with each
main_beta = 0.5  # the policy trained with this beta is looked at more closely
num_heldout_pairs = 300  # pairs to judge by that no policy was trained on
watch_every = 75  # a copy of the policy is kept every so many steps, to see how it changes
num_watch_prompts = 250  # names that each of these copies writes
n_embd = 8  # numbers per token in the GPT
# the following are read by the code that is repeated from microgpt, near the end
n_head = 2  # attention heads, which share those numbers
n_layer = 1  # layers of attention and MLP
block_size = 8  # a boundary token and 7 letters; longer names are left out
num_steps = 1000  # steps of the base model's training, one name each
learning_rate = 0.01  # of the base model's training; it falls linearly to 0
beta1 = 0.85  # Adam's memory of the gradient; unrelated to the beta of DPO
beta2 = 0.99  # Adam's memory of the squared gradient
eps_adam = 1e-8  # keeps Adam's division finite

# === BORROWED from microgpt.py: what you need to know of it ===
# - Value(data, inputs, local_grads) is a number that remembers how it was computed: from which
#   inputs, and with which derivative for each. loss.backward() adds d(loss)/d(value) to the .grad
#   of every Value that the loss was computed from.
# - The model works on Values and on floats alike. Floats remember nothing and get no gradient, so a
#   model made of floats is frozen. as_values() and as_floats() copy a model into the other kind.
# - encode() puts the same boundary token in front of a name and behind it. Its number is
#   len(chars), one more than that of the last letter. spell() turns tokens back into letters.
# - init_model() makes a model, train() trains it on names, and name_loss() is the loss per name.
# - gpt(model, token, position, cache) returns a score (logit) for every possible next token. The
#   cache is {} at the start of a name, and collects what later tokens need of the earlier ones.
# - softmax() turns scores into probabilities. log() treats numbers below 1e-10 as 1e-10.
# - adam_step(params, m, v, step, rate) updates Values by their gradients, and sets the gradients
#   back to 0. The lists m and v are the optimizer's memory, of one number per parameter.


# === THE PREFERENCE: a taste that can be checked by eye ===
def is_preferred(tokens, chars):
    """Whether a name has the taste: vowels and consonants alternate, in four letters or more.

    "milena" and "rory" have it, with y as a vowel. "anna" has two n in a row, and "eva" is too
    short. A name that was cut off before its end, so that it has no final boundary, does not count.
    """
    name = spell(tokens, chars)
    kinds = "".join("V" if letter in vowels else "C" for letter in name)
    alternates = "VV" not in kinds and "CC" not in kinds
    has_end = tokens[-1] == len(chars)
    return alternates and has_end and len(name) >= min_letters


def split_names(names):
    """Shuffle the names that fit into the context, and split them into three lists.

    The first is for the training of the base model, the second is to make pairs of, and the third
    is held out: no training ever sees these names. No name stands in two of the lists.
    """
    names = [name for name in dict.fromkeys(names) if len(name) < block_size]
    random.shuffle(names)
    first_heldout = num_steps + num_pair_names
    return names[:num_steps], names[num_steps:first_heldout], names[first_heldout:]


def make_pairs(names, chars):
    """Pairs (chosen, rejected) of tokenized names that begin with the same letter.

    The first letter is the prompt, and the rest of the name is the completion, like a question and
    one of its possible answers. No name is used twice. A name that finds no partner is left out.
    """
    chosen = {}  # first letter -> tokenized names that have the taste
    rejected = {}  # first letter -> tokenized names that do not
    for name in names:
        tokens = encode(name, chars)
        side = chosen if is_preferred(tokens, chars) else rejected
        side.setdefault(name[0], []).append(tokens)
    pairs = []
    for letter in sorted(chosen):
        pairs += zip(chosen[letter], rejected.get(letter, []))  # as many as the shorter list has
    random.shuffle(pairs)
    return pairs


# === THE LOG RATIO: how much more probable a name is to the policy than to the reference ===
def completion_probs(model, tokens):
    """For each token of the completion, the probabilities [vocab_size] of all tokens in its place.

    A name is a boundary, the prompt, and the completion. The completion ends with a boundary, too.
    For "anna", with dots for the boundaries, the result has four rows:

        read so far     .a    .an    .ann    .anna
        a row for       n     n      a       .
    """
    cache = {}
    gpt(model, tokens[0], 0, cache)  # reads the boundary, only to fill the cache
    probs = []
    for position in range(1, len(tokens) - 1):  # the last token is only predicted, never read
        logits = gpt(model, tokens[position], position, cache)
        probs.append(softmax(logits))
    return probs


def log_prob(model, tokens):
    """log p(completion | prompt): the sum of the log probabilities of its tokens.

    It is measured in nats, the unit of the natural logarithm.
    """
    completion = tokens[2:]  # without the boundary and the prompt; one token per row of the probs
    total = 0.0
    for probs, token in zip(completion_probs(model, tokens), completion, strict=True):
        total = total + log(probs[token])
    return total


def log_ratio(policy, reference, tokens):
    """log(policy(y|x) / reference(y|x)), for the prompt x and the completion y of one name.

    It is 0 for every name before training. Where it is log 2 = 0.69, the policy completes the
    prompt in this way twice as often as the reference.
    """
    return log_prob(policy, tokens) - log_prob(reference, tokens)


# === THE LOSS: the policy is its own reward model ===
#
# RLHF looks for the policy that makes this as large as possible, on average over the names that it
# writes itself:
#
#     reward(x, y) - beta * log(policy(y|x) / ref(y|x))                                     (eq. 3)
#
# x is the prompt, y the completion, and ref the reference. Beta is the price for leaving the
# reference. The average of the logarithm, over names that the policy writes, is called the KL
# divergence of the policy from the reference. It is 0 if the two are equal, and positive if not: as
# log z <= z - 1, the average of log(ref / policy) is at most the average of ref / policy, minus 1.
# That is (the sum of policy * ref / policy) - 1 = 0. So the average of log(policy / ref), which is
# the same with the other sign, is not negative. (log z = z - 1 only if z = 1.)
#
# Suppose that we knew the rewards. Then multiply ref with exp(reward / beta), and call the result
# ideal:
#
#     ideal(y|x) = ref(y|x) * exp(reward(x, y) / beta) / Z(x)                               (eq. 4)
#
# Z(x) is the sum of all numerators, over all completions y of x. Dividing by it makes the
# probabilities sum to 1. For example, with two completions and beta = 1:
#
#     ref(y|x)     reward     ref * exp(reward / beta)     ideal(y|x), after dividing by Z = 2.2
#       0.8          0          0.8                          0.36
#       0.2        log 7        1.4                          0.64
#
# No policy does better than ideal. To see this, solve eq. 4 for the reward:
#
#     reward(x, y) = beta * log(ideal(y|x) / ref(y|x)) + beta * log Z(x)                    (eq. 5)
#
# and put this into eq. 3. A logarithm of a quotient is a difference, and log ref(y|x) cancels:
#
#     beta * log ideal(y|x) + beta * log Z(x) - beta * log policy(y|x)
#         = beta * log Z(x) - beta * log(policy(y|x) / ideal(y|x))
#
# Take the average of this over the names that the policy writes. No policy can change the first
# term, because Z(x) depends on the prompt alone. What is subtracted from it is, on average, beta
# times the KL divergence of the policy from ideal. It is 0 if the policy is ideal, and positive for
# any other policy. So ideal is the best one.
#
# We do not know the rewards, though. So begin with a policy instead, and define rewards by it:
#
#     implicit_reward(x, y) = beta * log(policy(y|x) / ref(y|x))
#
# Which policy is the best one for these rewards? exp(implicit_reward / beta) is policy / ref. With
# it, eq. 4 becomes
#
#     ideal(y|x) = ref(y|x) * (policy(y|x) / ref(y|x)) / Z(x) = policy(y|x)
#
# where Z(x) is 1, because the probabilities of a policy sum to 1 already. Every policy is the best
# one for its own implicit rewards.
#
# It remains to find the policy whose implicit rewards explain the pairs. For this we assume, with
# Bradley and Terry (1952), that a preference depends on the difference of two rewards:
#
#     p(chosen is preferred to rejected) = sigmoid(reward(chosen) - reward(rejected))       (eq. 1)
#
# This is 0.5 for equal rewards, and near 1 if the first is much larger. (People who compare answers
# contradict each other now and then. Here a rule chooses, and it never contradicts itself. Then no
# finite rewards fit exactly: the larger the difference, the better.) With the implicit rewards, the
# difference is beta * margin:
#
#     margin = log_ratio of chosen - log_ratio of rejected
#     p(chosen is preferred to rejected) = sigmoid(beta * margin)                           (eq. 6)
#
# The loss is minus the logarithm of this probability.
#
# Is the policy that explains the pairs best also the one that we want, the ideal one for the true
# rewards? If the pairs were made by eq. 1, nothing explains them better than the true rewards do,
# on average over many pairs. By eq. 5, the implicit rewards of the ideal policy are the true
# rewards minus beta * log Z(x). Both names of a pair have the same prompt x, so this term cancels
# in the difference. So the ideal policy explains the pairs as well as the true rewards. No other
# policy does, if all completions occur in pairs: the differences of log ratios tell all ratios of
# probabilities, and the probabilities sum to 1. (In this script the pairs are made by a rule that
# never errs. So training could push the margins up for ever, and where the policy ends depends on
# the number of steps as well.)


def minus_log_sigmoid(x):
    """-log(sigmoid(x)) = -log(1 / (1 + exp(-x))), of a Value x.

    It is one operation, for which we give the derivative ourselves: -(1 - sigmoid(x)).

    The loss is log(1 + exp(-x)), and 1 - sigmoid(x) is exp(-x) / (1 + exp(-x)). If x is far below
    0, exp(-x) overflows. There we use -x + log(1 + exp(x)) and 1 / (1 + exp(x)), which are the same
    numbers.
    """
    if x.data > 0:
        small = math.exp(-x.data)
        loss = math.log1p(small)  # log1p(a) is log(1 + a)
        one_minus_sigmoid = small / (1 + small)
    else:
        small = math.exp(x.data)
        loss = -x.data + math.log1p(small)
        one_minus_sigmoid = 1 / (1 + small)
    return Value(loss, (x,), (-one_minus_sigmoid,))


def dpo_loss(policy, reference, chosen, rejected, beta):
    """-log sigmoid(beta * margin) of one pair, in nats (eq. 7).

    Its derivative by the margin is beta * (sigmoid(beta * margin) - 1), which is negative. The
    margin contains log p of the chosen name with a plus and that of the rejected name with a minus.
    So the gradient asks for more of the chosen name and less of the rejected one, both with the
    strength beta * (1 - sigmoid(beta * margin)). With beta = 0.5:

        margin     loss     strength
            -6     3.049    0.476      the pair is ranked the wrong way: the strongest push
             0     0.693    0.250      undecided, as every pair is before training
             6     0.049    0.024      ranked the right way by far: hardly any push is left

    Where is the price? No term of the loss charges it. It lies in how the strength fades: with a
    large beta, beta * margin is large already at a small margin, so the strength fades nearer to
    the reference. (At first, a large beta even has the larger strength. But Adam divides a gradient
    by its recent size. So all betas take equal steps at first, and what counts afterwards is how
    the strength fades.) A strength that fades is not 0. Here no pair contradicts another, so the
    policy goes on moving as long as training does, only more slowly with a large beta.
    """
    margin = log_ratio(policy, reference, chosen) - log_ratio(policy, reference, rejected)
    return minus_log_sigmoid(beta * margin)


def train_dpo(policy, reference, pairs, beta):
    """Train the policy in place, one pair per step. Yield the loss before each step.

    All names share the parameters of the policy. So a pair also moves names that are not in it, and
    some chosen names become less probable in the course of training (the fewer, the larger beta
    is). The loss does not mind, as
    long as the rejected name falls faster. To prevent it, Llama 3 adds the log probability of the
    chosen name to what is maximized (Dubey et al. 2024).
    """
    params = [p for matrix in policy.values() for row in matrix for p in row]
    m = [0.0] * len(params)
    v = [0.0] * len(params)
    for step, (chosen, rejected) in enumerate(pairs, 1):
        loss = dpo_loss(policy, reference, chosen, rejected, beta)
        loss.backward()  # reaches the policy alone, because the reference is made of floats
        adam_step(params, m, v, step, dpo_learning_rate)
        yield loss.data


def train_sft(policy, pairs):
    """The obvious rival: train on the chosen names as on any names, and ignore the rejected ones.

    This is called supervised fine-tuning (SFT). It has as many steps as train_dpo(), with the same
    optimizer and learning rate, but it sees one name per step and not two. Its loss is a mean over
    the tokens, the first letter included. Yields the loss before each step.

    To compare, look at the preferred rate and at the KL divergence together. In both figures, SFT
    lies between the DPO policies with beta 2.0 and 0.5. On its way, the one with beta 0.5 has a
    lower rate than SFT at about the same KL: 0.63 at a KL of 0.94, and SFT has 0.77 at 0.86. So
    this run does not show that rejected names help.
    """
    params = [p for matrix in policy.values() for row in matrix for p in row]
    m = [0.0] * len(params)
    v = [0.0] * len(params)
    for step, (chosen, _) in enumerate(pairs, 1):
        loss = name_loss(policy, chosen)
        loss.backward()
        adam_step(params, m, v, step, dpo_learning_rate)
        yield loss.data


# === JUDGING: what the models write, and how far they have moved ===
def complete(model, prompt):
    """Write a name that begins with the token `prompt`. Return all of its tokens.

    The last token is a boundary, unless the name was cut off at the end of the context.
    """
    boundary = len(model["wte"]) - 1  # the last row of the token embeddings
    tokens = [boundary, prompt]
    cache = {}
    gpt(model, boundary, 0, cache)  # reads the boundary, only to fill the cache
    # The model can read block_size tokens. So the last token that it can write is one more.
    while len(tokens) < block_size + 1 and tokens[-1] != boundary:
        logits = gpt(model, tokens[-1], len(tokens) - 1, cache)
        probs = softmax(logits)
        tokens.append(random.choices(range(len(probs)), weights=probs)[0])
    return tokens


def kl_divergence(probs, ref_probs):
    """KL(p || q) = sum of p_i * log(p_i / q_i), in nats, added up over the positions of one name.

    probs and ref_probs are [positions][vocab_size], with the rows p and q. The logarithm of the
    probability of a completion is a sum over its positions. At each position, the token is drawn
    with the probabilities p, so the average of log(p / q) over this draw is known: it is the sum
    above. The mean over names that the policy wrote estimates the KL divergence of its completions
    from those of the reference.
    """
    total = 0.0
    for p, q in zip(probs, ref_probs, strict=True):
        total += math.fsum(p_i * (log(p_i) - log(q_i)) for p_i, q_i in zip(p, q))
    return total


def judge(model, reference, prompts, chars):
    """Let a model of floats complete each prompt. Return the names, and figures about them.

    The figures are {"preferred_rate": share of preferred names, "unique_share": share of different
    names, "mean_length": letters per name, "kl": mean KL divergence from the reference, per name}.
    """
    names = []
    preferred = []
    kls = []
    for prompt in prompts:
        tokens = complete(model, prompt)
        names.append(spell(tokens, chars))
        preferred.append(is_preferred(tokens, chars))
        probs = completion_probs(model, tokens)
        kls.append(kl_divergence(probs, completion_probs(reference, tokens)))
    figures = {
        "preferred_rate": mean(preferred),
        "unique_share": len(set(names)) / len(names),
        "mean_length": mean([len(name) for name in names]),
        "kl": mean(kls),
    }
    return names, figures


def judge_pairs(policy, reference, pairs):
    """How a policy of floats ranks pairs. Return four figures.

    They are {"accuracy": the share of pairs in which the chosen name has the larger log ratio, with
    a tie as half a pair, "chosen_fell": the share of chosen names with a negative log ratio,
    "chosen_log_ratio" and "rejected_log_ratio": means over the pairs}.
    """
    chosen_ratios = [log_ratio(policy, reference, chosen) for chosen, _ in pairs]
    rejected_ratios = [log_ratio(policy, reference, rejected) for _, rejected in pairs]
    right = []
    for chosen_ratio, rejected_ratio in zip(chosen_ratios, rejected_ratios):
        tie = chosen_ratio == rejected_ratio
        right.append(0.5 if tie else float(chosen_ratio > rejected_ratio))
    return {
        "accuracy": mean(right),
        "chosen_fell": mean([ratio < 0 for ratio in chosen_ratios]),
        "chosen_log_ratio": mean(chosen_ratios),
        "rejected_log_ratio": mean(rejected_ratios),
    }


def more_probable_share(model, pairs):
    """The share of pairs in which a model of floats finds the chosen name more probable.

    For the reference it is above one half, partly because chosen names are shorter on average, and
    a shorter name is more probable. So this is no measure of training. The accuracy compares log
    ratios, which are all 0 at first.
    """
    return mean([log_prob(model, chosen) > log_prob(model, rejected) for chosen, rejected in pairs])


def watch_training(reference, pairs, beta):
    """Train a policy with DPO, and show its progress. Return the losses and the copies kept.

    The copies are {step: policy of floats}: the start, every watch_every steps, and the end.
    """
    policy = as_values(reference)
    losses = []
    copies = {0: reference}
    started = time.perf_counter()
    for step, loss in enumerate(train_dpo(policy, reference, pairs, beta), 1):
        losses.append(loss)
        show_progress(step, len(pairs), loss, started)
        if step % watch_every == 0 or step == len(pairs):
            copies[step] = as_floats(policy)
    return losses, copies


def judge_models(models, reference, prompts, chars):
    """Judge several models {title: model}. Return {title: names} and {title: figures}."""
    samples = {}
    figures = {}
    for title, model in models.items():
        samples[title], figures[title] = judge(model, reference, prompts, chars)
    return samples, figures


def judge_copies(copies, reference, pairs, prompts, chars):
    """Judge the copies of a policy that were kept along training: {step: figures}."""
    progress = {}
    for step, policy in copies.items():
        _, figures = judge(policy, reference, prompts[:num_watch_prompts], chars)
        progress[step] = {**figures, **judge_pairs(policy, reference, pairs)}
    return progress


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)

    names = load_names()
    chars = sorted(set("".join(names)))
    base_names, pair_names, heldout = split_names(names)
    prompts = [chars.index(name[0]) for name in heldout[:num_prompts]]
    print(f"Training the base model on {len(base_names)} names:")
    model = as_values(init_model(len(chars) + 1, n_embd))
    show_training(train(model, base_names, chars), num_steps)
    reference = as_floats(model)  # frozen from here on
    base_samples, base = judge(reference, reference, prompts, chars)

    pairs = make_pairs(pair_names, chars)[:dpo_steps]
    heldout_pairs = make_pairs(heldout, chars)[:num_heldout_pairs]
    show_pairs(pairs, chars)
    show_loss("One held-out pair before training", reference, reference, heldout_pairs[0], chars)

    # One policy per beta, and the rival. All start as the reference and see the same pairs.
    losses = {}
    copies = {}
    for beta in betas:
        print(f"\nTraining a policy with beta {beta}:")
        losses[beta], copies[beta] = watch_training(reference, pairs, beta)
    print("\nSupervised fine-tuning (SFT) on the chosen names alone:")
    rival = as_values(reference)
    show_training(train_sft(rival, pairs), len(pairs))

    # How did the policy get where it is? (The results below are about all prompts.)
    policy = copies[main_beta][len(pairs)]
    show_loss("The same pair after training", policy, reference, heldout_pairs[0], chars)
    progress = judge_copies(copies[main_beta], reference, heldout_pairs, prompts, chars)
    show_progress_of(progress, more_probable_share(reference, heldout_pairs))

    # What does each model write, how often is it preferred, and how far has the model moved?
    models = {f"beta {beta}": copies[beta][len(pairs)] for beta in betas}
    models["SFT"] = as_floats(rival)
    samples, figures = judge_models(models, reference, prompts, chars)
    show_models({"base": base_samples, **samples}, {"base": base, **figures})
    dpo = figures[f"beta {main_beta}"]

    print_results(
        [
            ("dpo_loss_first", losses[main_beta][0], f"== {math.log(2):.4f}"),
            ("dpo_loss_last_50", mean(losses[main_beta][-50:]), "< 0.35"),
            ("pair_accuracy", progress[len(pairs)]["accuracy"], "> 0.9"),
            ("base_preferred_rate", base["preferred_rate"], ""),
            ("sft_preferred_rate", figures["SFT"]["preferred_rate"], ""),
            ("preferred_rate", dpo["preferred_rate"], "> 0.5"),
            ("preferred_gain", dpo["preferred_rate"] - base["preferred_rate"], "> 0.1"),
            ("unique_share", dpo["unique_share"], "> 0.9"),
            ("mean_length", dpo["mean_length"], ""),
            ("kl_halfway", progress[len(pairs) // 2]["kl"], f"< {dpo['kl'] - 0.1:.4f}"),
            ("kl", dpo["kl"], ""),
            ("kl_low_beta", figures[f"beta {betas[0]}"]["kl"], f"> {dpo['kl'] + 0.2:.4f}"),
            ("kl_high_beta", figures[f"beta {betas[-1]}"]["kl"], f"< {dpo['kl'] - 0.2:.4f}"),
            ("runtime_seconds", time.perf_counter() - started, "< 420"),
        ]
    )


# === DRAWING: nothing below is needed to understand the algorithm ===
def show_pairs(pairs, chars):
    """Print some of the pairs to train on."""
    print(f"\n{len(pairs)} pairs to train on. Vowels are in capitals:")
    show_names(["chosen", "rejected"], [[spell(name, chars) for name in pair] for pair in pairs])


def show_loss(title, policy, reference, pair, chars):
    """Print how the loss of one pair comes about."""
    print(f"\n{title}, with beta {main_beta}:")
    print("name      log p, policy   log p, reference   log ratio")
    ratios = []
    for tokens in pair:
        p = log_prob(policy, tokens)
        ref = log_prob(reference, tokens)
        ratios.append(p - ref)
        print(f"{spell(tokens, chars):<10}{p:13.3f}{ref:19.3f}{p - ref:12.3f}")
    margin = ratios[0] - ratios[1]
    loss = minus_log_sigmoid(Value(main_beta * margin)).data
    print(
        f"margin {margin:.3f}, so the loss is -log sigmoid({main_beta * margin:.3f}) = {loss:.3f}"
    )


def show_progress_of(progress, reference_share):
    """Print a line for each copy of the policy that was kept during training."""
    print(f"\nAlong training with beta {main_beta}. On held-out pairs: the mean log ratios, the")
    print("share of chosen names with a negative log ratio, and the accuracy. On names that the")
    print(f"copy wrote for the first {num_watch_prompts} prompts: preferred rate and KL.")
    print("step    chosen  rejected  chosen < 0  accuracy  preferred        KL")
    for step, row in progress.items():
        line = f"{step:4}{row['chosen_log_ratio']:10.3f}{row['rejected_log_ratio']:10.3f}"
        line += f"{row['chosen_fell']:12.3f}{row['accuracy']:10.3f}{row['preferred_rate']:11.3f}"
        print(f"{line}{row['kl']:10.3f} {'#' * round(20 * row['kl'])}".rstrip())
    print("The share of these pairs in which the reference finds the chosen name more probable")
    print(f"is {reference_share:.3f}.")


def show_models(samples, figures):
    """Print a line per model, then some of the names that each wrote."""
    print(f"\nWhat {num_prompts} names of each model are like, one for each prompt:")
    print("             preferred  different  mean length  KL to the reference")
    for title, row in figures.items():
        print(
            f"{title:12}{row['preferred_rate']:10.3f}{row['unique_share']:11.3f}"
            f"{row['mean_length']:13.2f}{row['kl']:12.3f}"
        )
    print()
    show_names(list(samples), list(zip(*samples.values())))


def show_names(titles, rows):
    """Print the first eight rows of names in columns. Vowels are in capitals for the eye."""
    capitals = str.maketrans(vowels, vowels.upper())
    print("".join(f"{title:<13}" for title in titles).rstrip())
    for names in rows[:8]:
        print("".join(f"{name.translate(capitals):<13}" for name in names).rstrip())


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
