import itertools
import math
import random
import re

import pytest
from harness import load, meets

CRITERIA = {
    "rnn_params": "== 2811",
    "gru_params": "== 6651",
    "rnn_grad_ratio": "< 0.01",
    "gru_grad_ratio": "0.1 to 10",
    "heldout_names": "== 1000",
    "runtime_seconds": "< 540",
}
CHARS = list("abcdefghijklmnopqrstuvwxyz")
PARTS = {"rnn": "h", "gru": "hzr"}
each_cell = pytest.mark.parametrize("kind", PARTS)


@pytest.mark.parametrize("metric", CRITERIA)
def test_criterion(run, metric):
    assert meets(run.metrics[metric], CRITERIA[metric])
    assert run.criteria[metric] in (CRITERIA[metric], "")


@pytest.mark.parametrize("metric", ["final_loss", "heldout_loss"])
def test_the_gru_has_the_lower_loss(run, metric):
    rnn, gru = run.metrics[f"rnn_{metric}"], run.metrics[f"gru_{metric}"]
    assert gru < rnn < 2.6
    assert run.criteria[f"gru_{metric}"] == f"< {rnn:.4f}"


def test_the_heldout_gap_exceeds_its_noise(run):
    line = re.search(r"GRU's: (\S+), standard error over names (\S+)", run.stdout)
    gap, error = map(float, line.groups())
    assert gap == pytest.approx(
        run.metrics["rnn_heldout_loss"] - run.metrics["gru_heldout_loss"], abs=2e-4
    )
    assert gap > 3 * error > 0


def test_the_open_gate_makes_the_difference_and_not_the_gate(run):
    """Untrained, the GRU's gradient dies like the RNN's if its biases do not keep units slow."""
    m = run.metrics
    assert m["rnn_untrained_grad_ratio"] < 0.01
    assert m["gru_zero_bias_grad_ratio"] < 0.01
    assert 0.1 < m["gru_untrained_grad_ratio"] < 10


def test_the_direct_path_explains_the_ratio(run):
    assert run.metrics["gru_direct_grad_ratio"] == pytest.approx(
        run.metrics["gru_grad_ratio"], rel=0.25
    )


def test_samples_of_both_are_names(run):
    for kind in PARTS:
        assert run.metrics[f"{kind}_pronounceable_rate"] >= 0.8


def test_output_shows_norms_bars_curves_and_samples(run):
    lines = run.stdout.splitlines()
    rows = [line for line in lines if re.match(r" *\d+  (\d\.\de[+-]\d\d #*\s*){2,3}$", line)]
    assert [int(row.split()[0]) for row in rows] == [*range(1, 17)] * 2
    assert [row.count("e") for row in rows] == [3] * 16 + [2] * 16
    for table in (rows[:16], rows[16:]):
        rnn = [float(row.split()[1]) for row in table]
        assert all(b > a for a, b in zip(rnn[2:], rnn[3:]))  # the RNN's norms fall, going back
        last = rnn[-1]
        for row in table:
            _, norm, bar, *_ = row.split()
            assert abs(len(bar) - 17 - math.log2(float(norm) / last)) < 0.7
    assert sum(" |" in line and "*" in line for line in lines) >= 10
    assert sum(line.startswith("step ") for line in lines) == 26


def small_weights(script, kind, seed=3):
    """A float model with biases that are not zero and gates half open, so every part matters."""
    random.seed(seed)
    model = script.as_floats(script.init_model(PARTS[kind], 27))
    for name, matrix in model.items():
        scale = 3.0 if name.startswith("w_h") else 1.0
        model[name] = [[scale * x for x in row] for row in matrix]
        if name.startswith("b_"):
            model[name] = [[random.gauss(0, 0.5) for _ in matrix[0]]]
    return model


def as_values(script, weights):
    return {name: [[script.Value(x) for x in row] for row in m] for name, m in weights.items()}


def cell_of(script, kind):
    return {"rnn": script.rnn_cell, "gru": script.gru_cell}[kind]


