"""Matrices, gradients and optimizers for the tests. Nothing here comes from a script.

A model is {name: matrix}, and a matrix is a list of rows. Floats are the tests' own kind of number;
lift() turns them into a script's Values.
"""

import math
import random


def gaussian(rows, columns, std=1.0, seed=3):
    """A matrix [rows][columns] drawn from N(0, std^2) by a generator of its own."""
    rng = random.Random(seed)
    return [[rng.gauss(0, std) for _ in range(columns)] for _ in range(rows)]


def gpt_matrices(vocab_size=27, n_embd=16, block_size=16, n_layer=1, std=0.32, seed=3):
    """A float model in the shape of microgpt's.

    The weights are four times as large as microgpt's at the start, so that every part of the model
    matters to its output.
    """
    shapes = {"wte": (vocab_size, n_embd), "wpe": (block_size, n_embd)}
    shapes["lm_head"] = (vocab_size, n_embd)
    for layer in range(n_layer):
        for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):
            shapes[f"layer{layer}.{name}"] = (n_embd, n_embd)
        shapes[f"layer{layer}.mlp_fc1"] = (4 * n_embd, n_embd)
        shapes[f"layer{layer}.mlp_fc2"] = (n_embd, 4 * n_embd)
    rng = random.Random(seed)
    return {
        name: [[rng.gauss(0, std) for _ in range(columns)] for _ in range(rows)]
        for name, (rows, columns) in shapes.items()
    }


def enlarged(model, factor):
    """A copy of a float model, each number multiplied by `factor`."""
    return {name: [[factor * x for x in row] for row in matrix] for name, matrix in model.items()}


def lift(script, model):
    """A copy of a float model, each number a Value of the script."""
    return {
        name: [[script.Value(x) for x in row] for row in matrix] for name, matrix in model.items()
    }


def lower(model):
    """The numbers of a model of Values, as floats."""
    return {name: [[v.data for v in row] for row in matrix] for name, matrix in model.items()}


def gradients(model):
    """The gradients of a model of Values, in the model's shape."""
    return {name: [[v.grad for v in row] for row in matrix] for name, matrix in model.items()}


def gradient_of(script, f, model):
    """The gradient of f(model) by the script's backward(), in the model's shape.

    The model holds floats. f is called with a copy of it in Values.
    """
    values = lift(script, model)
    f(values).backward()
    return gradients(values)


def flat(model):
    """All numbers of a model, or of a matrix, as one list."""
    matrices = model.values() if isinstance(model, dict) else [model]
    return [x for matrix in matrices for row in matrix for x in row]


def places(model, count=None, seed=1):
    """The places (name, row, column) of a model: all of them, or `count` drawn at random."""
    everywhere = [
        (name, i, j)
        for name, matrix in model.items()
        for i, row in enumerate(matrix)
        for j in range(len(row))
    ]
    return everywhere if count is None else random.Random(seed).sample(everywhere, count)


def places_of_each(model, count, seed=1):
    """`count` places (name, row, column) of each matrix of a model, or all if it has fewer."""
    chosen = []
    for name, matrix in model.items():
        size = len(flat(matrix))
        chosen += places({name: matrix}, min(count, size), seed)
    return chosen


def pick(model, where):
    """The numbers of a model at places (name, row, column), in their order."""
    return [model[name][i][j] for name, i, j in where]


def slopes(f, model, where=None, h=1e-5):
    """Central differences of f(model) at places (name, row, column), in their order.

    The model holds floats. It is changed in place during the call, and is as before afterwards.
    The error is about h^2.
    """
    found = []
    for name, i, j in places(model) if where is None else where:
        row = model[name][i]
        kept = row[j]
        row[j] = kept + h
        up = f(model)
        row[j] = kept - h
        down = f(model)
        row[j] = kept
        found.append((up - down) / (2 * h))
    return found


def central_differences(f, inputs, h=1e-6):
    """Central differences of f(list of floats), one per input. The error is about h^2."""
    found = []
    for i in range(len(inputs)):
        up, down = list(inputs), list(inputs)
        up[i] += h
        down[i] -= h
        found.append((f(up) - f(down)) / (2 * h))
    return found


def adam(params, grads, m, v, step, lr, beta1=0.85, beta2=0.99, eps=1e-8):
    """One step of Adam on lists of floats (Kingma & Ba 2015, algorithm 1), with step >= 1.

    Returns the new params, m and v.
    """
    m = [beta1 * mi + (1 - beta1) * g for mi, g in zip(m, grads)]
    v = [beta2 * vi + (1 - beta2) * g**2 for vi, g in zip(v, grads)]
    moved = []
    for p, mi, vi in zip(params, m, v):
        m_hat = mi / (1 - beta1**step)
        v_hat = vi / (1 - beta2**step)
        moved.append(p - lr * m_hat / (math.sqrt(v_hat) + eps))
    return moved, m, v


def softmax(logits):
    """[n] scores -> [n] probabilities, by the definition with the largest score taken away."""
    peak = max(logits)
    exps = [math.exp(x - peak) for x in logits]
    total = math.fsum(exps)
    return [e / total for e in exps]


def matvec(matrix, vector):
    """matrix [rows][columns] times vector [columns] -> [rows]."""
    return [math.fsum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]
