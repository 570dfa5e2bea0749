"""Results, aggregators and encodings under Inseq's names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attriflow.doors import facade

if TYPE_CHECKING:
    from attriflow.inseq.attr.step_functions import list_aggregation_functions as list_aggregation_functions
    from attriflow.inseq.attr.step_functions import list_aggregators as list_aggregators
    from attriflow.inseq.data.aggregation_functions import AggregationFunction as AggregationFunction
    from attriflow.inseq.data.aggregator import Aggregator as Aggregator
    from attriflow.inseq.data.aggregator import AggregatorPipeline as AggregatorPipeline
    from attriflow.inseq.data.aggregator import ContiguousSpanAggregator as ContiguousSpanAggregator
    from attriflow.inseq.data.aggregator import PairAggregator as PairAggregator
    from attriflow.inseq.data.aggregator import SequenceAttributionAggregator as SequenceAttributionAggregator
    from attriflow.inseq.data.aggregator import SliceAggregator as SliceAggregator
    from attriflow.inseq.data.aggregator import StringSplitAggregator as StringSplitAggregator
    from attriflow.inseq.data.aggregator import SubwordAggregator as SubwordAggregator
    from attriflow.inseq.data.attribution import FeatureAttributionInput as FeatureAttributionInput
    from attriflow.inseq.data.attribution import FeatureAttributionOutput as FeatureAttributionOutput
    from attriflow.inseq.data.attribution import FeatureAttributionSequenceOutput as FeatureAttributionSequenceOutput
    from attriflow.inseq.data.attribution import merge_attributions as merge_attributions
    from attriflow.inseq.data.batch import BatchEncoding as BatchEncoding
    from attriflow.inseq.data.batch import DecoderOnlyBatch as DecoderOnlyBatch
    from attriflow.inseq.data.batch import EncoderDecoderBatch as EncoderDecoderBatch
    from attriflow.inseq.data.steps import FeatureAttributionStepOutput as FeatureAttributionStepOutput
    from attriflow.inseq.data.tokens import TokenWithId as TokenWithId
    from attriflow.inseq.data.viz import show_attributions as show_attributions
    from attriflow.inseq.data.viz import show_granular_attributions as show_granular_attributions
    from attriflow.inseq.data.viz import show_token_attributions as show_token_attributions

_HOMES = {
    "attriflow.inseq.attr.step_functions": ("list_aggregation_functions", "list_aggregators"),
    "attriflow.inseq.data.aggregation_functions": ("AggregationFunction",),
    "attriflow.inseq.data.aggregator": (
        "Aggregator", "AggregatorPipeline", "ContiguousSpanAggregator", "PairAggregator",
        "SequenceAttributionAggregator", "SliceAggregator", "StringSplitAggregator", "SubwordAggregator",
    ),
    "attriflow.inseq.data.attribution": (
        "FeatureAttributionInput", "FeatureAttributionOutput", "FeatureAttributionSequenceOutput", "merge_attributions",
    ),
    "attriflow.inseq.data.steps": ("FeatureAttributionStepOutput",),
    "attriflow.inseq.data.tokens": ("TokenWithId",),
    "attriflow.inseq.data.viz": ("show_attributions", "show_granular_attributions", "show_token_attributions"),
    "attriflow.inseq.data.batch": ("BatchEncoding", "DecoderOnlyBatch", "EncoderDecoderBatch"),
}  # fmt: skip
__all__ = [name for names in _HOMES.values() for name in names]
__getattr__ = facade(__name__, _HOMES, ("aggregation_functions", "aggregator", "attribution", "batch", "viz"))
