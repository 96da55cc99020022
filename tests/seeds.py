"""Run copies of a script with other seeds, and print how far its results spread. Run by hand.

    python tests/seeds.py SCRIPT [--seeds 42-46] [--write]

Each copy has another number in its random.seed(42), and is otherwise the script. Two run at a
time. The command prints the least, the mean and the greatest value of every result, all values, and
on which seeds each criterion of tests/criteria.py was missed. It leaves out runtime_seconds, which
does not depend on the seed.

With --write it also writes the table into docs/implementation.md, between the lines
<!-- seeds SCRIPT --> and <!-- end seeds SCRIPT -->. That table is always over seeds 42 to 46: they
were fixed before anybody saw what they give.

The exit status is 1 if a run fails. A criterion that a seed misses is reported, and is no failure.
"""

import argparse
import concurrent.futures
import itertools
import math
import re
import sys

from criteria import CRITERIA, meets
from support.scripts import ROOT, SCRIPTS, parse, run_copy

SEED_CALL = "random.seed(42)"
WRITTEN_SEEDS = range(42, 47)
DOCUMENT = ROOT / "docs" / "implementation.md"


def parse_seeds(text):
    """ "42-46" or "42" -> range of seeds. Raises ArgumentTypeError for anything else."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if match:
        first = int(match[1])
        last = int(match[2] or first)
        if first <= last:
            return range(first, last + 1)
    raise argparse.ArgumentTypeError(f"{text} is no range of seeds such as 42-46")


def run_seed(name, seed):
    """The results {metric: value} of a copy of the script with this seed, without its time.

    Raises RuntimeError if the run fails, or prints no results.
    """
    source = SCRIPTS[name].read_text(encoding="utf-8")
    metrics, _ = parse(run_copy(name, source.replace(SEED_CALL, f"random.seed({seed})")))
    metrics.pop("runtime_seconds", None)
    return metrics


def run_seeds(name, seeds):
    """[results] of the copies, in the order of the seeds. Raises SystemExit if a run fails."""
    results = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run_seed, name, seed) for seed in seeds]
        for seed, run in zip(seeds, runs):
            try:
                results.append(run.result())
            except RuntimeError as error:
                pool.shutdown(cancel_futures=True)
                raise SystemExit(f"{name} with seed {seed} {error}.") from None
            print(f"seed {seed} is done", flush=True)
    return results


def format_all(values):
    """The numbers as texts, all in one notation: whole, with four decimals, or with an exponent."""
    if all(value.is_integer() for value in values):
        return [f"{value:.0f}" for value in values]
    if all(abs(value) < 0.001 for value in values):
        return [f"{value:.2e}" for value in values]
    return [f"{value:.4f}" for value in values]


def spread(results):
    """{metric: (least, mean, greatest, all values)} as texts. The values are in seed order."""
    table = {}
    for metric in results[0]:
        values = [metrics[metric] for metrics in results]
        mean = math.fsum(values) / len(values)
        least, average, greatest, *each = format_all([min(values), mean, max(values), *values])
        table[metric] = least, average, greatest, each
    return table


def missed_seeds(name, seeds, results):
    """{metric: (criterion, [seeds on which it was not met])} for each criterion but the time's.

    Raises SystemExit if a criterion names a result that the script does not print.
    """
    table = {}
    for metric, criterion in CRITERIA.get(name, {}).items():
        if metric == "runtime_seconds":
            continue
        missed = []
        for seed, metrics in zip(seeds, results):
            try:
                met = meets(metrics, metric, criterion)
            except NameError as error:
                raise SystemExit(
                    f"The criterion {metric} {criterion} of {name}: {error}."
                ) from None
            if not met:
                missed.append(seed)
        table[metric] = criterion, missed
    return table


def show(seeds, table, missed):
    """Print the spread of every result, and then what became of the criteria."""
    form = "{:26}{:>11}{:>11}{:>11} " + "{:>11}" * len(seeds)
    print("\n" + form.format("result", "least", "mean", "greatest", *seeds))
    for metric, (least, mean, greatest, values) in table.items():
        print(form.format(metric, least, mean, greatest, *values))
    print()
    for metric, (criterion, where) in missed.items():
        outcome = f"missed on {', '.join(map(str, where))}" if where else "met on all seeds"
        print(f"{metric + ' ' + criterion:60} {outcome}")


def markdown(table, missed):
    """The lines for the document: a table of what varies, and a sentence for what does not."""
    constant, cells = [], []
    for metric, (least, mean, greatest, values) in table.items():
        if len(set(values)) == 1:
            constant.append(f"`{metric}` {least}")
        else:
            cells.append(f"| `{metric}` | {least} | {mean} | {greatest} ")
    lines = []
    if cells:
        lines = ["| result | least | mean | greatest " * 2 + "|", "| --- " * 8 + "|"]
    half = (len(cells) + 1) // 2  # two results stand side by side
    for left, right in itertools.zip_longest(cells[:half], cells[half:], fillvalue="| " * 4):
        lines.append(left + right + "|")
    if constant:
        lines += [""] * bool(lines) + [f"The same on all five seeds: {', '.join(constant)}."]
    for metric, (criterion, where) in missed.items():
        if where:
            at = ", ".join(map(str, where))
            lines += ["", f"`{metric} {criterion}` is missed on seed {at}."]
    return lines


def split_document(name):
    """The document before and after the table of this script, with the markers.

    Raises SystemExit if the two markers do not stand there once, in their order.
    """
    text = DOCUMENT.read_text(encoding="utf-8")
    start = f"<!-- seeds {name} -->\n"
    end = f"<!-- end seeds {name} -->"
    in_order = 0 <= text.find(start) < text.find(end)
    if text.count(start) != 1 or text.count(end) != 1 or not in_order:
        raise SystemExit(
            f"docs/implementation.md needs the lines {start.strip()} and {end}, once and in this "
            f"order, where the table is to stand in the section on {name}."
        )
    return text[: text.index(start) + len(start)], text[text.index(end) :]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("script", metavar="SCRIPT")
    parser.add_argument("--seeds", type=parse_seeds, default=WRITTEN_SEEDS, metavar="42-46")
    parser.add_argument("--write", action="store_true", help="write into docs/implementation.md")
    args = parser.parse_args()
    if args.script not in SCRIPTS:
        parser.exit(2, f"No script is called {args.script}. They are: {', '.join(SCRIPTS)}\n")
    count = SCRIPTS[args.script].read_text(encoding="utf-8").count(SEED_CALL)
    if count != 1:
        parser.exit(2, f"{args.script} has {SEED_CALL} in {count} places. It needs exactly one.\n")
    if args.write:
        if args.seeds != WRITTEN_SEEDS:
            parser.exit(2, "The document's tables are over seeds 42 to 46: leave --seeds out.\n")
        split_document(args.script)  # stops here, before the runs, if the markers are missing

    results = run_seeds(args.script, args.seeds)
    table = spread(results)
    missed = missed_seeds(args.script, args.seeds, results)
    show(args.seeds, table, missed)
    if args.write:
        before, after = split_document(args.script)
        block = "".join(f"{line}\n" for line in markdown(table, missed))
        DOCUMENT.write_text(before + block + after, encoding="utf-8", newline="\n")
        print("\nThe table is in docs/implementation.md.")
    sys.exit(0)


if __name__ == "__main__":
    main()
