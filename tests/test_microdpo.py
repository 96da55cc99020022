import itertools
import math
import random

import pytest
from harness import meets

CRITERIA = {
    "dpo_loss_first": "== 0.6931",
    "dpo_loss_last_50": "< 0.35",
    "pair_accuracy": "> 0.9",
    "runtime_seconds": "< 420",
}
CHARS = list("abcdefghijklmnopqrstuvwxyz")


@pytest.mark.parametrize("metric", CRITERIA)
def test_criterion(run, metric):
    assert meets(run.metrics[metric], CRITERIA[metric])
    assert run.criteria[metric] == CRITERIA[metric]


def test_loss_falls_from_log_2(run):
    assert run.metrics["dpo_loss_first"] == round(math.log(2), 4)
    assert run.metrics["dpo_loss_last_50"] < run.metrics["dpo_loss_first"] - 0.3


def test_preferred_rate_is_up(run):
    m = run.metrics
    assert m["preferred_rate"] > m["base_preferred_rate"] + 0.3
    assert meets(m["preferred_rate"], run.criteria["preferred_rate"])
    assert m["unique_share"] > 0.85
    assert m["mean_length"] > m["base_mean_length"] - 1


def test_held_out_pairs_are_ranked_better(run):
    m = run.metrics
    assert m["ranking_accuracy"] > m["base_ranking_accuracy"] + 0.08
    assert m["chosen_log_ratio"] > 0 > m["rejected_log_ratio"]


def kl_bars(run):
    lines = [line.split() for line in run.stdout.splitlines() if " steps " in line]
    return [(int(line[0]), float(line[2]), line[3]) for line in lines]


def test_kl_grows_along_training(run):
    m, bars = run.metrics, kl_bars(run)
    assert [steps for steps, _, _ in bars] == [75, 150, 225, 300]
    assert bars[1][1] == pytest.approx(m["kl_halfway"], abs=1e-3)
    assert bars[0][1] + 0.1 < bars[1][1]
    assert m["kl_halfway"] + 0.1 < bars[-1][1]
    assert meets(m["kl_halfway"], run.criteria["kl_halfway"])
    assert m["kl"] > 1.2 * m["kl_least"] > 0.3
    assert [len(stars) for _, _, stars in bars] == [round(30 * kl) for _, kl, _ in bars]


def test_more_beta_less_kl(run):
    m = run.metrics
    assert m["kl_low_beta"] - 0.2 > m["kl"] > m["kl_high_beta"] + 0.2
    for metric in ("kl_low_beta", "kl_high_beta"):
        assert meets(m[metric], run.criteria[metric])


def test_output_shows_the_betas_side_by_side(run):
    lines = run.stdout.splitlines()
    header = next(i for i, line in enumerate(lines) if line.split()[1:3] == ["beta", "0.1"])
    assert lines[header].split() == "base beta 0.1 beta 0.5 beta 2.0".split()
    table = {}
    for line in itertools.takewhile(bool, lines[header + 1 :]):
        key, *values = line.split()
        table[key] = [float(value) for value in values]
    assert all(len(values) == 4 for values in table.values())
    for key, (base, _, middle, _) in table.items():
        assert middle == pytest.approx(run.metrics[key], abs=6e-4)
        assert base == pytest.approx(run.metrics.get(f"base_{key}", 0), abs=6e-4)
    _, low, _, high = table["kl"]
    assert (low, high) == pytest.approx(
        (run.metrics["kl_low_beta"], run.metrics["kl_high_beta"]), abs=6e-4
    )
    assert all(kl >= least for kl, least in zip(table["kl"], table["kl_least"]))
    ratios = table["rejected_log_ratio"]
    assert ratios == [0, *sorted(ratios[1:])]
    _, low, middle, high = table["chosen_log_ratio"]
    assert low < 0 < min(middle, high)  # the known side effect, where the leash is long
    names = next(i for i, line in enumerate(lines) if line.startswith("base   "))
    assert all(len({word[0] for word in line.split()}) == 1 for line in lines[names + 1 :][:8])
    assert "300 pairs to train on, 300 held out" in run.stdout


def float_models(script, vocab_size=27, count=2, scale=5):
    """Float models, larger than at the start, so that every part matters."""
    random.seed(3)
    return [
        {
            name: [[scale * p.data for p in row] for row in rows]
            for name, rows in script.init_model(vocab_size).items()
        }
        for _ in range(count)
    ]


def as_values(script, weights):
    return {name: [[script.Value(x) for x in row] for row in m] for name, m in weights.items()}


def gradients(model):
    return [p.grad for matrix in model.values() for row in matrix for p in row]


