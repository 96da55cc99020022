"""Every criterion that a script's run is held to, once.

A criterion is an operator and a bound, as in "< 2.7", or a range, as in "0.1 to 10". A bound may
depend on other results of the same run: "< kl - 0.2". It is evaluated on the printed values. The
script prints the bound beside its result, and the two have to agree.
"""

import math
import re

CRITERIA = {
    "microdiffusion": {
        "mean_loss_last_100": "< mean_loss_first_100 - 0.1",
        "mean_error": "< 0.2",
        "variance_error": "< 0.2",
        "near_curve_rate": "> 0.6",
        "data_near_curve_rate": "> 0.97",
        "gaussian_near_curve_rate": "< 0.3",
        "near_curve_ratio": ">= 2",
        "no_noise_variance_error": "> 0.4",
        "runtime_seconds": "< 300",
    },
    "microembedding": {
        "positive_cosine": "> 0.82",
        "positive_cosine_untrained": "< 0.77",
        "random_cosine": "< 0.05",
        "random_cosine_untrained": "> 0.1",
        "random_cosine_attracted": "> 0.8",
        "recall_at_1": "> recall_at_1_counts",
        "recall_at_1_untrained": "< 0.88",
        "recall_at_1_attracted": "< recall_at_1_untrained",
        "runtime_seconds": "< 300",
    },
    "microgpt": {
        "params": "== 4192",
        "final_loss": "< 2.7",
        "mean_loss_last_100": "< 2.5",
        "heldout_loss": "< 2.45",
        "pronounceable_rate": ">= 0.8",
        "runtime_seconds": "< 420",
    },
    "microrag": {
        "retrieval_accuracy": ">= 0.8",
        "with_retrieval": ">= without_retrieval + 0.1",
        "often_without_retrieval": "> without_retrieval + 0.1",
        "right_document": "> 0.95",
        "wrong_document": "< 0.1",
        "wrong_document_copied": "> 0.9",
        "invented_with": "< invented_without - 0.5",
        "new_documents": "> 0.8",
        "new_without_retrieval": "< 0.02",
        "runtime_seconds": "< 360",
    },
    "micrornn": {
        "gru_final_loss": "< rnn_final_loss",
        "rnn_grad_ratio": "< 0.01",
        "rnn_orthogonal_grad_ratio": "< gru_grad_ratio / 3",
        "gru_half_open_grad_ratio": "< gru_grad_ratio / 3",
        "gru_grad_ratio": "0.1 to 10",
        "gru_direct_grad_ratio": "0.75 * gru_grad_ratio to 1.25 * gru_grad_ratio",
        "runtime_seconds": "< 540",
    },
    "microtokenizer": {
        "compression_ratio": ">= 1.5",
        "reversed_order_ratio": "< compression_ratio - 0.1",
        "random_places_ratio": "< compression_ratio - 0.1",
        "roundtrip_failures": "== 0",
        "runtime_seconds": "< 120",
    },
    "microvae": {
        "recon_loss_last": "< 1",
        "elbo_last": "> -0.7",
        "kl": "0.1 to 50",
        "kl_low_beta": "> kl + 0.5",
        "kl_high_beta": "< kl - 0.5",
        "sample_distance": "< gaussian_distance / 3",
        "coverage_distance": "< 0.04",
        "path_coverage": "< 0.1",
        "score_to_reparam_variance": "> 2",
        "baseline_to_reparam": "> 1",
        "runtime_seconds": "< 240",
    },
    "microdpo": {
        "dpo_loss_first": "== 0.6931",
        "dpo_loss_last_50": "< 0.35",
        "pair_accuracy": "> 0.9",
        "preferred_rate": "> 0.5",
        "preferred_gain": "> 0.1",
        "unique_share": "> 0.9",
        "kl_halfway": "< kl - 0.1",
        "kl_low_beta": "> kl + 0.2",
        "kl_high_beta": "< kl - 0.2",
        "runtime_seconds": "< 420",
    },
    "microgrpo": {
        "preferred_rate": "> base_preferred_rate + 0.3",
        "kl": "< 2",
        "plain_kl": "> kl + 0.2",
        "unique_share": "> 0.85",
        "mean_length": "4.7 to 6.4",
        "reward_gain": "> 0.3",
        "cut_share": "> 0",
        "noise_to_plain": "< 0.5",
        "runtime_seconds": "< 420",
    },
    "microlora": {
        "trainable_fraction": "< 0.1",
        "base_loss_a": "< 2.5",
        "lora_loss_b": "< base_loss_b - 0.3",
        "lora_loss_a": "> base_loss_a + 0.2",
        "frozen_changed": "== 0",
        "merged_max_diff": "< 1e-9",
        "change_rank1_share": "> 2 * random_rank1_share",
        "runtime_seconds": "< 420",
    },
    "micromoe": {
        "heldout_loss": "< 2.5",
        "wrong_experts_loss": "> heldout_loss + 0.1",
        "min_expert_share": "> unbalanced_min_share + 0.05",
        "balance_loss": "< untrained_balance_loss - 0.02",
        "expert_mutual_info": "> untrained_mutual_info + 0.05",
        "shuffled_mutual_info": "< 0.02",
        "pronounceable_rate": ">= 0.8",
        "runtime_seconds": "< 420",
    },
    "microppo": {
        "reward_accuracy": "> 0.7",
        "preferred_rate": "> base_preferred_rate + 0.1",
        "reward_gain": "> 0.5",
        "no_penalty_unique_share": "< unique_share - 0.03",
        "kl": "> 0.5",
        "no_penalty_kl": "> 2 * kl",
        "objective_gain": "> 0",
        "clip_fraction": "> 0",
        "runtime_seconds": "< 420",
    },
    "microattention": {
        "gqa_kv_ratio": "== 2",
        "mqa_kv_ratio": "== 4",
        "window_kv_ratio": "== 5",
        "matrix_form_difference": "< 1e-12",
        "formula_mismatches": "== 0",
        "special_cases_unequal": "== 0",
        "nan_count": "== 0",
        "gqa_cosine_independent": "< 0.95",
        "mqa_cosine_independent": "< 0.95",
        "gqa_cosine": "> 0.95",
        "mqa_cosine": "> 0.95",
        "runtime_seconds": "< 60",
    },
    "microbeam": {
        "invalid_texts": "== 0",
        "beam_log_prob": "> greedy_log_prob + 0.1",
        "empty_is_best_share": "> 0.3",
        "top_k_different": "> 2",
        "top_p_different": "> 2",
        "speculative_changes": "== 0",
        "accepted_per_drafted": "> 0.5",
        "tokens_per_target_call": "> 1.5",
        "draft_distance": "> 0.05",
        "speculative_distance": "< 0.03",
        "text_distance": "< 0.015",
        "runtime_seconds": "< 420",
    },
    "microflash": {
        "max_abs_error": "< 1e-6",
        "max_weight_error": "< 1e-6",
        "error_without_factor": "> 0.01",
        "fast_peak": "<= 1024",
        "standard_memory_growth": "== 4",
        "flash_memory_growth": "== 2",
        "standard_traffic_growth": "3.5 to 4.2",
        "flash_traffic_growth": "3.5 to 4.2",
        "standard_traffic_small_m": "1 to 1.2",
        "flash_traffic_small_m": "5.5 to 12",
        "traffic_ratio": "> 5",
        "multiplies_ratio": "0.9 to 1.1",
        "causal_blocks_visited": "0.5 to 0.7",
        "runtime_seconds": "< 120",
    },
    "microkv": {
        "different_tokens": "== 0",
        "uncached_attention_growth": "3.8 to 4",
        "cached_attention_growth": "1.9 to 2.1",
        "multiplications_ratio": "> 10",
        "cache_bytes_per_token": "== 64",
        "reserving_waste": "> 60",
        "paging_waste": "< 40",
        "paging_peak": "< 0.6 * reserving_peak",
        "runtime_seconds": "< 240",
    },
    "microquant": {
        "float_loss": "< 2.45",
        "int8_loss_increase": "<= 0.1",
        "int4_loss_increase": "<= 0.25",
        "int2_loss_increase": "> 0.1",
        "int4_rows_increase": "< int4_loss_increase",
        "rows_error_ratio": "< 1",
        "int8_weights_ratio": "== 4",
        "int4_weights_ratio": "== 8",
        "runtime_seconds": "< 360",
    },
}

