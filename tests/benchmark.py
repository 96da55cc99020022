"""What dot() buys, and the CPU seconds of the scripts. Run by hand: python tests/benchmark.py

With names of scripts, only those are timed. With `alignment`, only the trainings of DPO, PPO and
GRPO, for their table in 02-alignment/README.md. The ratios come from one process and the best of
several rounds, because other work on the machine only ever adds time. Four ways to train microgpt:

micrograd  the engine of reference_gpt.py: a node for every multiply and add, kept until the end
composed   the script's engine, with dot() made of such nodes; it frees the graph as it goes
dot        the script
floats     no graph, gradients derived by hand: the floor of this language
"""

import itertools
import os
import random
import sys
import time

import float_gpt
import reference_gpt
from harness import SCRIPTS, environment, load

STEPS, ROUNDS = 20, 5
MIN_SPEEDUP, MAX_OVER_FLOOR = 15, 4
CPU_SECONDS = {  # targets
    "microgpt": 20,
    "micrornn": 60,
    "microtokenizer": 3,
    "microembedding": 20,
    "microrag": 40,
    "microdiffusion": 25,
    "microvae": 25,
    "microlora": 40,
    "microdpo": 40,
    "microppo": 40,
    "microgrpo": 40,
    "micromoe": 20,
    "microattention": 2,
    "microkv": 20,
    "microquant": 30,
    "microflash": 3,
    "microbeam": 40,
}


def composed_dot(a, b):
    """dot() as a chain of multiply and add nodes of the script's own engine."""
    total = a[0] * b[0]
    for x, y in zip(a[1:], b[1:]):
        total = total + x * y
    return total


def prepare(gpt):
    random.seed(42)
    names = gpt.load_names()
    random.shuffle(names)
    chars = sorted(set("".join(names)))
    return gpt.init_model(len(chars) + 1), names, chars


def graph_steps(gpt, dot, steps):
    """CPU seconds and losses of the first training steps, with this dot()."""
    model, names, chars = prepare(gpt)
    original, gpt.dot = gpt.dot, dot
    try:
        start = time.process_time()
        losses = list(itertools.islice(gpt.train(model, names, chars), steps))
        return time.process_time() - start, losses
    finally:
        gpt.dot = original


def float_steps(gpt, steps):
    """The same steps with hand-derived gradients on floats."""
    model, names, chars = prepare(gpt)
    w = {name: [gpt.floats(row) for row in matrix] for name, matrix in model.items()}
    m = {name: [[0.0] * len(row) for row in matrix] for name, matrix in w.items()}
    v = {name: [[0.0] * len(row) for row in matrix] for name, matrix in w.items()}
    losses = []
    start = time.process_time()
    for step in range(steps):
        loss, grads = float_gpt.loss_and_grads(w, gpt.encode(names[step], chars))
        lr = gpt.learning_rate * (1 - step / gpt.num_steps)
        float_gpt.adam_step(w, grads, m, v, step + 1, lr)
        losses.append(loss)
    return time.process_time() - start, losses


def reference_steps(gpt, steps):
    """The same steps on the tests' engine: micrograd's, a node for every multiply and every add."""
    _, names, chars = prepare(gpt)
    random.seed(42)
    random.shuffle(gpt.load_names())
    w = reference_gpt.init(len(chars) + 1)
    tokens = [gpt.encode(name, chars) for name in names[:steps]]
    start = time.process_time()
    losses = list(reference_gpt.train(w, tokens, gpt.num_steps))
    return time.process_time() - start, losses


def engine():
    """Time the four, one round after the other; True if the ratios are met."""
    gpt = load("microgpt")
    seconds = {"micrograd": [], "composed": [], "dot": [], "floats": []}
    for i in range(ROUNDS):
        results = {
            "dot": graph_steps(gpt, gpt.dot, STEPS),
            "floats": float_steps(gpt, STEPS),
        }
        if i < 2:  # slow, and a long run is its own average
            results["composed"] = graph_steps(gpt, composed_dot, STEPS)
            results["micrograd"] = reference_steps(gpt, STEPS)
        for kind, (spent, losses) in results.items():
            seconds[kind].append(spent)
            difference = max(abs(a - b) for a, b in zip(losses, results["dot"][1]))
            assert difference < 1e-9, f"{kind}: losses differ by {difference}"
    best = {kind: min(values) for kind, values in seconds.items()}
    for kind, spent in best.items():
        print(f"microgpt, {STEPS} steps, {kind:9}{spent:8.3f} CPU s")
    speedup, over_floor = best["micrograd"] / best["dot"], best["dot"] / best["floats"]
    print(f"micrograd / dot {speedup:6.1f}   >= {MIN_SPEEDUP}")
    print(f"composed / dot  {best['composed'] / best['dot']:6.1f}")
    print(f"dot / floats    {over_floor:6.1f}   <= {MAX_OVER_FLOOR}", flush=True)
    return speedup >= MIN_SPEEDUP and over_floor <= MAX_OVER_FLOOR


def time_scripts(names):
    """Run scripts one after the other; True if each stays within its CPU seconds."""
    fine, total = True, 0.0
    for name in names:
        args = [sys.executable, str(SCRIPTS[name])]
        quiet = os.open(os.devnull, os.O_WRONLY)
        pid = os.posix_spawn(
            args[0], args, environment(), file_actions=[(os.POSIX_SPAWN_DUP2, quiet, 1)]
        )
        os.close(quiet)
        _, status, usage = os.wait4(pid, 0)
        spent = usage.ru_utime + usage.ru_stime
        fine &= status == 0 and spent <= CPU_SECONDS[name]
        total += spent
        print(f"{name:16}{spent:8.1f} CPU s   <= {CPU_SECONDS[name]}", flush=True)
    print(f"{'total':16}{total:8.1f} CPU s")
    return fine


def alignment():
    """CPU seconds of each method from the same base model: pairs or samples in, policy out."""
    for name in ("microdpo", "microppo", "microgrpo"):
        script = load(name)
        random.seed(42)
        names = [n for n in dict.fromkeys(script.load_names()) if len(n) < script.block_size]
        random.shuffle(names)
        chars = sorted(set("".join(names)))
        model = script.init_model(len(chars) + 1)
        started = time.process_time()
        for _ in script.train(model, names[: script.num_steps], chars):
            pass
        based = time.process_time()
        base = {key: [script.floats(row) for row in rows] for key, rows in model.items()}
        names = names[script.num_steps :][: script.num_pair_names]
        prompts = [chars.index(n[0]) for n in names]
        if name == "microgrpo":
            steps = script.train_policy(model, base, iter(prompts), chars)
        else:
            pairs = script.make_pairs(names, chars)
        if name == "microdpo":
            steps = script.train_dpo(model, base, pairs[: script.dpo_steps], script.betas[1])
        if name == "microppo":
            weights = script.init_reward_model(len(chars) + 1)
            for _ in script.train_reward_model(weights, pairs):
                pass
            reward = script.freeze_reward(weights, [t for pair in pairs for t in pair])
            values = [[0.0] * (len(chars) + 1) for _ in range(script.block_size)]
            steps = script.ppo_train(model, base, reward, values, prompts, script.kl_coef)
        for _ in steps:
            pass
        spent = time.process_time() - based
        print(f"{name:12} base {based - started:5.1f} CPU s, method {spent:5.1f} CPU s", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["alignment"]:
        raise SystemExit(alignment())
    ratios_met = engine()
    scripts_met = time_scripts(sys.argv[1:] or SCRIPTS)
    raise SystemExit(not (ratios_met and scripts_met))