def pair_of(script, chosen="milena", rejected="max"):
    return [script.encode(name, CHARS) for name in (chosen, rejected)]


def loss_of(script, policy, reference, pair, beta):
    return script.dpo_loss(*script.log_ratios(policy, reference, pair), beta)


def true_sigmoid(x):
    """1 / (1 + exp(-x)) where neither side can overflow."""
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


@pytest.mark.parametrize("x", [0.0, 1e-9, -1e-9, 0.3, -0.3, 5.0, -5.0, 30.0, -30.0, 1e3, -1e3])
def test_minus_log_sigmoid_and_its_slope(script, x):
    """Value and gradient in closed form; at 0, where every policy starts, -1/2 and not 0."""
    expected = math.log1p(math.exp(-x)) if x > -700 else -x
    leaf = script.Value(x)
    result = script.minus_log_sigmoid(leaf)
    assert result.data == script.minus_log_sigmoid(x) == pytest.approx(expected, abs=1e-12)
    result.backward()
    assert leaf.grad == pytest.approx(-true_sigmoid(-x), rel=1e-9, abs=1e-300)


def test_loss_is_stable_for_log_ratios_of_a_thousand(script):
    for chosen, rejected in itertools.product((-1000.0, 0.0, 1000.0), repeat=2):
        leaves = [script.Value(chosen), script.Value(rejected)]
        loss = script.dpo_loss(*leaves, 0.5)
        loss.backward()
        m = chosen - rejected
        assert loss.data == pytest.approx(
            max(-0.5 * m, 0.0) + math.log1p(math.exp(-abs(0.5 * m))), abs=1e-12
        )
        slope = -0.5 * true_sigmoid(-0.5 * m)
        assert [leaf.grad for leaf in leaves] == pytest.approx([slope, -slope], abs=1e-12)


def test_log_prob_is_the_log_of_the_product(script):
    """Of the probabilities of the letters after the prompt and of the end; the test's softmax."""
    (model,) = float_models(script, count=1)
    for name in ("milena", "jo", "abcdefg"):
        tokens, cache, product = script.encode(name, CHARS), {}, 1.0
        for i, token in enumerate(tokens[:-1]):
            exps = [math.exp(x) for x in script.gpt(model, token, i, cache)]
            if i > 0:
                product *= exps[tokens[i + 1]] / math.fsum(exps)
        assert script.log_prob(model, tokens) == pytest.approx(math.log(product), rel=1e-12)
        assert script.log_prob(as_values(script, model), tokens).data == script.log_prob(
            model, tokens
        )


def test_probabilities_of_all_completions_add_up_to_one(script, monkeypatch):
    monkeypatch.setattr(script, "block_size", 4)
    (model,) = float_models(script, 3, 1)
    total = 0.0
    for prompt in (0, 1):
        ended = [
            [2, prompt, *letters, 2]
            for n in range(3)
            for letters in itertools.product((0, 1), repeat=n)
        ]
        cut = [[2, prompt, *letters] for letters in itertools.product((0, 1), repeat=3)]
        total += math.fsum(math.exp(script.log_prob(model, tokens)) for tokens in ended + cut)
    assert total == pytest.approx(2, abs=1e-12)


def test_log_ratios(script):
    policy, reference = float_models(script)
    pair = pair_of(script)
    refs = [script.log_prob(reference, tokens) for tokens in pair]
    found = script.log_ratios(policy, reference, pair)
    assert found == [script.log_prob(policy, tokens) - ref for tokens, ref in zip(pair, refs)]
    assert min(map(abs, found)) > 0.01
    assert script.log_ratios(reference, reference, pair) == [0.0, 0.0]


def test_a_policy_equal_to_the_reference_loses_log_2(script):
    (reference,) = float_models(script, count=1)
    for beta in (0.01, 0.5, 10.0):
        policy = as_values(script, reference)
        assert loss_of(script, policy, reference, pair_of(script), beta).data == math.log(2)


@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_gradient_is_the_closed_form(script, beta, start):
    """-beta sigmoid(-beta m) (grad log pi(c) - grad log pi(r)); the factor starts as -beta/2."""
    policy, reference = float_models(script)
    policy = reference if start else policy
    pair = pair_of(script)
    ups, downs = [], []
    for tokens, grads in zip(pair, (ups, downs)):
        values = as_values(script, policy)
        script.log_prob(values, tokens).backward()
        grads += gradients(values)
    values = as_values(script, policy)
    loss_of(script, values, reference, pair, beta).backward()
    found = gradients(values)
    c, r = (script.log_prob(policy, t) - script.log_prob(reference, t) for t in pair)
    factor = -beta / 2 if start else -beta / (1 + math.exp(beta * (c - r)))
    assert start == (c == r)
    assert found == pytest.approx([factor * (a - b) for a, b in zip(ups, downs)], abs=1e-11)
    assert max(map(abs, found)) > 0.01