def product(matrix, vector):
    return [math.fsum(a * b for a, b in zip(row, vector)) for row in matrix]


def logistic(x):
    return 1 / (1 + math.exp(-x))


def reference_state(w, token, h):
    """One step in the plan's words: matrices times a one-hot vector, then the equations."""
    one_hot = [float(i == token) for i in range(27)]

    def pre(part, past):
        w_x = [*zip(*w[f"w_x{part}"])]  # [n_hidden][vocab_size]
        terms = zip(product(w_x, one_hot), product(w[f"w_h{part}"], past), w[f"b_{part}"][0])
        return [math.fsum(t) for t in terms]

    if "w_xz" not in w:
        return [math.tanh(a) for a in pre("h", h)]
    z, r = ([logistic(a) for a in pre(gate, h)] for gate in "zr")
    c = [math.tanh(a) for a in pre("h", [ri * hi for ri, hi in zip(r, h)])]
    return [(1 - zi) * hi + zi * ci for zi, hi, ci in zip(z, h, c)]


def reference_loss(w, tokens):
    h, losses = [0.0] * 32, []
    for token, target in list(zip(tokens, tokens[1:]))[:16]:
        h = reference_state(w, token, h)
        scores = [a + b for a, b in zip(product(w["w_hy"], h), w["b_y"][0])]
        losses.append(math.log(math.fsum(map(math.exp, scores))) - scores[target])
    return math.fsum(losses) / len(losses)


@each_cell
@pytest.mark.parametrize("name", ["anna", "z", "bartholomewjames"])
def test_loss_equals_the_reference(script, kind, name):
    w, tokens = small_weights(script, kind), script.encode(name, CHARS)
    loss = script.name_loss(cell_of(script, kind), w, tokens)
    assert loss == pytest.approx(reference_loss(w, tokens), abs=1e-12)
    graph = script.name_loss(cell_of(script, kind), as_values(script, w), tokens)
    assert graph.data == pytest.approx(loss, abs=1e-13)


@each_cell
def test_gradient_through_time_equals_finite_differences(script, kind):
    """Every group of parameters of both cells, on a name with a letter that comes back."""
    weights, tokens = small_weights(script, kind), script.encode("olivia", CHARS)
    cell, model = cell_of(script, kind), as_values(script, weights)
    script.name_loss(cell, model, tokens).backward()
    rng = random.Random(0)
    for key, matrix in weights.items():
        for token in map(CHARS.index, "iv"):
            i = token if key.startswith("w_x") else rng.randrange(len(matrix))
            j = rng.randrange(len(matrix[i]))
            kept, slope = matrix[i][j], 0.0
            for sign in (1, -1):
                matrix[i][j] = kept + sign * 1e-5
                slope += sign * script.name_loss(cell, weights, tokens) / 2e-5
            matrix[i][j] = kept
            assert slope != 0.0
            assert model[key][i][j].grad == pytest.approx(slope, rel=1e-5, abs=1e-8), key


def loss_from(w, h, tokens):
    """-log p(last token) of the reference, from state h on: tokens[:-1] are still to be read."""
    for token in tokens[:-1]:
        h = reference_state(w, token, h)
    scores = [a + b for a, b in zip(product(w["w_hy"], h), w["b_y"][0])]
    return math.log(math.fsum(map(math.exp, scores))) - scores[tokens[-1]]


@each_cell
def test_state_gradients_equal_finite_differences(script, kind):
    """dL/dh_t: nudge the state after step t, run on, and look at the loss of the last step."""
    w, tokens = small_weights(script, kind), script.encode("olivia", CHARS)
    gradients = script.state_gradients(cell_of(script, kind), w, tokens)
    assert (len(gradients), len(gradients[0])) == (7, 32)
    h = [0.0] * 32
    for t, token in enumerate(tokens[:-1]):
        h = reference_state(w, token, h)
        for i in (0, 5, 31):
            slope = 0.0
            for sign in (1, -1):
                nudged = [x + sign * 1e-5 * (i == j) for j, x in enumerate(h)]
                slope += sign * loss_from(w, nudged, tokens[t + 1 :]) / 2e-5
            assert gradients[t][i] == pytest.approx(slope, rel=1e-4, abs=1e-9)


