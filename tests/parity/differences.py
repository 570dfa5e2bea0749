"""Where attriflow differs from Inseq on purpose, and the tests that hold our side of it.

`recipes/make_docs.py` writes these rows into docs/moving-from-inseq.md.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """One of them, in Markdown; a row without tests says why in `untested`."""

    what: str
    inseq: str
    here: str
    tests: tuple[str, ...]
    untested: str = ""

    def cells(self) -> list[str]:
        """What the page shows: the row and its tests, below tests/."""
        tests = ", ".join(f"`{name.removeprefix('tests/')}`" for name in self.tests)
        return [self.what, self.inseq, self.here, tests or f"not tested: {self.untested}"]


DIFFERENCES = (
    Difference(
        "passes",
        "one forward (and more) per generated token",
        'all generated tokens from shared passes; `out.info["forward_passes"]` counts them',
        ("tests/properties/test_methods.py::TestAgainstTheLoop::test_pass_counts",),
    ),
    Difference(
        "order of axes",
        "`[attributed token, generated token, ...]`",
        "`scores` is `[step, input, ...]`; the properties `source_attributions` and `target_attributions` give "
        "Inseq's order",
        (
            "tests/parity/test_golden_attributions.py::test_raw",
            "tests/properties/test_methods.py::TestEveryMethod::test_nan_exactly_where_a_step_cannot_see",
        ),
    ),
    Difference(
        "default reduction",
        "raw scores keep the embedding axis until `aggregate`",
        "reduced as they are produced: signed sum (L2 norm for saliency), the L2 norm is kept in `norms`; "
        "`granular=True` keeps the axis; `aggregate()` gives Inseq's normalised norms",
        (
            "tests/parity/test_golden_attributions.py::test_aggregated",
            "tests/parity/test_golden_aggregations.py::test_reduced_as_they_are_produced",
            "tests/unit/test_aggregation.py::TestScores::test_what_a_reduced_axis_cannot_tell",
        ),
    ),
    Difference(
        "occlusion",
        "absolute value",
        "signed: positive means the token supports the score",
        ("tests/parity/test_oracles.py::TestExact::test_occlusion_is_signed_leave_one_out",),
    ),
    Difference(
        "perplexity",
        "2 to the power of nats",
        "e to the power of nats, that is 1 / probability",
        ("tests/parity/test_golden_step_scores.py::test_perplexity_is_exp_of_nats",),
    ),
    Difference(
        "generated tokens",
        "decoded to text and tokenised again",
        "the generated ids themselves",
        ("tests/unit/test_model_api.py::TestTexts::test_generated_ids_are_explained_as_they_came",),
    ),
    Difference(
        "padding",
        "left-padded without position ids: other scores than alone",
        "the same scores alone and in a batch",
        ("tests/properties/test_methods.py::TestEveryMethod::test_batch_is_alone_in_any_order",),
    ),
    Difference(
        "`attr_pos_end` of encoder-decoders",
        "inclusive by mistake",
        "exclusive, as for decoder-only models",
        ("tests/parity/test_inseq_differences.py::test_the_end_is_exclusive",),
    ),
    Difference(
        "`target` with `attr_pos_end`",
        "the whole text",
        "the text up to that token, which is all that scores depend on",
        ("tests/parity/test_inseq_differences.py::test_the_end_is_exclusive",),
    ),
    Difference(
        "`target_layer` in `attribute`",
        "ignored: the embeddings are explained; only `load_model` takes it",
        "used",
        ("tests/parity/test_layer_methods.py::TestComplete::test_sums",),
    ),
    Difference(
        "methods and aggregators of your own",
        "subclasses of Inseq's registries",
        "`attriflow.register_method`, `register_aggregator`; subclasses of `AggregationFunction` work",
        (
            "tests/unit/test_registry.py::test_parts_are_registered_by_decorator_and_by_call",
            "tests/unit/test_aggregation.py::test_registration",
            "tests/parity/test_inseq_names.py::test_habits_around_a_model",
        ),
    ),
    Difference(
        "tokens of context results",
        "raw, counted in the context alone",
        "readable, counted in the text that the model reads",
        ("tests/parity/test_inseq_differences.py::test_context_tokens_are_those_of_the_whole_text",),
    ),
    Difference(
        "captum's `method=` of integrated gradients",
        '`attribution_args={"method": ...}`',
        "`quadrature=` (`captum_compatible=True` for captum's `riemann_trapezoid`, whose weights do not sum to 1)",
        ("tests/parity/test_captum.py::test_rules",),
    ),
    Difference(
        "captum's `sliding_window_shapes` of occlusion",
        "a shape with the hidden size",
        "`window=` (in the units of `unit=`)",
        (
            "tests/parity/test_captum.py::test_occlusion",
            "tests/parity/test_inseq_differences.py::test_windows_are_counted_in_units",
        ),
    ),
    Difference(
        "a mistyped keyword",
        "a warning",
        "an error that names the nearest option",
        ("tests/unit/test_model_api.py::TestKeywords::test_a_mistyped_keyword_is_an_error",),
    ),
    Difference(
        "contrastive functions",
        "one text at a time, no path methods",
        "batches and every method",
        ("tests/parity/test_golden_contrast.py::test_batch_is_alone",),
    ),
    Difference(
        "`contrast_sources` of decoder-only models",
        "no effect",
        "another prompt for the same continuation",
        ("tests/unit/test_alignment.py::TestPrompts::test_the_same_ids_after_another_prompt",),
    ),
    Difference(
        '`contrast_targets_alignments="auto"`',
        "an aligner (LaBSE) is downloaded",
        "equal ids, spelling, then the model's own embeddings",
        (
            "tests/unit/test_alignment.py::TestAlign::test_spelling",
            "tests/unit/test_alignment.py::TestAlign::test_meaning",
            "tests/unit/test_alignment.py::TestAuto::test_a_longer_foil",
        ),
    ),
    Difference(
        "`kl_divergence`, `pcxmi` and `in_context_pvi` as `attributed_fn`",
        "need `contrast_force_inputs`",
        "always compare the two inputs",
        ("tests/unit/test_alignment.py::TestNothingToCompare::test_functions_of_two_inputs_need_no_flag",),
    ),
    Difference(
        "`kl_divergence` with `top_k` or `top_p`",
        "NaN",
        "over the kept tokens",
        (
            "tests/parity/test_step_function_oracles.py::TestDivergence::test_top_k",
            "tests/parity/test_step_function_oracles.py::TestDivergence::test_top_p",
        ),
    ),
    Difference(
        "`mc_dropout_prob_avg`",
        "the plain probability's distance from the average in standard deviations; the model stays in training mode",
        "the average; seeded, the same in any batch; the mode is restored",
        (
            "tests/properties/test_step_functions.py::TestDropout::test_the_average_of_single_passes",
            "tests/properties/test_step_functions.py::TestDropout::test_seeds",
            "tests/properties/test_step_functions.py::TestDropout::test_alone_is_batch",
            "tests/properties/test_step_functions.py::TestDropout::test_modes_stay",
        ),
    ),
    Difference(
        "`top_p_size`",
        "over the whole batch",
        "of each sequence",
        (
            "tests/parity/test_step_function_oracles.py::TestNucleus::test_size",
            "tests/properties/test_step_functions.py::test_alone_batch_and_order",
        ),
    ),
    Difference(
        "`crossentropy` and `perplexity` of a single text",
        "an error",
        "work",
        ("tests/parity/test_step_function_oracles.py::test_from_the_logits_of_the_oracles",),
    ),
    Difference(
        "`contrast_force_inputs=True` for encoder-decoders",
        "gradients flow through whatever tensors the two inputs happen to share",
        "the foil's own prediction is a constant, as for decoder-only models",
        ("tests/parity/test_inseq_differences.py::test_a_forced_foil_is_a_constant",),
    ),
    Difference(
        "DeepLIFT",
        "rescale rule on some module classes only: not complete on transformers",
        "complete; `captum_compatible=True` gives Inseq's numbers",
        ("tests/parity/test_deeplift.py::TestComplete::test_exactly", "tests/parity/test_deeplift.py::test_captum"),
    ),
    Difference(
        "layer integrated gradients, layer DeepLIFT",
        "all zeros",
        "by definition; checked against oracles",
        (
            "tests/parity/test_layer_methods.py::TestComplete::test_sums",
            "tests/parity/test_layer_methods.py::test_oracle_of_layer_integrated_gradients",
            "tests/parity/test_layer_methods.py::test_oracle_ends_of_layer_deeplift",
        ),
    ),
    Difference(
        "layer methods with the default layer on BART",
        "an error",
        "the embeddings of each side",
        ("tests/parity/test_layer_methods.py::TestAtTheEmbeddings::test_default",),
    ),
    Difference(
        "discretized integrated gradients",
        "the path ends at the rows of the embedding table, also where the model scales them; batches get wrong "
        "scores; the whole vocabulary's neighbours, cached under the model's name",
        "the path ends at the embeddings the model reads; batches equal single texts; neighbours of the words at "
        "hand, kept with the model",
        (
            "tests/parity/test_inseq_differences.py::test_discretized_paths_end_where_the_model_reads",
            "tests/properties/test_methods.py::TestEveryMethod::test_batch_is_alone_in_any_order",
            "tests/unit/test_reagent.py::test_neighbours_follow_changed_weights",
        ),
    ),
    Difference(
        "convergence delta of discretized integrated gradients",
        "ends of the path swapped",
        "sum of scores minus the difference",
        ("tests/parity/test_inseq_differences.py::test_discretized_paths_end_where_the_model_reads",),
    ),
    Difference(
        "sequential integrated gradients with `attribute_target`",
        "an error, or tokens of both sides moved at once",
        "one token of one side at a time",
        ("tests/parity/test_stochastic.py::test_sequential_sums_are_exact_differences",),
    ),
    Difference(
        "gradient SHAP",
        "numpy's global generator, baselines of other texts in the batch",
        "the seed, the text's own baseline, or a list of baselines as a distribution; `stdev` in standard deviations "
        "of the embedding table",
        (
            "tests/properties/test_methods.py::TestEveryMethod::test_same_seed_same_numbers",
            "tests/properties/test_methods.py::TestEveryMethod::test_batch_is_alone_in_any_order",
            "tests/parity/test_stochastic.py::test_baselines_are_a_distribution",
            "tests/parity/test_inseq_differences.py::test_noise_is_in_units_of_the_table",
        ),
    ),
    Difference(
        "LIME",
        "the number of the unk id in every dimension of a masked token; a score per dimension",
        "the unk embedding; one score per token, binary features, exponential kernel",
        ("tests/properties/test_surrogates.py::test_lime_is_weighted_ridge_regression",),
    ),
    Difference(
        "LIME with `attribute_target` on encoder-decoders",
        "an error",
        "works",
        ("tests/properties/test_methods.py::TestEveryMethod::test_nan_exactly_where_a_step_cannot_see",),
    ),
    Difference(
        "value zeroing",
        'fails on transformers 5; `similarity_metric="euclidean"` raises',
        "any architecture in transformers' attention interface, batches, euclidean distances",
        (
            "tests/parity/test_value_zeroing.py::TestLoop::test_every_token_and_layer",
            "tests/parity/test_value_zeroing.py::test_euclidean_and_heads_at_receiving_positions",
        ),
    ),
    Difference(
        "self scores of encoder and decoder (`attention`, `value_zeroing`)",
        "always computed",
        "`output_encoder_self_scores=True`, `output_decoder_self_scores=True`, in `sequence_scores`",
        (
            "tests/parity/test_attention_sequence.py::test_recorded",
            "tests/parity/test_attention_sequence.py::test_decoder_only",
            "tests/parity/test_value_zeroing.py::test_oracle",
        ),
    ),
    Difference(
        "ReAGent",
        "one text at a time, no source-only encoder-decoders, downloads a tagger and a RoBERTa tokenizer, ignores "
        "`attributed_fn`",
        "batches, both kinds of models, no downloads, any `attributed_fn`; stopping condition after 1, 2, 4, ... "
        "probes",
        (
            "tests/properties/test_methods.py::TestEveryMethod::test_batch_is_alone_in_any_order",
            "tests/parity/test_golden_contrast.py::test_batch_is_alone",
            "tests/parity/test_inseq_differences.py::test_reagent_stops_at_powers_of_two",
        ),
    ),
    Difference(
        "Marian, Pegasus, BlenderbotSmall under transformers 5",
        "the decoder scales what Inseq has scaled already: other probabilities (0.918 where the model says 0.991), "
        "other scores",
        "the model's own; source and target in [one space](how-it-works.md#the-model-check)",
        (
            "tests/unit/test_checking.py::test_both_sides_of_marian_are_explained_in_one_space",
            "tests/properties/test_architectures.py::test_an_architecture_is_as_good_as_the_page_says",
        ),
    ),
    Difference(
        "positions of a padded batch, training mode after a call",
        "shifted; left on",
        "as alone; restored",
        (
            "tests/properties/test_methods.py::TestEveryMethod::test_batch_is_alone_in_any_order",
            "tests/properties/test_methods.py::TestEveryMethod::test_model_and_tokenizer_leave_as_they_came",
        ),
    ),
    Difference(
        "contrast without contrastive inputs",
        "a difference of 0",
        "an error",
        ("tests/parity/test_golden_contrast.py::test_wrong_contrasts",),
    ),
    Difference(
        'what "scores" does by default',
        "a dictionary of the module, which every gradient result rewrites for all others",
        "embedding: norm; heads, layers: mean; nothing is remembered",
        (
            "tests/unit/test_aggregation.py::TestPipelines::test_nothing_is_remembered",
            "tests/parity/test_inseq_differences.py::test_scores_reduce_every_axis_a_name_the_last",
        ),
    ),
    Difference(
        '`aggregate("scores")` on layers and heads',
        "the last axis only",
        'all extra axes; a function\'s name, or `("scores", "mean")`, reduces the last one only',
        (
            "tests/parity/test_inseq_differences.py::test_scores_reduce_every_axis_a_name_the_last",
            "tests/unit/test_aggregation.py::TestScores::test_each_axis_has_its_function",
        ),
    ),
    Difference(
        "`do_post_aggregation_checks`, `do_pre_aggregation_checks`",
        "options; more than one score per token is an error unless switched off",
        "no such options: every attribution is consistent, and may keep layers or heads",
        ("tests/parity/test_inseq_differences.py::test_scores_reduce_every_axis_a_name_the_last",),
    ),
    Difference(
        "`subwords`",
        "words by a marker (`special_chars`, `is_suffix_symbol`); the last piece of the last word stays apart; "
        "special tokens are merged into the first word",
        "words by character spans, for every tokenizer; no markers to name; special tokens stay apart",
        (
            "tests/unit/test_words.py::test_sources_and_targets",
            "tests/unit/test_words.py::test_rules",
            "tests/unit/test_words.py::test_generated_ids",
        ),
    ),
    Difference(
        "`split`",
        'the pattern is searched in raw tokens ("Ġt"), special tokens included',
        'in the text (" t"); special tokens stay apart',
        (
            "tests/parity/test_golden_aggregations.py::test_recorded",
            "tests/unit/test_aggregation.py::test_split_keeps_special_tokens_apart",
        ),
    ),
    Difference(
        "merged tokens",
        "raw tokens joined, also over the border of prompt and generated text",
        "the text that they stand for; only `spans` crosses that border",
        (
            "tests/unit/test_aggregation.py::test_words_against_loops",
            "tests/unit/test_aggregation.py::test_what_is_visible",
            "tests/unit/test_aggregation.py::test_split_modes",
            "tests/unit/test_words.py::test_a_word_over_the_border_is_two",
        ),
    ),
    Difference(
        "a span that a step sees in part",
        "NaN for mean, sum, ...",
        "over the part it sees",
        ("tests/unit/test_aggregation.py::test_words_against_loops",),
    ),
    Difference(
        "step scores of a span",
        "a dictionary of the module; a function given for the scores applies to them, too",
        "the `span` or `aggregate_map` of their step function, or `step_scores=`; mean where Inseq adds up entropy "
        "and cross-entropy or multiplies perplexity and `contrast_prob_diff`; logarithms of probabilities are added",
        (
            "tests/unit/test_aggregation.py::TestStepScores::test_by_registration",
            "tests/unit/test_aggregation.py::TestStepScores::test_of_a_logarithm",
            "tests/unit/test_aggregation.py::TestStepScores::test_overridden",
            "tests/unit/test_aggregation.py::TestStepScores::test_aggregate_map",
            "tests/parity/test_inseq_differences.py::test_means_over_a_span",
        ),
    ),
    Difference(
        "`aggregate_source`, `aggregate_target`, `source_spans` of decoder-only models",
        "the source has labels only; all scores belong to the target",
        "the source is the prompt",
        (
            "tests/unit/test_aggregation.py::test_sides_can_be_left_alone",
            "tests/unit/test_aggregation.py::test_wrong_spans",
        ),
    ),
    Difference(
        "`slices` of the source",
        "drops the decoder start token as well",
        "a side without ranges stays whole",
        ("tests/unit/test_aggregation.py::test_slices",),
    ),
    Difference(
        "`a - b`",
        "b's scores minus a's; equal lengths only",
        "a's scores minus b's (`pair` is the change to `paired_attr`, as in Inseq); other lengths are aligned",
        (
            "tests/unit/test_aggregation.py::TestPair::test_minus",
            "tests/unit/test_aggregation.py::TestPair::test_unequal_lengths_are_aligned",
        ),
    ),
    Difference(
        "`weight_attributions`",
        "changes the output in place",
        "a new output",
        ("tests/unit/test_aggregation.py::test_weights",),
    ),
    Difference(
        "merging outputs",
        "model, method, step scores and a few more must agree",
        "for `merge_attributions` and `out.merge(...)` all that changes scores (options, attributed function, "
        "baseline, seed, ...); `+` joins outputs as they are",
        ("tests/unit/test_aggregation.py::test_merge",),
    ),
    Difference(
        "`out.show()`",
        "aggregates first, in red and blue; `return_figure=`",
        "shows the scores as they are (`aggregator=` to aggregate), in orange and blue; [plots](views.md) return "
        "matplotlib axes",
        (
            "tests/unit/test_views_html.py::test_a_page_holds_tokens_scores_and_step_scores",
            "tests/unit/test_views_html.py::test_show_aggregates_first",
            "tests/unit/test_views.py::test_colors_are_ordered_and_readable",
            "tests/unit/test_views_plots.py::test_heatmap",
        ),
    ),
    Difference(
        "`show_granular()`",
        "a heat map of several dimensions in notebooks",
        "sliders for layers and heads in notebooks, one table per layer or head in terminals",
        (
            "tests/integration/test_attribution_page_browser.py::test_sliders_choose_layers_and_heads",
            "tests/unit/test_console.py::test_one_table_per_layer",
        ),
    ),
    Difference(
        "a custom `attributed_fn`",
        "gets `StepFunctionArgs`, one step at a time",
        "gets a `Forward` with logits `[batch, step, vocab]` and target ids `[batch, step]` of all steps",
        ("tests/parity/test_inseq_differences.py::test_own_functions_get_all_steps",),
    ),
)