def test_gradient_of_the_loss_equals_finite_differences(script):
    policy, reference = float_models(script)
    pair, beta = pair_of(script), 0.7
    values = as_values(script, policy)
    loss_of(script, values, reference, pair, beta).backward()
    rng, seen = random.Random(0), 0
    for key, matrix in policy.items():
        for _ in range(5):
            i = rng.choice(pair[0][1:4]) if key == "wte" else rng.randrange(min(5, len(matrix)))
            j = rng.randrange(len(matrix[i]))
            kept, slope = matrix[i][j], 0.0
            for sign in (1, -1):
                matrix[i][j] = kept + sign * 1e-5
                slope += sign * loss_of(script, policy, reference, pair, beta) / 2e-5
            matrix[i][j] = kept
            assert values[key][i][j].grad == pytest.approx(slope, rel=1e-5, abs=1e-8), key
            seen += abs(slope) > 1e-3
    assert seen > 20


def test_swapping_chosen_and_rejected_flips_the_margin(script):
    """-log s(x) + log s(-x) = -x."""
    policy, reference = float_models(script)
    pair, beta = pair_of(script), 0.7
    c, r = (script.log_prob(policy, t) - script.log_prob(reference, t) for t in pair)
    there = loss_of(script, policy, reference, pair, beta)
    back = loss_of(script, policy, reference, pair[::-1], beta)
    assert there - back == pytest.approx(-beta * (c - r), abs=1e-12)
    assert math.exp(-there) + math.exp(-back) == pytest.approx(1)


@pytest.mark.parametrize("beta", [0.2, 1.5])
def test_the_optimum_under_a_reward_predicts_its_preferences(script, beta):
    """Eq. 4 by enumeration: pi = ref exp(r / beta) / Z. Then eq. 7 is -log sigmoid(r1 - r2)."""
    rng = random.Random(1)
    ref = [rng.random() for _ in range(12)]
    ref = [p / math.fsum(ref) for p in ref]
    rewards = [rng.gauss(0, 1) for _ in ref]
    pi = [p * math.exp(r / beta) for p, r in zip(ref, rewards)]
    pi = [p / math.fsum(pi) for p in pi]
    for i, j in itertools.permutations(range(12), 2):
        ratios = [math.log(pi[k] / ref[k]) for k in (i, j)]
        p = math.exp(-script.dpo_loss(*ratios, beta))
        assert p == pytest.approx(true_sigmoid(rewards[i] - rewards[j]), rel=1e-9)


def few_pairs(script):
    return [pair_of(script, *names) for names in (("milena", "max"), ("rory", "rhys"))]


def test_training_leaves_the_reference_as_it_is_bit_for_bit(script):
    reference, start = (float_models(script, count=1)[0] for _ in range(2))
    policy = as_values(script, reference)
    losses = list(script.train_dpo(policy, reference, few_pairs(script) * 3, 0.5))
    assert len(losses) == 6
    assert reference == start
    assert losses[0] == pytest.approx(math.log(2), abs=1e-12)
    assert losses[-1] < math.log(2) - 0.05
    for key, rows in reference.items():
        moved = [p.data != x for row, r in zip(policy[key], rows) for p, x in zip(row, r)]
        assert any(moved), key


def test_the_loss_is_of_policy_against_reference(script):
    policy, reference = float_models(script)
    pairs = few_pairs(script)
    training = script.train_dpo(as_values(script, policy), reference, pairs, 0.5)
    assert next(training) == pytest.approx(loss_of(script, policy, reference, pairs[0], 0.5))


def test_steps_of_training_are_adam_on_one_pair_after_the_other(script):
    """Against a loop of the test's own; the rate stays."""
    policy, reference = float_models(script)
    pairs, values = few_pairs(script) * 2, as_values(script, policy)
    losses = list(script.train_dpo(values, reference, pairs, 0.5))
    mine = as_values(script, policy)
    params = [p for matrix in mine.values() for row in matrix for p in row]
    m, v, expected = [0.0] * len(params), [0.0] * len(params), []
    for step in range(4):
        loss = loss_of(script, mine, reference, pairs[step], 0.5)
        loss.backward()
        script.adam_step(params, m, v, step + 1, script.dpo_learning_rate)
        expected.append(loss.data)
    assert losses == expected
    for key, rows in mine.items():
        assert [script.floats(r) for r in values[key]] == [script.floats(r) for r in rows]


