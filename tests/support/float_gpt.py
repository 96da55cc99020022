"""microgpt's loss and gradient in plain floats, derived by hand: what backward() must agree with.

Also the floor of the benchmark: about as fast as this model gets in pure Python.
"""

import math

EPS = 1e-5


def matvec(w, x):
    out = []
    for row in w:
        total = 0.0
        for a, b in zip(row, x):
            total += a * b
        out.append(total)
    return out


def matvec_backward(w, dw, x, dy):
    """Add dL/dw to dw for y = w x; return dL/dx."""
    dx = [0.0] * len(x)
    for i, g in enumerate(dy):
        if g:
            dw[i] = [d + g * xj for d, xj in zip(dw[i], x)]
            dx = [d + g * wj for d, wj in zip(dx, w[i])]
    return dx


def norm(x):
    total = 0.0
    for xi in x:
        total += xi * xi
    scale = 1.0 / math.sqrt(total / len(x) + EPS)
    return [xi * scale for xi in x], scale


def norm_backward(x, scale, dy):
    """y = s x with s = (mean x^2 + eps)^-1/2, so dx = s dy - x s^3 / n (x . dy)."""
    total = 0.0
    for xi, g in zip(x, dy):
        total += xi * g
    c = total * scale**3 / len(x)
    return [scale * g - c * xi for xi, g in zip(x, dy)]


def softmax(logits):
    peak = max(logits)
    exps = [math.exp(x - peak) for x in logits]
    total = math.fsum(exps)
    return [e / total for e in exps]


def loss_and_grads(w, tokens, n_head=4, block_size=16):
    """Mean cross-entropy of a one-layer microgpt and {name: dL/dmatrix}."""
    grads = {name: [[0.0] * len(row) for row in matrix] for name, matrix in w.items()}
    w, g = _short(w), _short(grads)
    n = min(block_size, len(tokens) - 1)
    n_embd = len(w["wte"][0])
    d = n_embd // n_head
    keys, values, saved, loss = [], [], [], 0.0
    for t in range(n):
        e = [a + b for a, b in zip(w["wte"][tokens[t]], w["wpe"][t])]
        x0, s0 = norm(e)
        h1, s1 = norm(x0)
        q = matvec(w["attn_wq"], h1)
        keys.append(matvec(w["attn_wk"], h1))
        values.append(matvec(w["attn_wv"], h1))
        heads, weights = [], []
        for start in range(0, n_embd, d):
            part = slice(start, start + d)
            scores = []
            for k in keys:
                total = 0.0
                for a, b in zip(q[part], k[part]):
                    total += a * b
                scores.append(total / math.sqrt(d))
            p = softmax(scores)
            out = [0.0] * d
            for ps, v in zip(p, values):
                out = [o + ps * vj for o, vj in zip(out, v[part])]
            heads += out
            weights.append(p)
        x1 = [a + b for a, b in zip(x0, matvec(w["attn_wo"], heads))]
        h2, s2 = norm(x1)
        r = [max(0.0, u) for u in matvec(w["mlp_fc1"], h2)]
        x2 = [a + b for a, b in zip(x1, matvec(w["mlp_fc2"], r))]
        probs = softmax(matvec(w["lm_head"], x2))
        loss -= math.log(probs[tokens[t + 1]]) / n
        saved.append((e, s0, x0, h1, s1, q, heads, weights, x1, h2, s2, r, x2, probs))

    d_keys = [[0.0] * n_embd for _ in range(n)]
    d_values = [[0.0] * n_embd for _ in range(n)]
    for t in reversed(range(n)):  # later positions have added to d_keys[t] and d_values[t]
        e, s0, x0, h1, s1, q, heads, weights, x1, h2, s2, r, x2, probs = saved[t]
        d_logits = [p / n for p in probs]
        d_logits[tokens[t + 1]] -= 1 / n
        dx2 = matvec_backward(w["lm_head"], g["lm_head"], x2, d_logits)
        dr = matvec_backward(w["mlp_fc2"], g["mlp_fc2"], r, dx2)
        du = [gr if ri > 0 else 0.0 for gr, ri in zip(dr, r)]
        dh2 = matvec_backward(w["mlp_fc1"], g["mlp_fc1"], h2, du)
        dx1 = [a + b for a, b in zip(dx2, norm_backward(x1, s2, dh2))]
        d_heads = matvec_backward(w["attn_wo"], g["attn_wo"], heads, dx1)
        dq = []
        for p, start in zip(weights, range(0, n_embd, d)):
            part = slice(start, start + d)
            d_out = d_heads[part]
            d_p = matvec([v[part] for v in values[: t + 1]], d_out)
            total = 0.0
            for a, b in zip(p, d_p):
                total += a * b
            dq_part = [0.0] * d
            for s, (ps, dps) in enumerate(zip(p, d_p)):
                score = ps * (dps - total) / math.sqrt(d)  # through softmax and 1 / sqrt(d)
                dq_part = [a + score * b for a, b in zip(dq_part, keys[s][part])]
                d_keys[s][part] = [a + score * b for a, b in zip(d_keys[s][part], q[part])]
                d_values[s][part] = [a + ps * b for a, b in zip(d_values[s][part], d_out)]
            dq += dq_part
        dh1 = [0.0] * n_embd
        for name, dy in (("attn_wq", dq), ("attn_wk", d_keys[t]), ("attn_wv", d_values[t])):
            dh1 = [a + b for a, b in zip(dh1, matvec_backward(w[name], g[name], h1, dy))]
        dx0 = [a + b for a, b in zip(dx1, norm_backward(x0, s1, dh1))]
        de = norm_backward(e, s0, dx0)
        g["wte"][tokens[t]] = [a + b for a, b in zip(g["wte"][tokens[t]], de)]
        g["wpe"][t] = [a + b for a, b in zip(g["wpe"][t], de)]
    return loss, grads


def _short(matrices):
    return {name.rpartition(".")[2]: matrix for name, matrix in matrices.items()}


def adam_step(w, grads, m, v, step, lr, beta1=0.85, beta2=0.99, eps=1e-8):
    """One Adam update of all matrices in place; m and v are shaped like w."""
    correct1, correct2 = 1 / (1 - beta1**step), 1 / (1 - beta2**step)
    for name, matrix in w.items():
        for row, g_row, m_row, v_row in zip(matrix, grads[name], m[name], v[name]):
            for i, grad in enumerate(g_row):
                m_row[i] = beta1 * m_row[i] + (1 - beta1) * grad
                v_row[i] = beta2 * v_row[i] + (1 - beta2) * grad * grad
                row[i] -= lr * m_row[i] * correct1 / (math.sqrt(v_row[i] * correct2) + eps)
