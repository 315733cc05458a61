"""The playbook: what can be wrong with a run, by what it is known, and what to do. Data; thresholds live here.

A rule is met where its condition says yes; `conditions` and `special` say what each question means. Trends are at 99 %
confidence over all windows looked at, and have to be as large as the rule says as well: a tiny trend of a long run is
significant and harmless. Ranges follow the guidelines for gpt-oss-20b (README, figures). Each row of the playbook is
one rule; the smoke test on the first steps has rules of its own (`smoke`).
"""

from dataclasses import dataclass

from rft.diagnosis.conditions import All, AnyOf, Grown, Level, Moved, Not, Shrunk, Special, Steady, Steps
from rft.diagnosis.held_out import evaluation_behind, evaluation_rises, gap_grows
from rft.diagnosis.special import (
    digests_stand,
    gains,
    kl_is_measured,
    no_gain,
    ratio_never_moves,
    target_missed,
    warmed_up,
    zero,
)
from rft.diagnosis.spikes import growing_spikes, kl_spikes, ratio_spikes


@dataclass(frozen=True)
class Rule:
    """name: stable, for programs; title: what is wrong, as a line begins; stage: playbook | smoke."""

    name: str
    title: str
    when: object
    action: str
    stage: str = "playbook"


def _no_gain(p: float) -> All:
    return All(
        Special(f"reward_mean does not rise (p > {p:g})", no_gain("reward_mean", p)),
        Not(Special("correctness rises", gains("correctness", p))),
    )


_FALLS = AnyOf(Moved("correctness", -1, by=0.05), Moved("reward_mean", -1, by=0.05, share=0.15))
_RISES = AnyOf(Moved("correctness", 1, by=0.03), Moved("reward_mean", 1, by=0.03))
_ENTROPY_CROSSES = All(Level("entropy_mean", ">", 1.0, "head"), Level("entropy_mean", "<", 1.0))
_PAYS_WITHOUT_BEING_RIGHT = AnyOf(
    Moved("response_length_mean", 1, share=0.25),
    All(Level("reward_length_corr", ">", 0.3), Moved("reward_length_corr", 1, by=0.1)),
    Moved("has_boxed", 1, by=0.1),
    Moved("boxed_in_final", 1, by=0.1),
    Moved("repetition", 1, by=0.05),
)
_EVALUATION_RISES = Special("a held-out evaluation rises (95 %)", evaluation_rises)