@pytest.mark.slow
def test_training_raises_the_margin_and_more_so_for_a_small_beta(script):
    (reference,) = float_models(script, count=1)
    pair, margins = pair_of(script), []
    for beta in (0.1, 2.0):
        policy = as_values(script, reference)
        losses = list(script.train_dpo(policy, reference, [pair] * 60, beta))
        assert losses[-1] < losses[len(losses) // 2] < losses[0]
        c, r = (ratio.data for ratio in script.log_ratios(policy, reference, pair))
        margins.append(c - r)
    assert margins[0] > margins[1] + 1 > 1


def test_judge_pairs_by_hand(script, monkeypatch):
    """Log-probabilities given: margins 3, 0, 2 and 0.5, two pairs ranked right, by the base one."""
    given = {
        "policy": [(-5.0, -6.0), (-7.0, -2.0), (-9.0, -6.0), (-3.0, -4.0)],
        "base": [(-6.0, -4.0), (-6.0, -1.0), (-12.0, -7.0), (-3.0, -3.5)],
    }
    pairs = [((i, 0), (i, 1)) for i in range(4)]
    monkeypatch.setattr(
        script, "log_prob", lambda model, tokens: given[model][tokens[0]][tokens[1]]
    )
    assert script.judge_pairs("policy", "base", pairs) == {
        "pair_accuracy": 0.75,  # a margin of 0 is not ahead
        "ranking_accuracy": 0.5,
        "chosen_log_ratio": (1.0 - 1.0 + 3.0 + 0.0) / 4,
        "rejected_log_ratio": (-2.0 - 1.0 + 1.0 - 0.5) / 4,
    }
    assert script.judge_pairs("base", "base", pairs) == {
        "pair_accuracy": 0.0,
        "ranking_accuracy": 0.25,
        "chosen_log_ratio": 0.0,
        "rejected_log_ratio": 0.0,
    }


def test_least_kl_is_that_of_the_reference_tilted_by_the_rule(script):
    """Eq. 4 with the rule as reward, by enumeration; any other policy of that rate pays more."""
    rng = random.Random(4)
    ref = [rng.random() for _ in range(10)]
    ref = [p / math.fsum(ref) for p in ref]
    pi = [p * math.exp(2.0 * (i < 3)) for i, p in enumerate(ref)]
    pi = [p / math.fsum(pi) for p in pi]
    least = script.least_kl(math.fsum(pi[:3]), math.fsum(ref[:3]))
    kl = math.fsum(p * math.log(p / q) for p, q in zip(pi, ref))
    assert kl > 0.1
    assert least == pytest.approx(kl, rel=1e-12)
    other = [pi[1], pi[2], pi[0], *pi[3:]]
    assert math.fsum(p * math.log(p / q) for p, q in zip(other, ref)) > least + 1e-3
    assert script.least_kl(0.3, 0.3) == 0
    assert script.least_kl(1.0, 0.25) == pytest.approx(math.log(4))


def test_figures_and_names_stand_side_by_side(script, capsys):
    script.show_figures(["beta 1", "beta 2"], [{"kl": 0.5, "rate": 1.0}, {"kl": 0.25, "rate": 2}])
    script.show_names(["base", "beta 1"], ["milena"] * 20, ["rory"] * 20)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[:4] == [
        [],
        ["beta", "1", "beta", "2"],
        ["kl", "0.500", "0.250"],
        ["rate", "1.000", "2.000"],
    ]
    assert lines[5] == ["base", "beta", "1"]
    assert lines[6:] == [["mIlEnA", "rOrY"]] * 8


def test_result_rows(script):
    base = {"preferred_rate": 0.25, "kl": 0.0}
    columns = ({"preferred_rate": 0.5, "kl": kl} for kl in (2.0, 1.0, 0.5))
    rows = script.result_rows([0.75] * 10 + [0.25] * 50, [0.3, 0.6, 0.8, 0.9], base, *columns)
    assert rows == [
        ("training_pairs", 60, ""),
        ("dpo_loss_first", 0.75, "== 0.6931"),
        ("dpo_loss_last_50", 0.25, "< 0.35"),
        ("base_preferred_rate", 0.25, ""),
        ("preferred_rate", 0.5, "> 0.3500"),
        ("kl", 1.0, ""),
        ("kl_halfway", 0.6, "< 0.8000"),
        ("kl_low_beta", 2.0, "> 1.2000"),
        ("kl_high_beta", 0.5, "< 0.8000"),
    ]