OPERATORS = {
    "<": float.__lt__,
    "<=": float.__le__,
    ">": float.__gt__,
    ">=": float.__ge__,
    "==": float.__eq__,
}


def evaluate(expression, metrics):
    """The number that an expression such as "2 * kl" or "2.7" is, given {name: value}.

    Raises NameError if it names a result that the run did not print.
    """
    return float(eval(expression, {"__builtins__": {}, "max": max, "min": min}, metrics))


def parts(criterion):
    """[(operator, expression)] of a criterion. A range has two parts."""
    if " to " in criterion:
        low, high = criterion.split(" to ")
        return [(">=", low), ("<=", high)]
    operator, expression = criterion.split(" ", 1)
    return [(operator, expression)]


def meets(metrics, metric, criterion):
    """Whether a result of the run, given as {name: value}, meets its criterion."""
    return metric in metrics and all(
        OPERATORS[operator](metrics[metric], evaluate(expression, metrics))
        for operator, expression in parts(criterion)
    )


def agree(printed, criterion, metrics):
    """Whether a bound that a script printed is the criterion, evaluated on the printed results.

    A bound that depends on results may differ by the rounding of what is printed.
    """
    if printed == criterion:
        return True
    if not re.search("[a-z]", criterion.replace(" to ", " ")):
        return False
    shown, wanted = parts(printed) if printed else [], parts(criterion)
    return [operator for operator, _ in shown] == [operator for operator, _ in wanted] and all(
        math.isclose(float(bound), evaluate(expression, metrics), rel_tol=1e-3, abs_tol=3e-4)
        for (_, bound), (_, expression) in zip(shown, wanted)
    )