def test_rnn_cell_worked_by_hand(script):
    w = {"w_xh": [[0.5, -1.0], [0.0, 2.0]], "w_hh": [[1.0, 0.0], [2.0, -1.0]], "b_h": [[0.1, 0.2]]}
    h = script.rnn_cell(w, 0, [0.25, -0.5])
    # 0.5 + 0.1 + 0.25 = 0.85; -1 + 0.2 + 0.5 + 0.5 = 0.2
    assert h == pytest.approx([0.69106946983, 0.19737532022], abs=1e-10)


def test_gru_cell_worked_by_hand(script):
    """One unit of state 0.5, with round numbers for both gates."""
    log3 = math.log(3)
    w = {
        "w_xz": [[0.0], [log3]],  # sigmoid(log 3) = 3/4
        "w_hz": [[2 * log3]],
        "b_z": [[-log3]],
        "w_xr": [[0.0], [-log3]],
        "w_hr": [[2 * log3]],
        "b_r": [[-log3]],
        "w_xh": [[0.0], [1.0]],
        "w_hh": [[4.0]],
        "b_h": [[-1.0]],
    }
    # Token 1: z = sigmoid(log3 + log3 - log3) = 3/4, r = sigmoid(-log3 + log3 - log3) = 1/4,
    # c = tanh(1 + 4 * (1/4 * 0.5) - 1) = tanh(0.5), h = 1/4 * 0.5 + 3/4 * tanh(0.5)
    assert script.gru_cell(w, 1, [0.5]) == pytest.approx([0.125 + 0.75 * 0.46211715726], abs=1e-11)
    # Token 0: z = 1/2, r = 1/2, c = tanh(4 * 0.25 - 1) = 0
    assert script.gru_cell(w, 0, [0.5]) == pytest.approx([0.25], abs=1e-12)


def test_a_gate_that_copies_passes_the_gradient_unchanged(script):
    w = small_weights(script, "gru")
    w["b_z"] = [[-1000.0] * 32]  # z = 0
    gradients = script.state_gradients(script.gru_cell, w, script.encode("annabella", CHARS))
    assert any(gradients[-1])
    assert all(step == gradients[-1] for step in gradients)
    assert script.grad_ratio([gradients]) == 1.0


def test_a_gate_that_replaces_makes_an_rnn(script):
    """z = 1 and r = 1: the GRU's equations are then the RNN's."""
    w = small_weights(script, "gru")
    w["b_z"], w["b_r"] = [[1000.0] * 32], [[1000.0] * 32]
    tokens = script.encode("anna", CHARS)
    assert script.name_loss(script.gru_cell, w, tokens) == pytest.approx(
        script.name_loss(script.rnn_cell, w, tokens), abs=1e-13
    )


def test_blend_equals_its_composed_graph(script):
    for z, h, c in ((0.3, -0.5, 0.8), (0.0, 0.4, -0.9), (1.0, 0.4, -0.9)):
        ours, theirs = ([script.Value(x) for x in (z, h, c)] for _ in range(2))
        fused = script.blend(*ours)
        composed = (1.0 - theirs[0]) * theirs[1] + theirs[0] * theirs[2]
        assert fused.data == pytest.approx(composed.data, abs=1e-15)
        assert script.blend(z, h, c) == fused.data
        (fused * fused).backward()
        (composed * composed).backward()
        for a, b in zip(ours, theirs):
            assert a.grad == pytest.approx(b.grad, abs=1e-15)
    gate, candidate = script.Value(0.25), script.Value(0.8)
    out = script.blend(gate, 0.4, candidate)  # the first state is of floats
    out.backward()
    assert (out.data, gate.grad, candidate.grad) == pytest.approx((0.5, 0.4, 0.25))


