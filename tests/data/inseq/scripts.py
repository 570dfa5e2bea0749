"""Inseq's documented examples and its users' habits, with texts and models of our own.

Each script says `import inseq`; GPT2, BART (folders of models) and FOLDER (an empty one) are given. It leaves what can be
compared in `result`: tensors, lists or texts. The same scripts run on Inseq (`recipes/inseq_files.py`, which records what
they leave or how they fail) and, with `import attriflow.inseq as inseq`, in the tests.
"""

DOCUMENTED = {
    "readme: integrated gradients of a translation": """
import inseq
model = inseq.load_model(BART, "integrated_gradients")
out = model.attribute("ki nakol temo", "pari mitemi", n_steps=10)
out.show()
result = {"scores": out.aggregate()[0].source_attributions}
""",
    "readme: a continuation": """
import inseq
model = inseq.load_model(GPT2, "integrated_gradients")
out = model.attribute("ki nakol temo", generation_args={"max_new_tokens": 1, "min_new_tokens": 1}, n_steps=10, internal_batch_size=5)
out.show()
result = {"scores": out.aggregate()[0].target_attributions}
""",
    "readme: contrast": """
import inseq
attribution_model = inseq.load_model(GPT2, "input_x_gradient")
out = attribution_model.attribute(
    "ki nakol temo", "ki nakol temo pari mitemi", attributed_fn="contrast_prob_diff",
    contrast_targets="ki nakol temo pari kana", step_scores=["contrast_prob_diff"],
)
out.show()
result = {"scores": out[0].target_attributions, "difference": out[0].step_scores["contrast_prob_diff"], "tokens": [t.token for t in out[0].target]}
""",
    "index: convergence delta": """
import inseq
model = inseq.load_model(BART, "integrated_gradients")
out = model.attribute("ki nakol temo", "pari mitemi", n_steps=20, return_convergence_delta=True, step_scores=["probability"])
out.show()
result = {"names": sorted(out[0].step_scores), "probability": out[0].step_scores["probability"]}
""",
    "quickstart: generate and explain": """
import inseq
model = inseq.load_model(BART, "saliency")
out = model.attribute(input_texts="ki nakol temo", generation_args={"max_new_tokens": 4})
out.show()
print(out)
result = {"shape": list(out[0].source_attributions.shape)[::2], "start": out[0].attr_pos_start}
""",
    "quickstart: save, load, page": """
import inseq
model = inseq.load_model(BART, "saliency")
out = model.attribute("ki nakol temo", "pari mitemi")
out.save(FOLDER + "/out.json")
reloaded_out = inseq.FeatureAttributionOutput.load(FOLDER + "/out.json")
html = reloaded_out.show(display=False, return_html=True)
with open(FOLDER + "/out.html", "w") as f:
    f.write(html)
result = {"scores": reloaded_out[0].source_attributions, "tokens": [str(t) for t in reloaded_out[0].source]}
""",
    "quickstart: attention": """
import inseq
model = inseq.load_model(BART, "saliency")
out = model.attribute(input_texts="ki nakol temo", generated_texts="pari mitemi", attribute_target=True, method="attention")
shape = out[0].source_attributions.shape
kind = out[0]._aggregator
out.show()
result = {"shape": list(shape), "aggregator": kind, "scores": out.aggregate()[0].source_attributions, "target": out[0].target_attributions}
""",
    "quickstart: lists": """
import inseq
print("Aggregators:", inseq.list_aggregators())
print("Aggregation functions:", inseq.list_aggregation_functions())
known = ["spans", "pair", "subwords", "scores"], ["vnorm", "absmax", "prod", "sum", "max", "min", "mean"]
result = {"known": [set(known[0]) <= set(inseq.list_aggregators()), set(known[1]) <= set(inseq.list_aggregation_functions()),
  {"saliency", "lime", "attention"} <= set(inseq.list_feature_attribution_methods()), {"logit", "entropy"} <= set(inseq.list_step_functions()), "hf_transformers" in inseq.list_supported_frameworks()]}
""",
    "quickstart: explain": """
import inseq
inseq.explain("integrated_gradients")
inseq.explain("pair")
inseq.explain("probability")
result = {}
""",
    "quickstart: contrast of translations": """
import inseq
attribution_model = inseq.load_model(BART, "saliency")
out = attribution_model.attribute(
    "ki nakol temo", "pari mitemi", attributed_fn="contrast_prob_diff", contrast_targets="pari kana",
    attribute_target=True, step_scores=["contrast_prob_diff"],
)
out.show()
result = {"source": out[0].source_attributions, "target": out[0].target_attributions}
""",
    "multilingual: subwords": """
import inseq
from inseq.data.aggregator import SubwordAggregator
model = inseq.load_model(BART, "input_x_gradient", tokenizer_kwargs={"model_max_length": 50})
out = model.attribute("ki nakol temo", "pari mitemi", attribute_target=True, step_scores=["probability"])
out.aggregate().show(aggregator=SubwordAggregator)
result = {"probability": out[0].step_scores["probability"]}
""",
    "custom target: a second pass": """
import inseq
from inseq.attr.step_functions import probability_fn, StepFunctionArgs

def example_prob_diff_fn(args: StepFunctionArgs, contrast_ids, contrast_attention_mask):
    device = args.attribution_model.device
    len_inputs = args.decoder_input_ids.shape[1]
    contrast_decoder_input_ids = contrast_ids[:, : len_inputs].to(device)
    contrast_decoder_attention_mask = contrast_attention_mask[:, : len_inputs].to(device)
    contrast_target_ids = contrast_ids[:, len_inputs].to(device)
    contrast_output = args.attribution_model.model(
        inputs_embeds=args.encoder_input_embeds, attention_mask=args.encoder_attention_mask,
        decoder_input_ids=contrast_decoder_input_ids, decoder_attention_mask=contrast_decoder_attention_mask,
    )
    model_probs = probability_fn(args)
    args.forward_output = contrast_output
    args.target_ids = contrast_target_ids
    contrast_probs = probability_fn(args)
    return model_probs - contrast_probs

inseq.register_step_function(
    fn=example_prob_diff_fn, identifier="example_prob_diff", overwrite=True,
    aggregate_map={"span_aggregate": lambda x: x.prod(dim=1, keepdim=True)},
)
attribution_model = inseq.load_model(BART, "saliency")
contrast = attribution_model.encode("pari kana", as_targets=True)
out = attribution_model.attribute(
    "ki nakol temo", "pari mitemi", attributed_fn="example_prob_diff", contrast_ids=contrast.input_ids,
    contrast_attention_mask=contrast.attention_mask, attribute_target=True, step_scores=["example_prob_diff"],
)
difference, raw = out[0].step_scores["example_prob_diff"].clone(), out[0].source_attributions.clone()
out.weight_attributions("example_prob_diff")
out.show()
result = {"difference": difference, "raw": raw}
""",
    "knowledge: layers": """
import inseq
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(GPT2)
for layer in range(2):
    attrib_model = inseq.load_model(model, "layer_gradient_x_activation", tokenizer=GPT2, target_layer=model.transformer.h[layer].mlp)
    for i, answer in enumerate(["mitemi", "kana"]):
        out = attrib_model.attribute(
            "ki nakol temo", "ki nakol temo pari", attributed_fn="contrast_prob_diff", contrast_targets="ki nakol temo " + answer,
            step_scores=["contrast_prob_diff"], show_progress=False,
        )
        out = out.aggregate()
        out.save(FOLDER + f"/layer_{layer}_ex_{i}.json", overwrite=True)
scores = {}
for layer_idx in range(2):
    curr_out = inseq.FeatureAttributionOutput.load(FOLDER + f"/layer_{layer_idx}_ex_1.json")
    out_dict = curr_out.get_scores_dicts(do_aggregation=False)[0]
    scores[layer_idx] = list(out_dict["target_attributions"][(4, "Ġkana → Ġpari")].values())[:-1]
result = {"scores": [scores[0], scores[1]]}
""",
    "pairs": """
import inseq
from inseq.data.aggregator import AggregatorPipeline, ContiguousSpanAggregator, SequenceAttributionAggregator, PairAggregator
model = inseq.load_model(BART, "integrated_gradients")
out = model.attribute(
    ["ki nakol kana", "ki nakol kana"], ["pari mitemi", "pari kana"], n_steps=10, return_convergence_delta=True,
    attribute_target=True, step_scores=["probability"], internal_batch_size=10, include_eos_baseline=False, batch_size=1,
)
squeezesum = AggregatorPipeline([ContiguousSpanAggregator, SequenceAttributionAggregator])
masculine = out.sequence_attributions[0].aggregate(aggregator=SequenceAttributionAggregator)
feminine = out.sequence_attributions[1].aggregate(aggregator=squeezesum, target_spans=[])
masculine.show(aggregator=PairAggregator, paired_attr=feminine)
result = {"one": masculine.source_attributions, "two": feminine.source_attributions}
""",
    "petals: a sum that is not normalised": """
import inseq
inseq_model = inseq.load_model(GPT2, "input_x_gradient")
prompt = "ki nakol temo"
out = inseq_model.attribute(
    prompt, prompt + " pari", attributed_fn="contrast_prob_diff", contrast_targets=prompt + " kana", step_scores=["contrast_prob_diff", "probability"],
)
out.show(aggregator="sum", normalize=False)
result = {"sum": out.aggregate("sum", normalize=False)[0].target_attributions}
""",
    "tuned lens": """
import inseq
import torch

def confidence_from_prediction_depth(args, lens, **kwargs):
    batch = attribution_model.formatter.convert_args_to_batch(args)
    stream = []
    hooks = [layer.register_forward_hook(lambda m, a, o: stream.append((o[0] if isinstance(o, tuple) else o)[..., -1, :])) for layer in attribution_model.model.transformer.h]
    outputs = attribution_model.get_forward_output(batch, use_embeddings=False)
    for hook in hooks:
        hook.remove()
    probs = [lens(h).softmax(-1) for h in stream] + [outputs.logits.softmax(-1)[..., -1, :]]
    depth = len(probs)
    for i, p in enumerate(probs):
        if torch.all(p.argmax(-1) == args.target_ids):
            depth = i
            break
    return torch.tensor([1 - depth / len(probs)])

attribution_model = inseq.load_model(GPT2, "input_x_gradient")
head, norm = attribution_model.model.lm_head, attribution_model.model.transformer.ln_f
inseq.register_step_function(fn=confidence_from_prediction_depth, identifier="confidence", overwrite=True)
out = attribution_model.attribute("ki nakol temo", "ki nakol temo pari mitemi", lens=lambda h: head(norm(h)), device="cpu", step_scores=["confidence"])
result = {"confidence": out[0].step_scores["confidence"]}
""",
    "reagent": """
import inseq
model = inseq.load_model(GPT2, "reagent", keep_top_n=5, stopping_condition_top_k=3, replacing_ratio=0.3, max_probe_steps=8, num_probes=8)
out = model.attribute("ki nakol temo", "ki nakol temo pari")
out.show()
result = {}
""",
    "tutorial: views": """
import inseq
model = inseq.load_model(BART, "input_x_gradient")
out = model.attribute(input_texts="ki nakol temo", generated_texts="pari mitemi", attribute_target=True, step_scores=["probability"])
out.show_granular(display=False)
out.show_tokens(step_score_highlight="probability", display=False)
out[0].show_tokens(display=False, return_html=True)
result = {"source": out[0].source_attributions, "target": out[0].target_attributions}
""",
    "tutorial: heads and layers": """
import inseq
model = inseq.load_model(BART, "attention")
out = model.attribute("ki nakol temo", "pari mitemi", attribute_target=True)
heads = out[0].aggregate("mean", select_idx=(0, 3), normalize=False, do_post_aggregation_checks=False)
layer = heads.aggregate("scores", select_idx=-1, normalize=False)
layer.show(do_aggregation=False)
layer.aggregate("subwords", special_chars=("Ġ",)).show(do_aggregation=False)
result = {"heads": heads.source_attributions, "layer": layer.source_attributions}
""",
    "tutorial: subwords of the source": """
import inseq
qa_model = inseq.load_model(BART, "input_x_gradient")
out = qa_model.attribute("ki nakol temo", "pari mitemi", attribute_target=True, step_scores=["probability"])
out.aggregate("subwords", aggregate_target=False).show()
result = {}
""",
    "tutorial: generate, two continuations, their difference": """
import inseq
model = inseq.load_model(GPT2, "saliency")
natural_generation = model.generate("ki nakol temo", max_new_tokens=2, do_sample=False)[0]
out = model.attribute(
    input_texts=["ki nakol temo", "ki nakol temo"], generated_texts=["ki nakol temo pari mitemi", "ki nakol temo pari kana"], step_scores=["probability"],
)
out.show()
pair = out[0].aggregate("pair", paired_attr=out[1], do_post_aggregation_checks=False)
pair.show()
result = {"text": natural_generation, "one": out[0].target_attributions, "two": out[1].target_attributions, "pair": pair.target_attributions}
""",
    "tutorial: context by step scores": """
import inseq
model = inseq.load_model(BART, "dummy")
print(model.generate("ki nakol", max_new_tokens=4), model.generate("ki nakol temo", max_new_tokens=4))
out = model.attribute(
    "nakol", "pari mitemi", contrast_sources="ki nakol", contrast_targets="kana pari mitemi", attribute_target=True, step_scores=["pcxmi", "probability"],
)
out.show()
result = {"probability": out[0].step_scores["probability"]}
""",
    "tutorial: aligned by hand": """
import inseq
model = inseq.load_model(BART, "saliency")
source, one, other = "ki nakol temo", "pari mitemi", "kana pari mitemi"
print(list(enumerate(model.encode(one, as_targets=True).input_tokens[0])))
tokens = model.encode(other, as_targets=True).input_tokens[0]
out = model.attribute(
    source, one, attributed_fn="contrast_prob_diff", step_scores=["contrast_prob_diff"], contrast_targets=other,
    contrast_targets_alignments=[(0, 0), (1, 1), (2, 3), (3, 4), (4, 5), (5, 6)], contrast_force_inputs=True,
)
out.show()
result = {"tokens": tokens, "difference": out[0].step_scores["contrast_prob_diff"]}
""",
    "tutorial: aligned by an aligner": """
import inseq
model = inseq.load_model(BART, "saliency")
out = model.attribute(
    "ki nakol temo", "pari mitemi", attributed_fn="contrast_prob_diff", step_scores=["contrast_prob_diff"], contrast_targets="kana pari mitemi",
    contrast_targets_alignments="auto", contrast_force_inputs=True,
)
out.show()
result = {}
""",
    "context reliance": """
import inseq
from inseq.commands.attribute_context.attribute_context import AttributeContextArgs, attribute_context_with_model
model = inseq.load_model(GPT2, "saliency")
args = AttributeContextArgs(
    model_name_or_path=GPT2, input_context_text="ki nakol kana", input_current_text="pari mitemi", output_current_text="ki mitemi",
    attributed_fn="contrast_prob_diff", attribution_method="saliency", context_sensitivity_std_threshold=0.0, show_viz=False, save_path=FOLDER + "/context.json",
)
found = attribute_context_with_model(args, model)
result = {"cti": found.cti_scores, "cci": found.cci_scores[0].input_context_scores, "index": found.cci_scores[0].cti_idx, "keys": sorted(found.to_dict())}
""",
}
WRITTEN = {
    "a loop over methods with options of one": """
import inseq
scores = {}
for method in ["saliency", "input_x_gradient", "integrated_gradients", "occlusion", "attention"]:
    model = inseq.load_model(GPT2, method)
    out = model.attribute("ki nakol temo", "ki nakol temo pari mitemi", n_steps=5, show_progress=False)
    scores[method] = out.aggregate()[0].target_attributions.abs()
result = scores
""",
    "one model, several methods": """
import inseq
model = inseq.load_model(GPT2, "saliency")
result = {}
for method in ["saliency", "input_x_gradient"]:
    out = model.attribute("ki nakol temo", "ki nakol temo pari", method=method, override_default_attribution=True, pretty_progress=False)
    result[method] = out[0].target_attributions
""",
    "tensors by hand": """
import inseq
model = inseq.load_model(GPT2, "input_x_gradient")
seq = model.attribute("ki nakol temo", "ki nakol temo pari mitemi", show_progress=False).sequence_attributions[0]
attr = seq.target_attributions.sum(dim=-1)[: seq.attr_pos_start]
attr = attr / attr.abs().sum(0, keepdim=True)
words = [t.token.replace("Ġ", "") for t in seq.source]
result = {"scores": attr, "words": words, "numpy": attr.numpy().tolist()}
""",
    "dictionaries of scores": """
import inseq
model = inseq.load_model(BART, "saliency")
out = model.attribute("ki nakol temo", "pari mitemi", attribute_target=True, step_scores=["probability", "entropy"])
table = out.get_scores_dicts()[0]
rows = {kind: [list(column.values()) for column in table[kind].values()] for kind in ("source_attributions", "target_attributions")}
result = {**rows, "columns": [list(key) for key in table["source_attributions"]], "steps": [v["entropy"] for v in table["step_scores"].values()]}
""",
    "a batch": """
import inseq
model = inseq.load_model(BART, "saliency")
out = model.attribute(["ki nakol temo", "kana", "nakol"], ["pari mitemi", "kana", "pari"], batch_size=1, step_scores=["probability"])
result = {str(i): s.step_scores["probability"] for i, s in enumerate(out.sequence_attributions)}
""",
    "a target that is continued": """
import inseq
model = inseq.load_model(BART, "saliency")
out = model.attribute("ki nakol temo", "pari", generate_from_target_prefix=True, generation_args={"max_new_tokens": 3}, show_progress=False)
result = {"begins": out.info["generated_texts"][0].startswith("pari")}
""",
    "positions": """
import inseq
model = inseq.load_model(GPT2, "saliency")
out = model.attribute("ki nakol temo", "ki nakol temo pari mitemi kana", attr_pos_start=5, attr_pos_end=6, show_progress=False)
s = out[0]
result = {"scores": s.target_attributions[:5], "positions": [s.attr_pos_start, s.attr_pos_end], "token": s.target[s.attr_pos_start].token}
""",
    "small files": """
import inseq
model = inseq.load_model(GPT2, "saliency")
out = model.attribute("ki nakol temo", "ki nakol temo pari", show_progress=False)
out.save(FOLDER + "/small.json.gz", compress=True, scores_precision="float16")
again = inseq.FeatureAttributionOutput.load(FOLDER + "/small.json.gz", decompress=True)
result = {"scores": again[0].target_attributions, "texts": again.info["generated_texts"]}
""",
    "a file per text": """
import inseq
model = inseq.load_model(BART, "saliency")
out = model.attribute(["ki nakol temo", "kana"], ["pari mitemi", "kana"], batch_size=1, show_progress=False)
out.save(FOLDER + "/parts.json", split_sequences=True)
parts = [inseq.FeatureAttributionOutput.load(FOLDER + f"/parts_{i}.json") for i in range(2)]
merged = inseq.merge_attributions(parts)
result = {"inputs": merged.info["input_texts"], "scores": merged[1].source_attributions}
""",
    "plain JSON": """
import json
import inseq
model = inseq.load_model(GPT2, "saliency")
out = model.attribute("ki nakol temo", "ki nakol temo pari", show_progress=False).aggregate()
out.save(FOLDER + "/plain.json", use_primitives=True)
data = json.load(open(FOLDER + "/plain.json"))
result = {"tokens": [t["token"] for t in data["sequence_attributions"][0]["target"]], "keys": sorted(data)}
""",
    "weights and a page": """
import inseq
model = inseq.load_model(GPT2, "saliency")
out = model.attribute("ki nakol temo", "ki nakol temo pari mitemi", step_scores=["probability"], show_progress=False)
out.weight_attributions("probability")
html = out.show(display=False, return_html=True)
result = {"scores": out[0].target_attributions, "html": "pari" in html}
""",
    "a function of one's own": """
import inseq
import torch

def margin(args, k: int = 2):
    logits = args.attribution_model.output2logits(args.forward_output)
    top = logits.topk(k, dim=-1).values
    return top[:, 0] - top[:, k - 1]

inseq.register_step_function(margin, "my_margin", overwrite=True)
model = inseq.load_model(GPT2, "saliency")
out = model.attribute("ki nakol temo", "ki nakol temo pari mitemi", attributed_fn="my_margin", step_scores=["my_margin"], k=3, show_progress=False)
direct = model.attribute("ki nakol temo", "ki nakol temo pari mitemi", attributed_fn=margin, show_progress=False)
result = {"scores": out[0].target_attributions, "margin": out[0].step_scores["my_margin"], "direct": direct[0].target_attributions}
""",
    "logits as the target": """
import inseq
model = inseq.load_model(GPT2, "input_x_gradient")
out = model.attribute("ki nakol temo", "ki nakol temo pari", attributed_fn="logit", step_scores=["logit"], show_progress=False)
result = {"scores": out[0].target_attributions, "logit": out[0].step_scores["logit"]}
""",
    "steps": """
import inseq
model = inseq.load_model(GPT2, "saliency")
out = model.attribute("ki nakol temo", "ki nakol temo pari mitemi", output_step_attributions=True, show_progress=False)
result = {"first": out.step_attributions[0].target_attributions, "prefix": [t.token for t in out.step_attributions[1].prefix[0]], "n": len(out.step_attributions)}
""",
    "a pipeline": """
import inseq
from inseq.data.aggregator import AggregatorPipeline, SubwordAggregator, SequenceAttributionAggregator
model = inseq.load_model(GPT2, "saliency")
out = model.attribute("ki nakol temo", "ki nakol temo pari mitemi", show_progress=False)
pipeline = AggregatorPipeline(["subwords", "scores"], aggregate_fn=["absmax", "vnorm"])
agg = out.aggregate(pipeline, special_chars=("Ġ", "Ċ"))
named = out.aggregate("vnorm")
result = {"scores": agg[0].target_attributions[:2, -1], "named": named[0].target_attributions}
""",
    "one head": """
import inseq
model = inseq.load_model(GPT2, "attention")
out = model.attribute("ki nakol temo", "ki nakol temo pari mitemi", show_progress=False)
result = {"head": out[0].target_attributions[:, :, 0, 1], "last": out[0].target_attributions[:4, 0].mean(-1)[:, -1]}
""",
    "tokens and texts": """
import inseq
model = inseq.load_model(BART, "saliency")
batch = model.encode(["ki nakol temo", "kana"], return_baseline=True)
tokens = model.convert_ids_to_tokens(batch.input_ids[0], skip_special_tokens=False)
result = {
    "ids": batch.input_ids.tolist(), "mask": batch.attention_mask.tolist(), "baseline": batch.baseline_ids.tolist(), "tokens": tokens,
    "text": model.convert_tokens_to_string(model.convert_string_to_tokens("ki nakol temo")), "decoded": model.decode(batch.input_ids),
    "back": model.convert_tokens_to_ids(tokens), "embedded": model.embed("kana"), "special": sorted(set(model.special_tokens)),
}
""",
    "ranges and differences": """
import inseq
model = inseq.load_model(GPT2, "saliency")
out = model.attribute(["ki nakol temo", "ki nakol kana"], ["ki nakol temo pari", "ki nakol kana pari"], show_progress=False)
one = model.attribute("ki nakol", "ki nakol pari", show_progress=False)[0]
two = model.attribute("ki kana", "ki kana pari", show_progress=False)[0]
result = {"difference": (one - two).target_attributions, "minimum": one.aggregate().minimum}
""",
    "readable tokens": """
import inseq
model = inseq.load_model(GPT2, "saliency")
out = model.attribute("ki nakol temo", "ki nakol temo pari", show_progress=False)
result = {"decoded": [t.token for t in out.decode_tokens(model.tokenizer)[0].source]}
""",
    "a copy that is changed": """
import inseq
from copy import deepcopy
model = inseq.load_model(GPT2, "saliency")
out = model.attribute("ki nakol temo", "ki nakol temo pari", show_progress=False)
other = deepcopy(out)
other.sequence_attributions[0].target_attributions = other[0].target_attributions.norm(dim=-1)
other.sequence_attributions[0].target_attributions[0] = 0
other.show(do_aggregation=False)
result = {"scores": other[0].target_attributions, "kept": out[0].target_attributions}
""",
    "what is no longer needed": """
import inseq
inseq.register_model_config("GPT2LMHeadModel", {"self_attention_module": "attn", "value_vector": "value_states", "cross_attention_module": None}, overwrite=True)
model = inseq.load_model(GPT2, "saliency", device="cpu", model_kwargs={"attn_implementation": "eager"}, framework="hf_transformers")
out = model.attribute("ki nakol temo", "ki nakol temo pari", generation_args={"max_new_tokens": 5}, attribute_target=True, device="cpu", show_progress=False)
result = {"scores": out[0].target_attributions, "method": out.info["attribution_method"], "constrained": out.info["constrained_decoding"]}
""",
}
