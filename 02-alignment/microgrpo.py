"""Compare an answer with its group: the model drifts less, on average, than with rewards 1 and 0.

The problem: there is a model that writes names, and a rule that says which names are preferred. The
model should write more of these, and they should still be names. There are no examples to imitate.
So the model writes names itself, and each gets a reward, 1 if it is preferred and 0 if not. The
plainest method makes each name with a 1 more probable. On average this is the right direction. But
chance decides which names are written, and each 1 pushes with full strength, even if nearly all
names get a 1. These random pushes may make the model drift: it then moves farther from what it was
than the task requires. What should count is how much better a name is than was to be expected. PPO
(see microppo) trains a second model, the value function, to predict the expected reward. For a
large language model it is usually as large as that model.

The idea of group relative policy optimization (GRPO, Shao et al. 2024): let the model answer the
same prompt several times. These answers are called a group, and the siblings of an answer are the
others in its group. The mean reward of the group shows what was to be expected, and nothing has to
be trained for it. Answers above this mean are made more probable, and those below less probable.

    1. Train a small GPT on names. A frozen copy of it is called the reference. The model that is
       trained further is called the policy.
    2. sample_group: a prompt is the first letter of a name, and an answer is the rest of a name, as
       the policy writes it. The policy answers each prompt eight times. A rule gives the rewards.
    3. sibling_advantages: the advantage of an answer is its reward minus the mean reward of its
       group.
    4. answer_loss: a positive advantage pushes the probability of every token of the answer up, a
       negative one pushes it down. kl_estimate charges a price for leaving the reference (the KL
       penalty), because the rule does not know what a name is. "vavava" is preferred, too.
    5. train_grpo: write four groups, update the policy twice with them, and repeat this 32 times.
       (Writing usually takes most of the time with large models, so answers are used again. Shao et
       al. use them once.) The more the policy changes, the less the old answers say about what it
       writes now. So clipped_objective ends the push of an advantage on a token as soon as the
       probability of the token has moved by more than a fifth in the direction of the push.
    6. judge: let the policy write names, count how many are preferred, and measure how far it has
       drifted from the reference. Two more policies are trained for comparison: plain_advantages
       are the rewards themselves, and divided_advantages are the published ones, divided by the
       standard deviation of the rewards in the group.

The equation numbers are those of Shao et al. (DeepSeekMath), unless PPO is named. They divide
twice: the advantage by that standard deviation, and the loss of an answer by its number of tokens.
Liu et al. (2025) advise against both divisions, and call GRPO without them Dr. GRPO. (They also
drop the price, which is kept here.) Here divided_advantages makes the first division, and nothing
makes the second. Shao et al. take the rewards from a trained model. DeepSeek-R1-Zero (2025) takes
them from rules (verifiable rewards): a rule compares the answer to a problem with the known one.
The GPT is microgpt's, after Andrej Karpathy (2026), with half its width, heads and context.
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
answers_per_group = 8  # an answer has seven siblings; DeepSeekMath was trained with groups of 64
groups_per_step = 4  # prompts that are answered in each step
grpo_steps = 32  # so each policy answers 32 * 4 = 128 prompts and learns from 1024 answers
updates_per_step = 2  # how often each answer is used
grpo_learning_rate = 0.01  # how far an update moves a parameter; it falls linearly to 0
epsilon = 0.2  # the share by which a token's probability moves before the clip ends its push
kl_coef = 0.1  # price for leaving the reference, per nat (unit of natural logarithms)
num_probes = 20  # groups of the base, and of a trained policy, whose gradients are compared
show_every = 4  # steps that are put together in one line of output
# The task is that of microdpo and microppo.
vowels = "aeiouy"
min_letters = 4  # a shorter name is never preferred
num_pair_names = 4000  # names for prompts; the first letters of 128 + 20 of them are used
num_prompts = 1000  # names that each model writes to be judged by
n_embd = 8  # numbers per token in the GPT
# the following are read by the code that is repeated from microgpt, near the end
n_head = 2  # attention heads, which share those numbers
n_layer = 1  # layers of attention and MLP
block_size = 8  # the GPT reads a boundary and 7 letters; a longer name is cut off, with reward 0
num_steps = 1000  # steps of the base model's training, one name each
learning_rate = 0.01  # of the base model's training; it falls linearly to 0
beta1 = 0.85  # Adam's memory of the gradient
beta2 = 0.99  # Adam's memory of the squared gradient
eps_adam = 1e-8  # keeps Adam's division finite

# === BORROWED from microgpt.py: what you need to know of it ===
# - Value(data, inputs, local_grads) is a number that remembers how it was computed. loss.backward()
#   adds d(loss)/d(value) to the .grad of every Value that the loss was computed from.
# - The model works on Values and on floats alike. Floats remember nothing and get no gradient, so a
#   model made of floats is frozen. as_values() and as_floats() copy a model into the other kind.
#   init_model() makes a model of floats, and train() trains one of Values on names.
# - The tokens of the letters are 0 to len(chars) - 1. A name begins and ends with the same token,
#   len(chars), which is called boundary. spell() turns tokens back into letters.
# - dot() multiplies two lists number by number and adds up. log() treats numbers below 1e-10 as
#   1e-10.
# - adam_step(params, m, v, step, rate) updates Values by their gradients, and sets the gradients
#   back to 0. The lists m and v are the optimizer's memory, of one number per parameter.
# Three functions stand further down, under THE TASK: complete() writes a name, is_preferred() is
# the rule, and completion_probs() returns all tokens' probabilities at each place of an answer.


# === THE GROUP: several answers to one prompt, judged by a rule ===
def token_probs(model, tokens):
    """The probability that the model gives to each token of an answer.

    `tokens` are a boundary, the prompt and the answer, which ends with a boundary unless it was cut
    off. completion_probs() calls the answer a completion. "ann" has the answer n, n, boundary, and
    the rows are those after a, an and ann: p(n after a), p(n after an), p(boundary after ann).
    """
    answer = tokens[2:]  # without the first boundary and the prompt
    rows = completion_probs(model, tokens)  # row i: all tokens' probabilities in place of answer[i]
    return [row[token] for row, token in zip(rows, answer, strict=True)]


def sample_group(policy, reference, prompt, chars):
    """Let the policy answer a prompt several times. Both models are made of floats.

    Returns a list with a dict for each answer: {"tokens": a boundary, the prompt and the answer,
    "reward": 1.0 or 0.0, "old_probs": the probabilities that the policy gave to the tokens of the
    answer when it wrote them, "ref_probs": the probabilities that the reference gives to them}.
    """
    group = []
    for _ in range(answers_per_group):
        tokens = complete(policy, prompt)
        answer = {
            "tokens": tokens,
            "reward": 1.0 if is_preferred(tokens, chars) else 0.0,
            "old_probs": token_probs(policy, tokens),
            "ref_probs": token_probs(reference, tokens),
        }
        group.append(answer)
    return group


# === THE ADVANTAGE: how much better an answer is than its siblings ===
#
# Take one prompt. Training is to raise the mean reward of what the policy answers to it:
#
#     sum over all answers y of p(y) * reward(y)
#
# where p(y) is the probability that the policy answers with y. Let d stand for the derivative by
# some parameter. The rewards do not depend on it. The derivative of a logarithm is dlog p(y) =
# dp(y) / p(y), so dp(y) = p(y) * dlog p(y). The derivative of the mean reward is
#
#     sum over y of dp(y) * reward(y) = sum over y of p(y) * dlog p(y) * reward(y)
#
# The policy writes y with the probability p(y). So the sum on the right is an average over what it
# writes, and the mean over a few written answers estimates it. Going in the direction of this mean
# is called REINFORCE (Williams 1992). Here Adam makes its step from it. What one answer adds to the
# mean is called the push of the answer:
#
#     advantage(y) * dlog p(y)        where the advantage is the reward, for now
#
# A number b, called a baseline, may be subtracted from the reward of y. It must not depend on y. It
# may depend on the siblings of y, because these are drawn independently of it. It changes nothing
# on average, because the probabilities sum to 1, and 1 has the derivative 0:
#
#     sum over y of p(y) * dlog p(y) * b = b * sum over y of dp(y) = b * d(1) = 0
#
# So dlog p(y) is 0 on average: pushing all answers up alike does nothing on average. But the pushes
# of a few sampled answers do not cancel. What is left is noise, and its direction depends on which
# answers happen to be written. Suppose that nearly all are preferred. Without a baseline, nearly
# all are pushed up with full strength. With a baseline near the mean reward, most pushes are small.
#
# This noise may be what makes the model drift. It raises no reward on average, but it moves the
# policy, and n random steps lead about sqrt(n) times as far as one. Adam divides a gradient by its
# recent size, so a factor that all pushes share has no effect. But the larger the noise is beside
# the mean push and beside the price, the more of each step is random. (This is an argument. The run
# measures the noise and the drift, but not that one causes the other.)
#
# If some prompts are harder than others, their mean rewards differ. Then each prompt should have a
# baseline of its own, and its group gives one. In this task these differences are small: by chance,
# the means of eight answers differ more. So this run shows what subtracting a mean is good for, but
# not what a mean for each prompt adds.


def sibling_advantages(rewards):
    """A_i = r_i - mean(r): the reward of each answer minus the mean of its whole group.

    With eight answers, A_i is for example:

        preferred     mean     advantage of a preferred answer    of another one
            1        0.125                0.875                       -0.125
            4        0.5                  0.5                         -0.5
            7        0.875                0.125                       -0.875

    So a rare preferred answer is pushed up strongly, and a rare other one is pushed down strongly.
    If all rewards are equal, all advantages are 0, and the policy learns nothing from the rewards.

    A baseline must not depend on the answer itself, but the mean of the group contains its reward
    r. This does no harm. Let s be the mean of its seven siblings:

        r - (r + 7 s) / 8 = (8 r - r - 7 s) / 8 = 7/8 * (r - s)

    So it is as if the baseline were s, which depends on the siblings only, and all advantages were
    multiplied by 7/8.
    """
    baseline = mean(rewards)
    return [reward - baseline for reward in rewards]


def divided_advantages(rewards):
    """A_i = (r_i - mean(r)) / std(r), as published by Shao et al. (2024), section 4.1.2.

    std(r) is the standard deviation, the root of the mean squared distance from the mean. With
    eight answers:

        preferred     std      advantage of a preferred answer    of another one
            1        0.331                2.646                       -0.378
            4        0.5                  1                           -1
            7        0.331                0.378                       -2.646

    The division has two effects. First, no std(r) of rewards 0 and 1 is above 0.5, so all
    advantages become at least twice as large. The price for leaving the reference then matters less
    beside them. Second, the advantages of a group with 1 or 7 preferred are multiplied by 1 / 0.331
    = 3.02, and those of a group with 4 only by 1 / 0.5 = 2. So groups in which nearly all answers
    agree count more, compared with mixed groups, than without the division.
    """
    differences = sibling_advantages(rewards)
    std = math.sqrt(mean([difference**2 for difference in differences]))
    return [difference / (std + 1e-8) for difference in differences]  # 1e-8: std may be 0


def plain_advantages(rewards):
    """A_i = r_i: no baseline. A preferred answer is pushed up, and another one is left alone."""
    return rewards


# === THE LOSS: push every token of an answer, and charge for leaving the reference ===
def clipped_objective(ratio, advantage):
    """What one token adds to the objective, and whether the clip has cut this (PPO, eq. 7).

        min(ratio * advantage, clip(ratio, 1 - epsilon, 1 + epsilon) * advantage)

    The ratio is the probability that the policy gives the token now, divided by the probability
    that it gave it when it wrote the sample. The advantage says how much better the sample was than
    expected. clip() moves a ratio outside the range to the nearer end of the range. For example,
    with epsilon = 0.2:

        advantage   ratio   ratio * advantage   clip(ratio) * advantage   the smaller one
            2        1.1    1.1 *  2 =  2.2     1.1 *  2 =  2.2                2.2
            2        1.3    1.3 *  2 =  2.6     1.2 *  2 =  2.4                2.4   cut
            2        0.7    0.7 *  2 =  1.4     0.8 *  2 =  1.6                1.4
           -2        0.7    0.7 * -2 = -1.4     0.8 * -2 = -1.6               -1.6   cut
           -2        1.3    1.3 * -2 = -2.6     1.2 * -2 = -2.4               -2.6

    If the advantage is positive, the token is cut when its ratio is above 1 + epsilon. If it is
    negative, the token is cut when its ratio is below 1 - epsilon. What a cut token adds is a
    constant. Its gradient is 0, so it pushes no further. A token whose ratio has moved far the
    wrong way (third and fifth line of the table) is not cut. It is still pushed back.

    PPO is Schulman et al. (2017). Returns two things: what the token adds, which is a plain float
    if it was cut, and True if it was cut.
    """
    r = ratio.data if isinstance(ratio, Value) else ratio
    clipped_ratio = min(max(r, 1 - epsilon), 1 + epsilon)  # a float: a constant to the gradient
    if clipped_ratio * advantage < r * advantage:
        return clipped_ratio * advantage, True
    return ratio * advantage, False


def kl_estimate(prob, ref_prob):
    """u - log(u) - 1 with u = ref_prob / prob: the price of one token, before kl_coef (eq. 4).

    `prob` is the probability that the policy gives to a token of an answer, and `ref_prob` is that
    of the reference. The price is 0 if the two are equal, and positive if not.

    On average over tokens drawn with the policy's own probabilities, it is the KL divergence of the
    policy from the reference, the mean of log(prob / ref_prob). (It is Schulman's estimate, 2020.)
    For example, with two possible tokens, which the policy writes equally often:

                        prob    ref_prob    u      estimate    log(prob / ref_prob)
        first token     0.5     0.25        0.5     0.193              0.693
        second token    0.5     0.75        1.5     0.095             -0.405
        mean                                        0.144              0.144

    Unlike the logarithm, the estimate is never negative. But its gradient is not that of the KL.
    The derivative of the estimate is (1 - u) * dlog prob. Over the same tokens, its average is

        sum of prob * (1 - ref_prob / prob) * dlog prob = - sum of ref_prob * dlog prob

    because the sum of prob * dlog prob is 0, as above. This is the derivative of the reverse KL,
    sum of ref_prob * log(ref_prob / prob). So what pulls the policy back is the reverse KL. It is
    also 0 only if the two are equal, and it charges most for tokens that the policy has given up.
    """
    u = ref_prob / prob
    return u - log(u) - 1.0


def answer_loss(policy, answer):
    """Minus this sum (eq. 3, not divided by the length), as a Value, and how many tokens were cut.

        sum over the tokens of   [ min(ratio * A, clip(ratio) * A) - kl_coef * kl_estimate ]

    A is the advantage of the answer. With PPO's value function, each token has an advantage of its
    own. Here nothing tells which token deserves the reward, so each gets the whole A.

    The (importance) ratio is p_new / p_old: the probability of the token now, divided by the one
    when the policy wrote the answer. The derivative of ratio * A is ratio * A * dlog p_new. In the
    first update of a step, the ratio is 1, so this is A * dlog p of the token. Summed over the
    tokens, it is A * dlog p of the answer, as derived above. (In the output, zEhAnE has six tokens
    after the prompt, with the boundary, and A = 0.875. The loss is -6 * 0.875: the price is 0.)

    In the second update, the tokens are still those that the old policy drew, with p_old. The ratio
    corrects this. Let f be any function of the next token, such as A * dlog p_new. Over tokens that
    are drawn with p_old, the average of ratio * f is the one of f over tokens drawn with p_new:

        sum of p_old * (p_new / p_old) * f = sum of p_new * f

    Two things stay uncorrected. The letters before the token were drawn by the old policy, too. And
    the price is not multiplied by the ratio, so what kl_estimate() says about averages is exact in
    the first update only.

    Eq. 3 divides the sum by the number of tokens. Then each token of a long answer is pushed less.
    So bad answers are pushed down less if they are long, and may become long (Liu et al.).
    """
    loss = 0.0
    num_cut = 0
    probs = token_probs(policy, answer["tokens"])
    for prob, old_prob, ref_prob in zip(
        probs, answer["old_probs"], answer["ref_probs"], strict=True
    ):
        ratio = prob / old_prob
        objective, is_cut = clipped_objective(ratio, answer["advantage"])
        loss = loss - objective + kl_coef * kl_estimate(prob, ref_prob)
        num_cut += is_cut
    return loss, num_cut


# === TRAINING: write groups, learn from them, write again ===
def train_grpo(policy, reference, prompts, chars, advantages_of):
    """Train a policy of Values in place (algorithm 1, with the same reference throughout).

    `advantages_of` is one of the three functions above. After each step, this yields {"groups": the
    groups that the policy wrote, "num_cut": how many tokens were cut in the second update}.
    """
    params = [p for matrix in policy.values() for row in matrix for p in row]
    m = [0.0] * len(params)
    v = [0.0] * len(params)
    prompts = iter(prompts)
    num_updates = 0
    for step in range(grpo_steps):
        # 1. The policy, as it is now, writes the groups.
        old_policy = as_floats(policy)
        groups = []
        for _ in range(groups_per_step):
            groups.append(sample_group(old_policy, reference, next(prompts), chars))
        # 2. Each answer gets its advantage.
        answers = []
        for group in groups:
            advantages = advantages_of([answer["reward"] for answer in group])
            for answer, advantage in zip(group, advantages):
                answer["advantage"] = advantage
                answers.append(answer)
        # 3. The policy is changed twice, each time by the mean loss of all answers.
        rate = grpo_learning_rate * (1 - step / grpo_steps)
        for _ in range(updates_per_step):
            num_cut = 0  # starts again, so the count of the second update is what remains
            for answer in answers:
                loss, cut_here = answer_loss(policy, answer)
                (loss * (1 / len(answers))).backward()  # the gradients of all answers add up
                num_cut += cut_here
            num_updates += 1
            adam_step(params, m, v, num_updates, rate)
        yield {"groups": groups, "num_cut": num_cut}


def probs_after_update(reference, group):
    """The probability of each answer, after one Adam step at the full rate by this group alone."""
    policy = as_values(reference)
    advantages = sibling_advantages([answer["reward"] for answer in group])
    for answer, advantage in zip(group, advantages):
        loss, _ = answer_loss(policy, {**answer, "advantage": advantage})
        # The loss is a sum here, and not a mean. Adam's first step ignores such a factor.
        loss.backward()
    params = [p for matrix in policy.values() for row in matrix for p in row]
    adam_step(params, [0.0] * len(params), [0.0] * len(params), 1, grpo_learning_rate)
    return [math.prod(token_probs(as_floats(policy), answer["tokens"])) for answer in group]


# === THE TASK, as in microdpo ===
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


def judge_models(models, reference, prompts, chars):
    """Judge several models {title: model}. Return {title: names} and {title: figures}."""
    samples = {}
    figures = {}
    for title, model in models.items():
        samples[title], figures[title] = judge(model, reference, prompts, chars)
    return samples, figures


def show_names(titles, rows):
    """Print the first eight rows of names in columns. Vowels are in capitals for the eye."""
    capitals = str.maketrans(vowels, vowels.upper())
    print("".join(f"{title:<13}" for title in titles).rstrip())
    for names in rows[:8]:
        print("".join(f"{name.translate(capitals):<13}" for name in names).rstrip())


# === HOW GOOD IT IS: the course of training, and the noise of the gradient ===
def summarize(records):
    """Figures of some steps of training, from their records.

    {"reward": mean reward, "equal": share of groups with equal rewards, "cut": share of the tokens
    cut in the second updates, "kl": KL divergence from the reference per answer, by kl_estimate()}
    """
    rewards = []
    equal = []
    kls = []
    num_tokens = 0
    num_cut = 0
    for record in records:
        num_cut += record["num_cut"]
        for group in record["groups"]:
            group_rewards = [answer["reward"] for answer in group]
            rewards += group_rewards
            equal.append(min(group_rewards) == max(group_rewards))
            for answer in group:
                both = zip(answer["old_probs"], answer["ref_probs"])
                kls.append(math.fsum(kl_estimate(prob, ref_prob) for prob, ref_prob in both))
                num_tokens += len(answer["old_probs"])
    return {
        "reward": mean(rewards),
        "equal": mean(equal),
        "cut": num_cut / num_tokens,
        "kl": mean(kls),
    }


def train_policies(reference, prompts, chars):
    """Train a policy with each kind of advantages. Return {title: policy}, {title: records}.

    The three begin as copies of the reference, and have the same prompts, steps, rate and price.
    But they draw different random numbers, so small differences between them may be chance.
    """
    kinds = {
        "siblings": sibling_advantages,
        "divided": divided_advantages,
        "plain": plain_advantages,
    }
    policies = {}
    records = {}
    for title, advantages_of in kinds.items():
        show_header(title)
        started = time.perf_counter()
        policy = as_values(reference)
        records[title] = []
        for record in train_grpo(policy, reference, prompts, chars, advantages_of):
            records[title].append(record)
            if len(records[title]) % show_every == 0:
                show_steps(len(records[title]), summarize(records[title][-show_every:]), started)
        policies[title] = as_floats(policy)
    return policies, records


def log_prob_gradient(model, tokens):
    """dlog p for every parameter of a model of floats, where p is the probability of an answer."""
    values = as_values(model)
    log_p = 0.0
    for prob in token_probs(values, tokens):
        log_p = log_p + log(prob)
    log_p.backward()
    return [p.grad for matrix in values.values() for row in matrix for p in row]


def gradient_noise(advantages, gradients):
    """How far advantage * dlog p scatters from answer to answer: its variance.

    advantages [answers], gradients [answers][parameters]. The sum over all parameters is returned.
    """
    noise = 0.0
    for column in zip(*gradients):  # one parameter's dlog p, for all answers
        pushes = [a * dlog_p for a, dlog_p in zip(advantages, column)]
        center = mean(pushes)
        noise += mean([(push - center) ** 2 for push in pushes])
    return noise


def compare_baselines(model, groups):
    """The noise with three baselines, on the same groups, which the model has written.

    Subtracted are {"plain": 0, "constant": the mean of all groups, "others": that of the siblings}.
    """
    rewards = []
    others = []
    gradients = []
    for group in groups:
        group_rewards = [answer["reward"] for answer in group]
        rewards += group_rewards
        for reward in group_rewards:
            siblings = (math.fsum(group_rewards) - reward) / (len(group) - 1)
            others.append(reward - siblings)  # without the factor 7/8 of sibling_advantages()
        gradients += [log_prob_gradient(model, answer["tokens"]) for answer in group]
    constant = mean(rewards)
    return {
        "plain": gradient_noise(rewards, gradients),
        "constant": gradient_noise([reward - constant for reward in rewards], gradients),
        "others": gradient_noise(others, gradients),
    }


# === WHAT CAME OUT: about as many preferred names as with plain rewards, and mostly less drift ===
#
# Over the seeds 42 to 46, 1000 names of each policy gave:
#
#                       siblings          divided            plain
#     preferred       0.81 to 0.86      0.93 to 0.94      0.82 to 0.91
#     KL              1.07 to 1.22      1.61 to 2.00      1.72 to 2.40
#
# In these runs plain had the larger KL by 0.5 or more. Four trials were made outside of this run:
#
#     1. Both policies trained six more times, with other random numbers: plain had the larger KL in
#        all six, by 0.10, 0.19, 0.50, 0.50, 0.94 and 1.34 (siblings: 1.15 to 1.36). Another time it
#        was by 0.01. So the five seeds understate the spread, and the bound kl + 0.2 in main()
#        would have failed twice in six times.
#     2. plain at twice the price (kl_coef = 0.2): 0.73 preferred at a KL of 1.21. At about this KL,
#        siblings have more preferred names: 0.85 at 1.08.
#     3. divided at twice the price: 0.84 preferred at a KL of 1.22, about as siblings. This
#        suggests that the division mainly makes the price count less beside larger advantages.
#     4. One baseline for all, the mean of the 32 rewards of a step, and siblings, five times with
#        the same random numbers: 0.85 to 0.89 preferred at 1.21 to 1.27, and 0.85 to 0.89 at 1.17
#        to 1.27. So a mean for each prompt adds nothing here. The variance of the mean rewards of
#        prompts (by the base, 0.12 for y to 0.3) is about 0.001. By chance alone, the means of
#        groups have a variance of 0.024.
#
# Some drift is needed. A name is preferred with probability 0.26 at the base, and 0.85 afterwards.
# The least KL for this is that of the base with its preferred names more often, and nothing else
# changed: 0.85 * log(0.85 / 0.26) + 0.15 * log(0.15 / 0.74) = 0.77. If all names were preferred, it
# would be log(1 / 0.26) = 1.35. So siblings are nearer to what is needed than plain and divided.
#
# After training, most answers are preferred, and plain pushes each of them at full strength. The
# mean of the other seven leaves 20 to 30 % of this noise on these seeds. The mean of all 160 leaves
# a little less, because a mean of seven has noise of its own. At the base the differences are
# smaller, and 160 answers leave them uncertain. The clip cuts 1 to 2 % of the tokens in the second
# updates. With seed 42 it cuts 11 % in steps 1 to 4.


# === MAIN ===
def main():
    started = time.perf_counter()
    random.seed(42)

    names = load_names()
    chars = sorted(set("".join(names)))
    base_names, prompt_names, heldout = split_names(names)
    # A prompt is only a letter. So nearly all prompts for judging occur in training, too. (60 of
    # the 1000 do not: n, p, q, u and x are no prompts of training, with seed 42.)
    train_prompts = [chars.index(name[0]) for name in prompt_names]
    prompts = [chars.index(name[0]) for name in heldout[:num_prompts]]
    print(f"Training the base model on {len(base_names)} names:")
    model = as_values(init_model(len(chars) + 1, n_embd))
    show_training(train(model, base_names, chars), num_steps)
    reference = as_floats(model)  # frozen from here on
    base_samples, base = judge(reference, reference, prompts, chars)

    # What does a group look like? All of these are used below to measure the noise.
    probes = train_prompts[-num_probes:]
    base_groups = [sample_group(reference, reference, prompt, chars) for prompt in probes]
    show_group(base_groups[0], probs_after_update(reference, base_groups[0]), chars)

    # Three policies, which differ in the kind of advantage and in the random numbers they draw.
    explain_columns()
    policies, records = train_policies(reference, train_prompts, chars)

    # What does each model write, how often is it preferred, and how far has the model moved?
    samples, figures = judge_models(policies, reference, prompts, chars)
    show_models({"base": base_samples, **samples}, {"base": base, **figures})
    grpo = figures["siblings"]
    first_steps = summarize(records["siblings"][:show_every])
    last_steps = summarize(records["siblings"][-show_every:])

    # How noisy is the gradient with each baseline, before and after training?
    policy = policies["siblings"]
    groups = [sample_group(policy, reference, prompt, chars) for prompt in probes]
    noise = compare_baselines(policy, groups)
    show_noise({"base": compare_baselines(reference, base_groups), "siblings": noise})

    # The bounds hold with the seeds 42 to 46, and that of plain_kl not always (see trial 1 above).
    print_results(
        [
            ("base_preferred_rate", base["preferred_rate"], ""),
            ("preferred_rate", grpo["preferred_rate"], f"> {base['preferred_rate'] + 0.3:.4f}"),
            ("divided_preferred_rate", figures["divided"]["preferred_rate"], ""),
            ("plain_preferred_rate", figures["plain"]["preferred_rate"], ""),
            ("kl", grpo["kl"], "< 2"),
            ("divided_kl", figures["divided"]["kl"], ""),
            ("plain_kl", figures["plain"]["kl"], f"> {grpo['kl'] + 0.2:.4f}"),
            ("unique_share", grpo["unique_share"], "> 0.85"),
            ("mean_length", grpo["mean_length"], "4.7 to 6.4"),
            ("reward_gain", last_steps["reward"] - first_steps["reward"], "> 0.3"),
            ("cut_share", summarize(records["siblings"])["cut"], "> 0"),
            ("noise_to_plain", noise["others"] / noise["plain"], "< 0.5"),
            ("noise_to_constant", noise["others"] / noise["constant"], ""),
            ("runtime_seconds", time.perf_counter() - started, "< 420"),
        ]
    )


# === DRAWING: nothing below is needed to understand the algorithm ===
def show_group(group, probs_after, chars):
    """Print one group: its answers, rewards, advantages, and the factors of their probabilities."""
    rewards = [answer["reward"] for answer in group]
    plain = plain_advantages(rewards)
    siblings = sibling_advantages(rewards)
    divided = divided_advantages(rewards)
    capitals = str.maketrans(vowels, vowels.upper())
    print(f"\nThe base model answers one prompt {len(rewards)} times. Vowels are in capitals:")
    print("name      reward       plain    siblings    divided    after / before")
    for i, answer in enumerate(group):
        name = spell(answer["tokens"], chars).translate(capitals)
        change = probs_after[i] / math.prod(answer["old_probs"])
        print(
            f"{name:<10}{rewards[i]:6.0f}{plain[i]:12.3f}{siblings[i]:12.3f}{divided[i]:11.3f}"
            f"{change:17.2f}"
        )
    std = math.sqrt(mean([a**2 for a in siblings]))
    print("plain           advantage: the reward itself")
    print(f"siblings        advantage: the reward minus the mean of the group, {mean(rewards):.3f}")
    print(f"divided         the same, divided by the standard deviation, {std:.3f}")
    print("after / before  the probability after one update by this group (siblings) / before it.")
    print("                divided would give the same, as Adam's first step ignores a factor.")


def explain_columns():
    """Print what the columns of show_steps() mean."""
    print("\nThe next three tables are about what the policies write in training:")
    print("equal   share of groups whose rewards are equal, so that siblings only get the price")
    print("cut     share of the tokens that the reward pushed no further in the second update")
    print("KL      from the reference, per name, as kl_estimate() has it, in nats (log base e)")


def show_header(title):
    """Print the titles of the columns of show_steps()."""
    print(f'\nTraining the policy "{title}":')
    print("  steps     equal     cut      KL    mean reward")


def show_steps(step, figures, started):
    """Print a line about the last steps of a training."""
    elapsed = time.perf_counter() - started
    remaining = elapsed * (grpo_steps / step - 1)
    first = step - show_every + 1
    bar = "#" * round(20 * figures["reward"])
    print(
        f"{first:2} to {step:2}{figures['equal']:8.2f}{figures['cut']:10.3f}"
        f"{figures['kl']:8.2f}{figures['reward']:8.2f} {bar:<20}"
        f"  {elapsed:5.1f} s, {remaining:5.1f} s left"
    )


def show_models(samples, figures):
    """Print a line per model, then some of the names that each wrote."""
    print(f"\n{num_prompts} names of each model. A name that is repeated counts once as different:")
    print("          preferred  different  mean length  KL to the reference")
    for title, row in figures.items():
        print(
            f"{title:9}{row['preferred_rate']:10.3f}{row['unique_share']:11.3f}"
            f"{row['mean_length']:13.2f}{row['kl']:12.3f}"
        )
    print("This KL is by kl_divergence(), from all probabilities at each place of these names.\n")
    show_names(list(samples), list(zip(*samples.values())))


def show_noise(noises):
    """Print the noise of the gradient with each baseline, a line per model."""
    print("\nNoise of the gradient of two models, by what is subtracted from the rewards 1 and 0:")
    print("          nothing    the mean of    the mean of the")
    print("          (plain)        all 160    other seven")
    for title, noise in noises.items():
        print(f"{title:9}{noise['plain']:8.1f}{noise['constant']:15.1f}{noise['others']:15.1f}")


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