def test_sigmoid(script):
    for x in (-6.0, -0.7, 0.0, 0.7, 6.0):
        v = script.Value(x)
        y = v.sigmoid()
        y.backward()
        assert y.data == script.sigmoid(x) == pytest.approx(logistic(x), rel=1e-12)
        slope = (logistic(x + 1e-6) - logistic(x - 1e-6)) / 2e-6
        assert v.grad == pytest.approx(slope, rel=1e-6)
    for x, limit in ((1000.0, 1.0), (-1000.0, 0.0)):
        v = script.Value(x)
        y = script.sigmoid(v)
        y.backward()
        assert (y.data, v.grad, script.sigmoid(x)) == (limit, 0.0, limit)


def test_direct_gradient_multiplies_what_later_steps_keep(script):
    kept = [[9.0, 9.0], [0.5, 0.1], [0.5, 1.0]]  # step 1 comes before h_1: it does not count
    assert script.direct_gradient([2.0, -3.0], kept) == pytest.approx([0.5, -0.3])


def test_kept_shares_are_one_minus_z(script):
    w, tokens = small_weights(script, "gru"), script.encode("mia", CHARS)
    kept, h = script.kept_shares(w, tokens), [0.0] * 32
    assert (len(kept), len(kept[0])) == (4, 32)
    for token, shares in zip(tokens, kept):
        for i in (0, 17):
            a = w["w_xz"][token][i] + math.fsum(a * b for a, b in zip(w["w_hz"][i], h))
            assert shares[i] == pytest.approx(1 - logistic(a + w["b_z"][0][i]), abs=1e-12)
        h = reference_state(w, token, h)


def test_norms_are_averaged_over_sequences(script):
    gradients = [[[3.0, 4.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, -7.0]]]
    assert script.mean_norms(gradients) == [3.0, 4.0]
    assert script.grad_ratio(gradients) == 0.75


def deviation(rows):
    values = [x for row in rows for x in row]
    return math.sqrt(math.fsum(x * x for x in values) / len(values))


@each_cell
def test_both_cells_start_at_the_same_scales(script, kind):
    random.seed(1)
    w = script.as_floats(script.init_model(PARTS[kind], 27))
    expected = {"w_hy": ((27, 32), 0.3), "b_y": ((1, 27), 0.0)}
    for part in PARTS[kind]:
        expected[f"w_x{part}"] = ((27, 32), 0.3)
        expected[f"w_h{part}"] = ((32, 32), 0.1)
        expected[f"b_{part}"] = ((1, 32), 0.0)
    assert set(w) == set(expected)
    for name, (shape, std) in expected.items():
        assert (len(w[name]), len(w[name][0])) == shape
        if name == "b_z":
            assert w[name] == [[-4.0] * 6 + [3.0] * 26]
        else:
            assert deviation(w[name]) == pytest.approx(std, rel=0.1)


@each_cell
def test_training_is_plain_sgd(script, kind):
    """Two steps against finite differences of the reference loss, at the rate of 0.1."""
    random.seed(2)
    model = script.init_model(PARTS[kind], 27)
    steps = script.train(cell_of(script, kind), model, ["eve", "bo"], CHARS)
    for name in ("eve", "bo"):
        before, tokens = script.as_floats(model), script.encode(name, CHARS)
        assert next(steps) == pytest.approx(reference_loss(before, tokens), abs=1e-12)
        after = script.as_floats(model)
        for key, i, j in (("w_hh", 3, 4), ("w_xh", 26, 5), ("w_hy", 1, 2), ("b_h", 0, 7)):
            kept, slope = before[key][i][j], 0.0
            for sign in (1, -1):
                before[key][i][j] = kept + sign * 1e-5
                slope += sign * reference_loss(before, tokens) / 2e-5
            before[key][i][j] = kept
            assert after[key][i][j] == pytest.approx(kept - 0.1 * slope, abs=1e-8)
        assert all(p.grad == 0.0 for m in model.values() for row in m for p in row)


