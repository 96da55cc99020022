"""Break each algorithm on purpose and name the test that notices. By hand:

    python tests/mutations.py [microgpt ...]

Each break is one replacement in a copy of the repository. The quick tests of its script (and those
of the shared blocks) must fail; a break that they pass is a survivor, and the exit status 1.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import ROOT, SCRIPTS

# script: [(what is broken, the code, the broken code)]
# fmt: off
BREAKS = {
    "microgpt": [
        ("addition drops a gradient", "(self, other), (1.0, 1.0)", "(self, other), (1.0, 0.0)"),
        ("product rule not crossed", "(other.data, self.data))", "(self.data, other.data))"),
        ("power rule without the factor", "(k * self.data ** (k - 1),)", "(self.data ** (k - 1),)"),
        ("tanh slope", "(1.0 - y * y,)", "(1.0 - y,)"),
        ("relu lets everything through", "(float(self.data > 0),)", "(1.0,)"),
        ("log without a clip", "p := max(self.data, 1e-10)", "p := self.data"),
        ("oldest first", "key=lambda v: v._order, reverse=True", "key=lambda v: v._order"),
        ("gradient overwritten", "v.grad += local_grad * grad", "v.grad = local_grad * grad"),
        ("graph kept", "            del node._inputs, node._local_grads", "            pass"),
        ("dot: own vector as slope", "[*ys, *xs]", "[*xs, *ys]"),
        ("dot: floats lose the other gradient", "else dot(b, a)", "else total"),
        ("softmax without the shift", "exp(x - peak)", "exp(x)"),
        ("softmax detached from its sum", "dot(exps, [1.0] * len(exps))", "dot(floats(exps), [1.0] * len(exps))"),
        ("attention not scaled", "dot(q, k) * len(q) ** -0.5", "dot(q, k)"),
        ("attention forgets the first key", "-0.5 for k in keys]", "-0.5 for k in keys[1:] or keys]"),
        ("norm of the sum of squares", "dot(x, x) * (1 / len(x))", "dot(x, x)"),
        ("one norm fewer", "x = rmsnorm([t + p", "x = ([t + p"),
        ("keys for values", 'attn_wv"]))', 'attn_wk"]))'),
        ("no residual around attention", "[a + b for a, b in zip(x, linear(heads,", "[b for a, b in zip(x, linear(heads,"),
        ("no position embedding", "[t + p for t, p in zip(", "[t for t, p in zip("),
        ("every head reads the first share", "slice(start, start + n_embd // n_head)", "slice(0, n_embd // n_head)"),
        ("predicts the token it sees", "probs[tokens[pos_id + 1]]", "probs[tokens[pos_id]]"),
        ("sum for mean", "return total * (1 / n)", "return total"),
        ("no bias correction", "1 / (1 - beta1**step), 1 / (1 - beta2**step)", "1.0, 1.0"),
        ("second moment not squared", "(1 - beta2) * p.grad * p.grad", "(1 - beta2) * p.grad"),
        ("gradients not cleared", "        p.grad = 0.0\n", ""),
        ("learning rate does not fall", "learning_rate * (1 - step / num_steps)", "learning_rate"),
        ("another order of draws", '"wpe": (block_size, n), "lm_head": (vocab_size, n)}', '"lm_head": (vocab_size, n), "wpe": (block_size, n)}'),
        ("temperature multiplied", "[x / temperature for x", "[x * temperature for x"),
        ("boundary in the name", "        if token_id == bos:\n            break\n", ""),
        ("context not respected", "min(block_size, len(tokens) - 1)", "len(tokens) - 1"),
        ("four consonants allowed", '"CCCC" not in shape', '"CCCCC" not in shape'),
        ("unknown trigrams allowed", " and trigrams(name) <= known", ""),
    ],
    "microtokenizer": [
        ("merges do not skip", "i += 2 if found else 1", "i += 1"),
        ("ties to the largest pair", "best = min([pair", "best = max([pair"),
        ("words not weighted", "pair_counts[pair] += count\n            words", "pair_counts[pair] += 1\n            words"),
        ("old pairs not taken off", "pair_counts[pair] -= count", "pass"),
        ("new pairs not indexed", "                words_with[pair].add(i)\n            words[i]", "            words[i]"),
        ("new pairs not counted", "pair_counts[pair] += count\n                words", "words"),
        ("ids start too low", "256 + len(merges)\n", "255 + len(merges)\n"),
        ("halves swapped", "vocab[left] + vocab[right]", "vocab[right] + vocab[left]"),
        ("latest merge first", "merges.get(pair, float(\"inf\"))", "-merges.get(pair, float(\"-inf\"))"),
        ("one merge only", "        ids = merge(ids, best, merges[best])\n    return ids", "        return merge(ids, best, merges[best])\n    return ids"),
        ("bad bytes dropped", 'errors="replace"', 'errors="ignore"'),
        ("latin-1 for UTF-8", "text.encode() if", 'text.encode("latin-1", "ignore") if'),
        ("hash not checked", "is_url and hashlib", "False and hashlib"),
        ("cache written in place", 'temporary = f"{beside}.{os.getpid()}.tmp"', 'temporary = f"{beside}.tmp"'),
        ("nothing kept", "            os.replace(temporary, beside)", "            pass"),
        ("no limit on the download", "5_000_000 if is_url else -1", "-1"),
        ("a folder that cannot be written stops the run", "except OSError as error:  # no", "except ZeroDivisionError as error:  # no"),
        ("the temporary file stays", "            if os.path.exists(temporary):\n                os.remove(temporary)", "            pass"),
    ],
    "microembedding": [
        ("own pair pushed off", "(probs[j] - (i == j))", "(probs[j] + (i == j))"),
        ("gradient without the temperature", "/ (size * temperature)", "/ size"),
        ("loss without the temperature", "[dot(a, p) / temperature for", "[dot(a, p) for"),
        ("anchors not trained", "[g + slope * x for g, x in zip(d_anchors[i], p)]", "d_anchors[i]"),
        ("roles swapped", "zip(d_positives[j], a)", "zip(d_positives[j], p)"),
        ("length not projected out", "(g - along * x) / (norm or 1.0)", "g / (norm or 1.0)"),
        ("normalisation without its length", "(g - along * x) / (norm or 1.0)", "(g - along * x)"),
        ("counts ignored in the gradient", "[g + count * d for", "[g + d for"),
        ("counts ignored in the sum", "[a + count * b for", "[a + b for"),
        ("uphill", "[w - lr * g for", "[w + lr * g for"),
        ("no boundaries", 'padded = f"^{name}$"', "padded = name"),
        ("farthest first", "key=lambda i: -scores[i]", "key=lambda i: scores[i]"),
        ("softmax without the shift", "math.exp(x - peak)", "math.exp(x)"),
        ("a swap loses a letter", "name[i + 1] + name[i] + name[i + 2 :]", "name[i + 1] + name[i + 2 :]"),
        ("replacement costs two", "above[j - 1] + (x != y)", "above[j - 1] + 2 * (x != y)"),
        ("counts not scaled", "x / (norm or 1.0) for run", "x for run"),
    ],
    "micrornn": [
        ("z and 1 - z swapped in the slope", "(change, 1.0 - z.data, z.data)", "(change, z.data, 1.0 - z.data)"),
        ("gate gets no gradient", "(change, 1.0 - z.data, z.data)", "(0.0, 1.0 - z.data, z.data)"),
        ("z and 1 - z swapped in the cell", "[blend(zi, hi, ci) for", "[blend(zi, ci, hi) for"),
        ("candidate without the reset gate", "[ri * hi for ri, hi in zip(r, h)]", "[hi for ri, hi in zip(r, h)]"),
        ("sigmoid of twice x", "0.5 + 0.5 * math.tanh(0.5 * x)", "0.5 + 0.5 * math.tanh(x)"),
        ("no bias in the cell", "factors = [one, one, *h]", "factors = [one, one * 0.0, *h]"),
        ("predicts the token it sees", "[tokens[t + 1]])", "[tokens[t]])"),
        ("no slow units", "bias_slow if i < n_slow else bias_fast", "bias_fast"),
        ("gradients not cleared", "            p.grad = 0.0\n", ""),
        ("ratio upside down", "norms[0] / norms[-1]", "norms[-1] / norms[0]"),
        ("norms squared", "mean([dot(g, g) ** 0.5 for g in step])", "mean([dot(g, g) for g in step])"),
        ("what is replaced for what is kept", "kept.append([1.0 - sigmoid(a) for", "kept.append([sigmoid(a) for"),
    ],
    "microdiffusion": [
        ("signal not rooted", "signal, noise = math.sqrt(alpha_bar), ", "signal, noise = alpha_bar, "),
        ("noise taken from the data", "signal * x + noise * e", "signal * x - noise * e"),
        ("alpha for alpha_bar", "alpha_bars.append(alpha_bars[-1] * (1 - betas[-1]))", "alpha_bars.append(1 - betas[-1])"),
        ("schedule one step long", "/ (num_timesteps - 1)", "/ num_timesteps"),
        ("network not told the right time", "h = [*x, *time_embedding(t), 1.0]", "h = [*x, *time_embedding(0), 1.0]"),
        ("no way past a layer", "[hi + tanh(fi) for hi, fi in", "[tanh(fi) for hi, fi in"),
        ("noise added to the sample", "(xi - scale * e) / math.sqrt(1 - betas[t])", "(xi + scale * e) / math.sqrt(1 - betas[t])"),
        ("not scaled back up", "(xi - scale * e) / math.sqrt(1 - betas[t])", "(xi - scale * e)"),
        ("noise in the last step", "if t == 1:", "if t == 0:"),
        ("variance for deviation", "sigma = math.sqrt(betas[t])", "sigma = betas[t]"),
        ("first time step left out", "for t in range(num_timesteps, 0, -1)", "for t in range(num_timesteps, 1, -1)"),
        ("Gaussian without correlation", "mean_y + b * u + c * v", "mean_y + c * v"),
    ],
    "microvae": [
        ("KL rewarded", "return -0.5 * dot(brackets", "return 0.5 * dot(brackets"),
        ("KL without the half", "return -0.5 * dot(brackets", "return -1.0 * dot(brackets"),
        ("KL ignores the mean", "1.0 + v - m * m - exp(v)", "1.0 + v - exp(v)"),
        ("KL of the standard deviation", "m * m - exp(v)", "m * m - exp(0.5 * v)"),
        ("variance for standard deviation", "m + exp(0.5 * v) * e", "m + exp(v) * e"),
        ("no randomness", "m + exp(0.5 * v) * e", "m + exp(0.5 * v)"),
        ("no gradient through the spread", "m + exp(0.5 * v) * e", "m + math.exp(0.5 * floats([v])[0]) * e"),
        ("mean and log variance swapped", "return xs[:z_dim], xs[z_dim:]", "return xs[z_dim:], xs[:z_dim]"),
        ("likelihood without the half", "(0.5 / sigma**2)", "(1.0 / sigma**2)"),
        ("sigma not squared", "(0.5 / sigma**2)", "(0.5 / sigma)"),
        ("beta ignored", "(reconstruction + beta * kl)", "(reconstruction + kl)"),
        ("sum for mean", "(reconstruction + beta * kl) * (1 / batch_size)", "(reconstruction + beta * kl)"),
        ("no bias in the hidden layer", "layer(with_one(x), w1)", "layer([*x, 0.0 * x[0]], w1)"),
        ("no nonlinearity", "relu(a) for a in", "a for a in"),
        ("ELBO with the wrong sign of the KL", "-recon - kl - math.log", "-recon + kl - math.log"),
        ("ELBO without its constant", "- math.log(2 * math.pi * sigma**2)", ""),
        ("score of z, not of its log density", "[e * math.exp(-0.5 * v) for e, v", "[e * math.exp(0.5 * v) for e, v"),
        ("score of the spread without its mean", "0.5 * (e * e - 1)", "0.5 * (e * e)"),
        ("variance not centred", " - mean(g) ** 2)", ")"),
        ("errors of one sample", "(a - b) ** 2 * num_draws / (v + w)", "(a - b) ** 2 / (v + w)"),
        ("Gaussian too wide", "len(points) ** -0.5", "len(points) ** -0.4"),
        ("the farthest point", "mean([min([distance", "mean([max([distance"),
        ("the line runs backwards", "[p + share * (q - p)", "[q + share * (p - q)"),
        ("noise shared by the dimensions", "return [random.gauss(0, 1) for _ in range(z_dim)]", "return [random.gauss(0, 1)] * z_dim"),
        ("upside down", "(1 - y / y_max)", "(1 + y / y_max)"),
    ],
    "microrag": [
        ("no saturation", "tf * (k1 + 1) / (tf + k1 * norm)", "tf"),
        ("saturates with the wrong constant", "tf * (k1 + 1) / (tf", "tf * k1 / (tf"),
        ("no length normalisation", "(tf + k1 * norm)", "(tf + k1)"),
        ("length normalisation upside down", "index[\"lengths\"][document] / average", "average / max(1, index[\"lengths\"][document])"),
        ("length without b", "1 - b + b * index", "1 - b + index"),
        ("no IDF", "weight = idf(index, term)", "weight = 1.0"),
        ("IDF of the other documents", "return math.log(1 + (len(index[\"texts\"]) - df + 0.5) / (df + 0.5))", "return math.log(1 + (df + 0.5) / (len(index[\"texts\"]) - df + 0.5))"),
        ("IDF below zero", "math.log(1 + (len", "math.log((len"),
        ("repeated terms of the query repeat", "dict.fromkeys(terms(query))", "terms(query)"),
        ("ties to the latest", "(-item[1], item[0])", "(-item[1], -item[0])"),
        ("worst first", "(-item[1], item[0])", "(item[1], item[0])"),
        ("all documents, whatever k", "item[0]))[:k]", "item[0]))"),
        ("each term posted once", "[len(index[\"texts\"])] = count", "[len(index[\"texts\"])] = 1"),
        ("lengths of different terms", "sum(counts.values())", "len(counts)"),
        ("the case matters", "in text.lower()).split()", "in text).split()"),
        ("an empty index divides by zero", "/ max(1, len(index[\"lengths\"]))", "/ len(index[\"lengths\"])"),
        ("nothing found is an error", " if found else (None, \"\")", ""),
        ("wordings of the tests in training", "if held_out == ((n + f) % 3 == 0)", "if True"),
        ("every example with its text", "p[\"text\"] if i % 2 == 0 else \"\"", "p[\"text\"]"),
        ("names twice", "if name not in taken:", "if True:"),
        ("questions in the words of the paragraphs", "\"stream\", \"waterway\"]", "\"bridge\", \"waterway\"]"),
        ("names as cues", "if n * 10 >= len(texts)", "if n"),
        ("the context is left out", "x = query + context + written", "x = query + [0.0 * c for c in context] + written"),
        ("the query is left out", "x = query + context + written", "x = [0.0 * q for q in query] + context + written"),
        ("reads the first character for ever", "[place : place + 1] if word", "[:1] if word"),
        ("reads one character ahead", "[place : place + 1] if word", "[place + 1 : place + 2] if word"),
        ("no end mark in the context", 'f"{word}."[place', 'f"{word}"[place'),
        ("no text looks like an ended word", '[place : place + 1] if word else ""', "[place : place + 1]"),
        ("attends to the word itself", "zip(words, [\"\", *known], [\"\", \"\", *known])", "zip(words, known, [\"\", *known])"),
        ("one cue for two", "one[last] + two[last_but_one]", "one[last] + 0.0 * two[last_but_one]"),
        ("place ignored", "a + p for a, p in zip(model[\"last\"][last], model[\"place\"][place])", "a for a, p in zip(model[\"last\"][last], model[\"place\"][place])"),
        ("no hidden nonlinearity", "[relu(hi) for hi in linear", "[hi for hi in linear"),
        ("mean of the words for their sum", "dot(column, [1.0] * len(rows)) for column", "dot(column, [1.0 / len(rows)] * len(rows)) for column"),
        ("the last character is always the end mark", "        last = char  # the", "        last = last  # the"),
        ("sum for mean", "total * (1 / (len(answer) + 1))", "total"),
        ("sum over the batch", "[1 / batch_size] * batch_size", "[1.0] * batch_size"),
        ("writes the least likely character", "logits.index(max(logits))", "logits.index(min(logits))"),
        ("the end mark is written", "        if char == \".\":\n            break\n", ""),
        ("the answer starts from its first character", 'answer[-1:] or "."', 'answer[:1] or "."'),
        ("the wrong text is the right one", "misled = generate(model, question, paragraphs[number - 1]", "misled = generate(model, question, paragraphs[number]"),
        ("blind with a text", "blind = generate(model, question, \"\")", "blind = generate(model, question, text)"),
        ("found names count as invented", "found not in names", "found in names"),
    ],
    "microattention": [
        ("scores not scaled", " / math.sqrt(len(q)) for k in keys", " for k in keys"),
        ("scaled by d", "/ math.sqrt(len(q)) for k in keys", "/ len(q) for k in keys"),
        ("softmax without the shift", "math.exp(x - peak)", "math.exp(x)"),
        ("softmax with the wrong sign", "math.exp(x - peak)", "math.exp(peak - x)"),
        ("values over the wrong axis", "for column in zip(*values)]", "for column in values]"),
        ("vanilla looks up values by keys", 'values.append(project(x, w["wv"][0]))\n    out', 'values.append(project(x, w["wk"][0]))\n    out'),
        ("every query head is the group's first", "cache[h * n_kv // len(w[\"wq\"])]", "cache[0]"),
        ("groups interleaved", "cache[h * n_kv // len(w[\"wq\"])]", "cache[h % n_kv]"),
        ("window one too long", "del keys[:-window], values[:-window]", "del keys[: -window - 1], values[: -window - 1]"),
        ("window one too short", "del keys[:-window], values[:-window]", "del keys[: -window + 1], values[: -window + 1]"),
        ("window forgets the newest", "del keys[:-window], values[:-window]", "del keys[window:], values[window:]"),
        ("window forgets after looking", "        del keys[:-window], values[:-window]  # CHANGED: what nobody will look at is not kept\n        outs += scaled_dot_product(project(x, wq), keys, values)", "        outs += scaled_dot_product(project(x, wq), keys, values)\n        del keys[:-window], values[:-window]"),
        ("heads summed, not pooled", "[[[mean(ws) for ws in", "[[[math.fsum(ws) for ws in"),
        ("pooled across groups", "heads[start : start + size] for start in range(0, len(heads), size)", "heads[start::n_groups] for start in range(n_groups)"),
        ("values not pooled", '"wv": pool_heads(w["wv"], n_groups)}', '"wv": w["wv"][:n_groups]}'),
        ("merged heads interleaved", "[row for head in w[name] for row in head]", "[row for rows in zip(*w[name]) for row in rows]"),
        ("share for its root", "math.sqrt(share), math.sqrt(1 - share)", "share, 1 - share"),
        ("keys' common part in the values", 'parts[f"common_{name}"]', 'parts["common_k"]'),
        ("a multiply-add is one", "flops[part] += 2 * len(a)", "flops[part] += len(a)"),
        ("keys not counted", '[counted_dot(q, k, "attention") /', "[dot(q, k) /"),
        ("counter not cleared", "    flops.clear()\n", ""),
        ("pairs without the own position", "full * (full + 1) // 2", "full * (full - 1) // 2"),
        ("keys without values in the formula", "return 2 * kv_width * min(n, span)", "return kv_width * min(n, span)"),
        ("cosine of squares", "/ math.sqrt(dot(a, a) * dot(b, b))", "/ (dot(a, a) * dot(b, b))"),
        ("crossing from the wrong side", "return x0 + (x1 - x0)", "return x1 - (x1 - x0)"),
        ("MQA pooled in two groups", "decode(multi_query, xs, pool(w, 1))", "decode(multi_query, xs, pool(w, 2))"),
    ],
    "microflash": [
        ("scores not scaled", "dot(query, key) * d**-0.5 for key in keys[:past]", "dot(query, key) for key in keys[:past]"),
        ("a query does not see itself", "rows.start + i + 1 - columns.start", "rows.start + i - columns.start"),
        ("mask of the block, not of the whole", "rows.start + i + 1 - columns.start", "i + 1"),
        ("no mask", ") if causal else len(keys)", ") if False else len(keys)"),
        ("hidden keys score zero", "[-math.inf] * (len(keys)", "[0.0] * (len(keys)"),
        ("the maximum of the block for the running one", "new_m = max(m, *scores)", "new_m = max(scores)"),
        ("no shift", "exps = [math.exp(score - new_m) for", "exps = [math.exp(score) for"),
        ("softmax without the shift", "exps = [math.exp(score - m) for", "exps = [math.exp(score) for"),
        ("the factor upside down", "shrink = math.exp(m - new_m)", "shrink = math.exp(min(700.0, new_m - m)) if m > -math.inf else 0.0"),
        ("l not mended", "shrink * total + math.fsum(exps)", "total + math.fsum(exps)"),
        ("O not mended", "[shrink * o for o in out]", "[o for o in out]"),
        ("l of the last block", "shrink * total + math.fsum(exps)", "math.fsum(exps)"),
        ("O not divided by l", "[o / total[0] for o in out]", "[o for o in out]"),
        ("L without the maximum", "log[0] = m[0] + math.log(total[0])", "log[0] = math.log(total[0])"),
        ("O overwritten, not added to", "[o + dot(weights, column)", "[dot(weights, column)"),
        ("softmax not divided", "row[:] = [e / total for e in exps]", "row[:] = [e for e in exps]"),
        ("one block of the diagonal skipped", "if causal and columns.start >= rows.stop:", "if causal and columns.stop >= rows.stop:"),
        ("nothing skipped", "if causal and columns.start >= rows.stop:", "if False:"),
        ("keys skipped without a mask", "if causal and columns.start >= rows.stop:", "if columns.start >= rows.stop:"),
        ("the last block is left out", "for start in range(0, n, size)]", "for start in range(0, n - size + 1, size)]"),
        ("fast memory never refuses", "if self.used + rows * columns > self.size:", "if False:"),
        ("a number too many", "if self.used + rows * columns > self.size:", "if self.used + rows * columns > self.size + 1:"),
        ("rows for numbers", "        self.used += rows * columns", "        self.used += rows"),
        ("peak is the present", "self.peak = max(self.peak, self.used)", "self.peak = self.used"),
        ("nothing given back", "self.used -= sum(len(row) for row in self.matrices.pop(name))", "self.matrices.pop(name)"),
        ("loads counted as rows", "    slow.read += len(block) * len(block[0])", "    slow.read += len(block)"),
        ("stores not counted", "    slow.written += len(block) * len(block[0])\n", ""),
        ("S not counted in the room", "2 * b_c * d + b_r * b_c + 2 * b_r", "2 * b_c * d + 2 * b_r"),
        ("square blocks", "return b_r, min(b_r, d)", "return b_r, b_r"),
        ("S forgotten in fast memory", 'fast.free("K", "V", "S")', 'fast.free("K", "V")'),
        ("rescaling not counted", "        fast.multiplies += 1 + d\n", ""),
        ("a nan passes", "math.nan if any(map(math.isnan, xs)) else max(xs)", "max(xs)"),
        ("inputs counted as extra", "r.slow.peak - 4 * d *", "r.slow.peak - 3 * d *"),
        ("powers upside down", "math.log(last / first) / math", "math.log(first / last) / math"),
    ],
}
# fmt: on


def first_failure(name, broken):
    """The test that fails first on the broken script, or None."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        (copy / SCRIPTS[name].relative_to(ROOT)).write_text(broken, encoding="utf-8")
        tests = [f"tests/test_{name}.py", "tests/test_autograd.py"]
        tests += ["tests/test_load_names.py"] if name == "microtokenizer" else []
        pick = f"{name} or load_names"  # of the tests that go through all scripts, its own
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-k", pick, *tests]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    failed = re.search(r"(?m)^(?:FAILED|ERROR) \S*?(?:::(\S+)| -|$)", done.stdout)
    return (failed[1] or "collection") if done.returncode else None


def main(names):
    survivors = 0
    for name in names:
        source = SCRIPTS[name].read_text(encoding="utf-8")
        for what, code, broken in BREAKS[name]:
            assert source.count(code) == 1, f"{name}: {what}: not one place in the script"
            test = first_failure(name, source.replace(code, broken))
            survivors += test is None
            print(f"{name:16}{what:46}{test or 'SURVIVES'}", flush=True)
    print(f"survivors: {survivors}")
    raise SystemExit(survivors > 0)


if __name__ == "__main__":
    main(sys.argv[1:] or BREAKS)
