"""microgpt once more, as plainly as it can be said: what the script's losses have to equal.

An engine after micrograd whose only nodes for a sum of products are a multiply and an add each,
and a model written out position by position. It shares no line with the script.
"""

import math
import random


class Node:
    """A scalar that knows its children and the derivative with respect to each."""

    __slots__ = ("data", "grad", "children", "slopes")

    def __init__(self, data, children=(), slopes=()):
        self.data, self.grad, self.children, self.slopes = data, 0.0, children, slopes

    def __add__(self, other):
        return Node(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other):
        return Node(self.data * other.data, (self, other), (other.data, self.data))

    def apply(self, value, slope):
        """A function of one argument, given its value and derivative here."""
        return Node(value, (self,), (slope,))

    def backward(self):
        """Depth first, each node after its children; the chain rule goes the other way."""
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, children_done = stack.pop()
            if children_done:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack += [(child, False) for child in node.children]
        self.grad = 1.0
        for node in reversed(order):
            for child, slope in zip(node.children, node.slopes):
                child.grad += slope * node.grad


def total(nodes):
    out = nodes[0]
    for node in nodes[1:]:
        out = out + node
    return out


def matvec(w, x):
    return [total([a * b for a, b in zip(row, x)]) for row in w]


def scaled(node, factor):
    return node.apply(node.data * factor, factor)


def norm(x):
    mean = scaled(total([xi * xi for xi in x]), 1 / len(x))
    base = mean.data + 1e-5
    inverse = mean.apply(base**-0.5, -0.5 * base**-1.5)
    return [xi * inverse for xi in x]


def softmax(x):
    peak = max(xi.data for xi in x)
    exps = [xi.apply(math.exp(xi.data - peak), math.exp(xi.data - peak)) for xi in x]
    sum_ = total(exps)
    inverse = sum_.apply(1 / sum_.data, -1 / sum_.data**2)
    return [e * inverse for e in exps]


def init(vocab_size, n_embd=16, block_size=16):
    """Matrices of Nodes, drawn in the published order; call random.seed before."""

    def matrix(rows, columns):
        return [[Node(random.gauss(0, 0.08)) for _ in range(columns)] for _ in range(rows)]

    sizes = [("wte", vocab_size, n_embd), ("wpe", block_size, n_embd)]
    sizes += [("lm_head", vocab_size, n_embd)]
    sizes += [(name, n_embd, n_embd) for name in ("wq", "wk", "wv", "wo")]
    sizes += [("fc1", 4 * n_embd, n_embd), ("fc2", n_embd, 4 * n_embd)]
    return {name: matrix(rows, columns) for name, rows, columns in sizes}


def loss_of(w, tokens, n_head=4):
    """Mean cross-entropy: every position attends to itself and to all before it."""
    inputs = tokens[:-1]
    x = [norm([a + b for a, b in zip(w["wte"][t], w["wpe"][i])]) for i, t in enumerate(inputs)]
    h = [norm(xi) for xi in x]
    q, k, v = ([matvec(w[name], hi) for hi in h] for name in ("wq", "wk", "wv"))
    size = len(x[0]) // n_head
    losses = []
    for i, target in enumerate(tokens[1:]):
        heads = []
        for a in range(0, len(x[0]), size):
            b = a + size
            scores = [
                scaled(total([m * n for m, n in zip(q[i][a:b], k[j][a:b])]), 1 / math.sqrt(size))
                for j in range(i + 1)
            ]
            p = softmax(scores)
            heads += [total([p[j] * v[j][c] for j in range(i + 1)]) for c in range(a, b)]
        xi = [a + b for a, b in zip(x[i], matvec(w["wo"], heads))]
        hidden = matvec(w["fc1"], norm(xi))
        hidden = [u.apply(max(u.data, 0.0), 1.0 if u.data > 0 else 0.0) for u in hidden]
        xi = [a + b for a, b in zip(xi, matvec(w["fc2"], hidden))]
        p = softmax(matvec(w["lm_head"], xi))[target]
        losses.append(p.apply(-math.log(p.data), -1 / p.data))
    return scaled(total(losses), 1 / len(losses))


def train(w, sequences, num_steps, lr=0.01, beta1=0.85, beta2=0.99, eps=1e-8):
    """Yield the loss of a step for each sequence of token ids; the rate falls over num_steps."""
    params = [p for matrix in w.values() for row in matrix for p in row]
    state = [(0.0, 0.0)] * len(params)
    for step, tokens in enumerate(sequences):
        loss = loss_of(w, tokens)
        loss.backward()
        for i, p in enumerate(params):
            m, v = state[i]
            m, v = beta1 * m + (1 - beta1) * p.grad, beta2 * v + (1 - beta2) * p.grad**2
            state[i] = m, v
            m, v = m / (1 - beta1 ** (step + 1)), v / (1 - beta2 ** (step + 1))
            p.data -= lr * (1 - step / num_steps) * m / (v**0.5 + eps)
            p.grad = 0.0
        yield loss.data