def test_names_longer_than_the_sequence_lose_their_tail(script):
    w = small_weights(script, "gru")
    long, longer = ("abcdefghijklmnopqrstuvwxyz"[:n] for n in (16, 26))
    assert script.name_loss(script.gru_cell, w, script.encode(longer, CHARS)) == script.name_loss(
        script.gru_cell, w, script.encode(long, CHARS)[:-1]
    )


def test_sequences_are_cut_from_a_stream_of_names(script, monkeypatch):
    monkeypatch.setattr(script, "num_sequences", 2)
    monkeypatch.setattr(script, "seq_len", 4)
    b = 26
    assert script.cut_sequences(["abc", "d", "efgh", "i"], CHARS) == [
        [b, 0, 1, 2, b],
        [b, 3, b, 4, 5],
    ]


def test_no_name_is_both_trained_on_and_held_out(script, monkeypatch):
    """main() on a list with repeats: no name is both in training and among those judged."""
    docs, heldout = [], []
    monkeypatch.setattr(script, "load_names", lambda: NAMES[:2000] * 2 + NAMES)
    monkeypatch.setattr(script, "show_gradients", lambda *args: [[[[1.0]], [[1.0]]]] * 2)
    monkeypatch.setattr(script, "show_gates", lambda *args: 1.0)
    monkeypatch.setattr(script, "show_training", lambda *args: docs.append(args[3]) or [1.0])
    monkeypatch.setattr(script, "encode", lambda name, chars: [name, name])
    monkeypatch.setattr(script, "cut_sequences", lambda names, chars: [])
    monkeypatch.setattr(script, "name_loss", lambda c, w, tokens: heldout.append(tokens[0]) or 1.0)
    monkeypatch.setattr(script, "sample", lambda cell, w, chars: "a")
    state = random.getstate()
    script.main()
    random.setstate(state)
    assert docs[0] == docs[1]
    assert heldout[:1000] == heldout[1000:]
    assert (len(docs[0]), len(heldout)) == (3000, 2000)
    assert len({*docs[0], *heldout}) == 4000


NAMES = ["".join(letters) for letters in itertools.product("abcdefghijklmnop", repeat=3)]


@each_cell
@pytest.mark.slow
def test_sampling_follows_the_tempered_distribution(script, monkeypatch, kind):
    """First characters of many samples against softmax(scores / temperature)."""
    w, cell = small_weights(script, kind), cell_of(script, kind)
    h = reference_state(w, 26, [0.0] * 32)
    scores = [a + b for a, b in zip(product(w["w_hy"], h), w["b_y"][0])]
    exps = [math.exp(x / 0.5) for x in scores]
    monkeypatch.setattr(script, "seq_len", 1)
    random.seed(7)
    n = 1500
    drawn = [script.sample(cell, w, CHARS) for _ in range(n)]
    for i, c in enumerate([*CHARS, ""]):
        p = exps[i] / math.fsum(exps)
        assert abs(drawn.count(c) / n - p) < 5 * math.sqrt(p * (1 - p) / n) + 1e-3


def test_sample_ends_at_the_boundary_or_the_longest_name(script):
    w = small_weights(script, "rnn")
    w["w_hy"] = [[0.0] * 32 for _ in range(27)]
    w["b_y"] = [[1000.0 * (i == 2) for i in range(27)]]
    assert script.sample(script.rnn_cell, w, CHARS) == "c" * 16
    w["b_y"] = [[1000.0 * (i == 26) for i in range(27)]]
    assert script.sample(script.rnn_cell, w, CHARS) == ""


def test_names_are_judged_as_in_microgpt(script):
    gpt = load("microgpt")
    known = script.trigrams("maria") | script.trigrams("strngth")
    for name in ("maria", "aria", "strngth", ""):
        assert script.trigrams(name) == gpt.trigrams(name)
        assert script.is_pronounceable(name, known) == gpt.is_pronounceable(name, known)