PLAYBOOK: tuple[Rule, ...] = (
    Rule(
        "flat_learning",
        "flat learning: the policy hardly moves and the reward does not rise",
        All(
            Steps(20),
            Special("the learning rate has reached half its target", warmed_up(0.5)),
            Level("reward_mean", "<", 0.9),
            Not(_EVALUATION_RISES),
            Steady("entropy_mean", share=0.15),
            AnyOf(
                All(_no_gain(0.02), Not(Level("kl", ">", 0.005))),
                All(_no_gain(0.001), Level("kl", "<", 0.001)),  # so little KL cannot have earned what looks like a rise
            ),
        ),
        "raise --actor_learning_rate (double it), lower --init_kl_coef, raise --n_samples_per_prompt (8 to 16)",
    ),
    Rule(
        "instability",
        "instability: answers get worse while the policy runs off",
        All(
            Steps(12),
            _FALLS,
            AnyOf(
                Special("KL spikes above 0.02 at 2 steps or more", kl_spikes(2, 0.02)),
                All(Moved("kl", 1), Grown("kl", 3), Level("kl", ">", 0.2)),
                Moved("entropy_mean", -1, share=0.2),
                Moved("entropy_mean", 1, share=0.5),
            ),
        ),
        "go back to the last good checkpoint, halve --actor_learning_rate, raise --init_kl_coef, lower --max_norm",
    ),
    Rule(
        "reward_hacking",
        "reward hacking: the reward rises and what it stands for does not",
        AnyOf(
            Special(
                "reward_mean rises by 0.05 and no held-out evaluation follows (3 or more)",
                evaluation_behind("reward_mean", 0.05, share=0.25, evaluations=3),
            ),
            All(
                Special("reward_mean minus correctness grows by 0.05", gap_grows("reward_mean", "correctness", 0.05)),
                Moved("reward_mean", 1, by=0.05),
                Not(Moved("correctness", 1, by=0.03)),
                Not(_EVALUATION_RISES),
            ),
            All(Moved("high_reward_but_wrong", 1, by=0.05), Level("high_reward_but_wrong", ">", 0.05)),
            All(
                Moved("reward_mean", 1, by=0.03),
                Level("correctness", "<", 0.9),  # logged, and something is left to learn
                Not(Moved("correctness", 1, by=0.02)),
                _PAYS_WITHOUT_BEING_RIGHT,
                Not(_EVALUATION_RISES),
            ),
        ),
        "stop at the best evaluated checkpoint; weigh correctness higher in the reward, check the judge (rft"
        " judge-check) or train on exact match",
    ),
    Rule(
        "ratio_spikes",
        "loss and gradient spikes from extreme probability ratios",
        Special("the gradient spikes at 2 steps or more where a log-ratio exceeds 5 nats", ratio_spikes(2)),
        "tighten --eps_clip (0.2 to 0.1), lower --actor_learning_rate, --on_spike skip; clipping advantages does not"
        " help. Look at the tokens: rft replay-spike",
    ),
    Rule(
        "length_collapse",
        "length collapse: answers have become short without becoming better",
        AnyOf(
            All(Shrunk("response_length_mean", 0.5, "peak"), Moved("response_length_mean", -1), Not(_RISES)),
            All(Shrunk("response_length_mean", 0.65, "peak"), Moved("response_length_mean", -1, share=0.25), _FALLS),
            All(Shrunk("response_length_mean", 0.15, "peak"), Moved("response_length_mean", -1)),
        ),
        "look at samples (rft samples), check the reward's length term and the entropy, raise --init_kl_coef",
    ),
    Rule(
        "high_truncation",
        "high truncation: answers are cut off before they can be right",
        AnyOf(
            Level("truncated", ">", 0.7),
            All(Level("truncated", ">", 0.5), Moved("truncated", 1, by=0.2)),
        ),
        "raise --generate_max_len, or shape the length (--overlong_buffer_len)",
    ),
    Rule(
        "entropy_collapse",
        "entropy collapse: the policy stops exploring",
        AnyOf(
            All(_ENTROPY_CROSSES, Moved("entropy_mean", -1, share=0.15)),
            All(Shrunk("entropy_mean", 0.5), Moved("entropy_mean", -1)),
        ),
        "raise --init_kl_coef or --entropy_loss_coef, lower --actor_learning_rate, sample at temperature 1",
    ),
    Rule(
        "growing_spikes",
        "gradient spikes grow from decade to decade of steps",
        Special("decade maxima of grad_norm grow threefold over 4 decades or more", growing_spikes(4, 3.0, 2.0)),
        "the policy drifts to where it is unstable: go back to the checkpoint before the growth, lower"
        " --actor_learning_rate, raise --init_kl_coef",
    ),
    Rule(
        "lr_target_missed",
        "the learning rate never reaches its target",
        Special("below 90 % of the target and not on its way there", target_missed(0.9, at_step=20, early=0.3)),
        "shorten the warm-up (--lr_warmup_ratio) or lengthen the run; bash preflight_lr.sh shows the schedule",
    ),
    Rule(
        "dead_prompts",
        "dead prompts: most groups are all right or all wrong and teach nothing",
        All(Steps(8), Level("zero_std_groups", ">", 0.6)),
        "choose prompts of middling difficulty (solve rate 0.2 to 0.8), use --dynamic_filtering, or raise"
        " --n_samples_per_prompt",
    ),
    Rule(
        "mismatch_growth",
        "trainer and engine drift apart",
        AnyOf(
            All(Moved("dlogp_abs_mean", 1, share=0.5), Level("dlogp_abs_mean", ">", 0.03)),
            All(Steps(8), Level("dlogp_abs_mean", ">", 0.05, most=0.8)),
        ),
        "look at sync_log.jsonl (digests, canaries) and dlogp_abs_mean_lagK; --lora_apply sidepath; until it is mended"
        " --enable_vllm_is_correction; --mismatch_abort stops such a run",
    ),
    Rule(
        "weights_fixed",
        "the weights do not move",
        AnyOf(
            Special("grad_norm is 0 in 8 steps or more", zero("grad_norm", 8)),
            Special("canary_shift_mean is 0 in 8 steps or more", zero("canary_shift_mean", 8)),
            Special("the adapter's digests stand for 4 syncs", digests_stand(4)),
            Special("several optimizer steps a rollout leave every ratio at 1", ratio_never_moves(8)),
            All(
                Special("kl is measured and 0 in 8 steps or more", zero("kl", 8)),
                Special("the run has a reference", kl_is_measured),
                Not(_RISES),
                Steady("entropy_mean", share=0.15),
                Not(_EVALUATION_RISES),
            ),
        ),
        "check that the adapter is trainable and in the optimizer, that the learning rate is above 0 and that updates"
        " are not rounded away in bf16 (digests in sync_log.jsonl change with every sync)",
    ),
)
