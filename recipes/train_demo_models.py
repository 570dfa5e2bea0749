"""Train the two demo models that ship with the package, from scratch and seeded.

Usage: ``python recipes/train_demo_models.py [recall|translate|all] [--out DIR] [--seed 0] [--quick]``

Each model folder gets the Hugging Face files, the held-out examples with their evidence (``data.jsonl``) and a
``metadata.json`` with the seed, the number of steps and the exact match on held-out examples.

Half of what the models see is damaged: source words are replaced by ``<unk>`` or left out, and the target then is what
the grammar says when those words cannot be read (see ``attriflow.demo.grammar``). So ``<unk>`` means "no information",
and the words that the grammar calls evidence are what the trained model depends on. The words of the target prefix are
damaged as well, lest the model reads the evidence off its own earlier output instead of the source.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "plugin"))  # the recipe runs from a checkout, installed or not

from make_demo_data import draw_examples, shipped_examples, write  # noqa: E402

from attriflow.demo import MODELS  # noqa: E402
from attriflow.demo import grammar as g  # noqa: E402

IGNORE = -100
HELD_OUT_SIZE = 600

# The special tokens come first in the vocabulary, in this order.
SPECIALS = {"recall": ("<pad>", "</s>", "<unk>"), "translate": ("<s>", "<pad>", "</s>", "<unk>")}
WORDS = {
    "recall": g.RECALL_WORDS,
    "translate": (*g.TRANSLATE_SOURCE_WORDS, *g.TRANSLATE_TARGET_WORDS),
}
MAX_LENGTH = {"recall": 128, "translate": 32}


def vocabulary(name: str) -> dict[str, int]:
    """Return the word-level vocabulary of a model."""
    return {word: index for index, word in enumerate((*SPECIALS[name], *WORDS[name]))}


# --------------------------------------------------------------------------------------------------------------------
# Files: configuration and tokenizer, in a form that transformers 4.57 and 5 both read
# --------------------------------------------------------------------------------------------------------------------


def config_dict(name: str) -> dict[str, Any]:
    """Return the contents of ``config.json``."""
    vocab = vocabulary(name)
    if name == "recall":
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": len(vocab),
            "hidden_size": 112,
            "intermediate_size": 288,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 28,
            "hidden_act": "silu",
            "max_position_embeddings": MAX_LENGTH[name],
            "initializer_range": 0.08,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "use_cache": True,
            "bos_token_id": None,
            "eos_token_id": vocab["</s>"],
            "pad_token_id": vocab["<pad>"],
            "dtype": "float32",
            "torch_dtype": "float32",
        }
    return {
        "architectures": ["BartForConditionalGeneration"],
        "model_type": "bart",
        "is_encoder_decoder": True,
        "vocab_size": len(vocab),
        "d_model": 96,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 256,
        "decoder_ffn_dim": 256,
        "activation_function": "gelu",
        "max_position_embeddings": MAX_LENGTH[name],
        "init_std": 0.05,
        "scale_embedding": False,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": vocab["<s>"],
        "pad_token_id": vocab["<pad>"],
        "eos_token_id": vocab["</s>"],
        "decoder_start_token_id": vocab["<s>"],
        "forced_eos_token_id": None,
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def generation_dict(name: str) -> dict[str, Any]:
    """Return the contents of ``generation_config.json``: greedy, ending at ``</s>``."""
    vocab = vocabulary(name)
    config = {
        "do_sample": False,
        "eos_token_id": vocab["</s>"],
        "pad_token_id": vocab["<pad>"],
        "max_new_tokens": 8 if name == "recall" else 24,
    }
    if name == "translate":
        config |= {"bos_token_id": vocab["<s>"], "decoder_start_token_id": vocab["<s>"]}
    return config


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write readable JSON."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def save_tokenizer(name: str, folder: Path) -> None:
    """Write a word-level tokenizer; the source of ``translate`` ends with ``</s>``, a prompt of ``recall`` does not."""
    vocab = vocabulary(name)
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(SPECIALS[name]))
    if name == "translate":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", vocab["</s>"])]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    if "<s>" in vocab:
        named["bos_token"] = "<s>"
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "added_tokens_decoder": {str(vocab[token]): {"content": token, **flags} for token in SPECIALS[name]},
        **named,
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {},
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": MAX_LENGTH[name],
        "padding_side": "left" if name == "recall" else "right",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", named)


# What the heads of the second layer of ``recall`` start with: which neighbour of a word they compare (0: the word
# itself) and which one they read, in words back. For instance (0, 1) finds the same word and reads the one before it.
LOOKUPS = ((0, 1), (0, 4), (2, 0), (3, 0))


def prepare_recall(model: LlamaForCausalLM) -> None:
    """Start the attention where look-ups are easy to learn; all weights are trained from there.

    From the usual random start a model of this size guesses among the facts for thousands of steps. Here the embeddings
    start in one half of the residual stream and the heads of the first layer bring the words one to four places back
    into the other half. They find them by position alone: all embeddings share a direction, from which queries and keys
    are made. The second layer starts with look-ups by content (``LOOKUPS``), the later ones by attending to what is
    similar and passing it on.
    """
    config = model.config
    width, size = config.hidden_size, config.head_dim
    half, shared = width // 2, torch.ones(width)
    angles = 10000.0 ** (-torch.arange(size // 2) / (size // 2))
    # Three fast rotations are enough to tell offsets of a few words apart; slow ones hardly move and carry content.
    fast, slow = (torch.arange(size // 2) < 3).float(), (angles < 0.1).float().repeat(2)
    rows = [slice(head * size, (head + 1) * size) for head in range(config.num_attention_heads)]
    first, second, *_ = (layer.self_attn for layer in model.model.layers)
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding[:, half:] = 0.0
        embedding.mul_(2**0.5).add_(config.initializer_range * shared)
        for layer in model.model.layers:
            attention = layer.self_attn
            for projection, gain in ((attention.v_proj, 1.0), (attention.q_proj, 1.5)):
                torch.nn.init.orthogonal_(projection.weight, gain)
                projection.weight.sub_(projection.weight.mean(1, keepdim=True))  # blind to the shared direction
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            attention.o_proj.weight.copy_(0.3 * attention.v_proj.weight.T)
            layer.mlp.down_proj.weight.mul_(0.1)

        first.v_proj.weight.zero_()
        for part in (slice(0, half), slice(half, width)):
            torch.nn.init.orthogonal_(first.v_proj.weight[part, :half])
        torch.nn.init.orthogonal_(first.o_proj.weight, 0.35)
        first.o_proj.weight[:half] = 0.0
        for offset, head in enumerate(rows, 1):
            query = torch.cat([fast, torch.zeros(size // 2)])
            key = torch.cat([fast * torch.cos(offset * angles), fast * torch.sin(offset * angles)])
            first.q_proj.weight[head] = 8.0 / width * query[:, None] * shared
            first.k_proj.weight[head] = 8.0 / width * key[:, None] * shared

        second.q_proj.weight[:, half:] = 0.0
        second.q_proj.weight.mul_(3.0 * slow.repeat(len(rows))[:, None])
        for head, (compared, read) in zip(rows, LOOKUPS, strict=True):
            query = second.q_proj.weight[head]
            if compared:
                source = rows[compared - 1]
                brought = first.o_proj.weight[:, source] @ first.v_proj.weight[source]
                second.k_proj.weight[head] = 8.0 * query @ brought.T
            else:
                second.k_proj.weight[head] = query
            if read:
                source = rows[read - 1]
                second.v_proj.weight[head] = 8.0 * first.o_proj.weight[:, source].T
                second.o_proj.weight[:, head] = first.v_proj.weight[source].T


def build_model(name: str) -> PreTrainedModel:
    """Return an untrained model."""
    config = {key: value for key, value in config_dict(name).items() if key not in ("architectures", "torch_dtype")}
    if name == "recall":
        model = LlamaForCausalLM(LlamaConfig(**config))
        prepare_recall(model)
        return model
    return BartForConditionalGeneration(BartConfig(**config))


def save_model(name: str, model: PreTrainedModel, folder: Path) -> None:
    """Write the weights, and the configuration files by hand: what a version saves, an older one may not read."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(**generation_dict(name))
    model.save_pretrained(folder)
    write_json(folder / "config.json", config_dict(name))
    write_json(folder / "generation_config.json", generation_dict(name))
    save_tokenizer(name, folder)


# --------------------------------------------------------------------------------------------------------------------
# Training batches
# --------------------------------------------------------------------------------------------------------------------


def hidden_positions(rng: random.Random, length: int) -> set[int]:
    """Draw which words are damaged: none (half of the time), a few, or any share of them."""
    rate = rng.choices((0.0, 0.1, rng.random()), (0.5, 0.35, 0.15))[0]
    return {index for index in range(length) if rng.random() < rate}


def damage(rng: random.Random, words: Sequence[str], hidden: set[int], deletion: float) -> list[str]:
    """Replace the hidden words by ``<unk>``, or leave them out with the given probability."""
    kept = []
    for index, word in enumerate(words):
        if index not in hidden:
            kept.append(word)
        elif rng.random() >= deletion:
            kept.append("<unk>")
    return kept


def damage_prefix(rng: random.Random, words: Sequence[str], lexicon: Sequence[str]) -> list[str]:
    """Replace some words of a target prefix, in one of three examples, by ``<unk>`` or by any target word."""
    if rng.random() > 1 / 3:
        return list(words)
    return [rng.choice(("<unk>", rng.choice(lexicon))) if rng.random() < 0.5 else word for word in words]


@dataclass(frozen=True)
class RecallStage:
    """A stage of the curriculum: up to which step it lasts, the numbers of facts, and whether words are damaged."""

    until: float
    facts: tuple[int, ...]
    damaged: bool


RECALL_STAGES = (
    RecallStage(0.15, (2, 3, 4), False),
    RecallStage(0.20, (1, 2, 3, 4), False),
    RecallStage(1.00, (1, 2, 3, 3, 4), True),
)
RECALL_PREFIX_WORDS = (*g.NAMES, *g.COLORS, *g.OBJECTS, *g.ARTICLES)
QUESTIONS_PER_SEQUENCE = 8


def recall_sequence(rng: random.Random, stage: RecallStage, vocab: dict[str, int]) -> list[tuple[int, int, int, int]]:
    """Draw facts and several questions about them, as (token, label, segment, position) rows.

    The facts are segment 0 and each question with its answer is a segment of its own that goes on where the facts end,
    so with a mask that keeps questions apart, every one of them is trained as if it were alone in its prompt.
    """
    facts = g.recall_facts(rng, rng.choice(stage.facts))
    if stage.damaged and rng.random() < 0.2:
        # A wrong article is copied as it stands, so the article is read from the fact and not guessed from the color.
        facts = tuple(g.Fact(fact.name, rng.choice(g.ARTICLES), fact.color, fact.object) for fact in facts)
    length = len(facts) * g.FACT_LENGTH
    facts_hidden = hidden_positions(rng, length) if stage.damaged else set()
    deletion = rng.choice((0.0, 0.5, 1.0))
    words = damage(rng, [word for fact in facts for word in fact.words], facts_hidden, deletion)
    rows = [(vocab[word], IGNORE, 0, position) for position, word in enumerate(words)]
    start = len(rows)
    asked = [(index, kind) for index in range(len(facts)) for kind in g.QUESTIONS]
    for segment, (index, kind) in enumerate(rng.sample(asked, min(QUESTIONS_PER_SEQUENCE, len(asked))), 1):
        item = g.Recall(facts, index, kind)
        hidden = hidden_positions(rng, len(item.question)) if stage.damaged else set()
        answer = g.answer_words(item, facts_hidden | {length + place for place in hidden}, rng)
        question = damage(rng, item.question, hidden, deletion) or ["<unk>"]
        prefix = damage_prefix(rng, answer, RECALL_PREFIX_WORDS) if stage.damaged else answer
        tokens = [*question, *prefix]
        labels = [IGNORE] * (len(question) - 1) + [vocab[word] for word in (*answer, "</s>")]
        if not stage.damaged:
            # At first the answer is also asked for at the key itself, from where it has only to be passed on.
            labels[g.QUESTIONS[kind].key_index] = vocab[answer[0]]
        rows += [
            (vocab[token], label, segment, start + place)
            for place, (token, label) in enumerate(zip(tokens, labels, strict=True))
        ]
    if not stage.damaged:
        # Saying a fact again is the same look-up without a question.
        for segment, fact in enumerate(facts, QUESTIONS_PER_SEQUENCE + 1):
            labels = [IGNORE, *(vocab[word] for word in (fact.article, fact.color, fact.object))]
            rows += [
                (vocab[token], label, segment, start + place)
                for place, (token, label) in enumerate(zip(fact.words[:4], labels, strict=True))
            ]
    return rows


def recall_loss(model: PreTrainedModel, rng: random.Random, progress: float, batch_size: int) -> Tensor:
    """Return the loss of one training batch of ``recall``."""
    vocab = vocabulary("recall")
    stage = next(stage for stage in RECALL_STAGES if progress <= stage.until)
    sequences = [recall_sequence(rng, stage, vocab) for _ in range(batch_size)]
    length = max(map(len, sequences))
    padding = (vocab["<pad>"], IGNORE, -1, 0)
    rows = torch.tensor([sequence + [padding] * (length - len(sequence)) for sequence in sequences])
    tokens, labels, segments, positions = rows.unbind(-1)
    query, key = segments[:, :, None], segments[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    allowed = causal & ((key == 0) | (key == query))
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)[:, None]
    hidden = model.model(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False)[0]
    scored = labels != IGNORE
    return F.cross_entropy(model.lm_head(hidden[scored]), labels[scored])


def translate_loss(model: PreTrainedModel, rng: random.Random, progress: float, batch_size: int) -> Tensor:
    """Return the loss of one training batch of ``translate``."""
    vocab = vocabulary("translate")
    sources, prefixes, targets = [], [], []
    for _ in range(batch_size):
        item = g.translate_item(rng)
        damaged = progress > 0.25
        hidden = hidden_positions(rng, len(item.source)) if damaged else set()
        target = g.translate_words(item, hidden, rng)
        prefix = damage_prefix(rng, target, g.TRANSLATE_TARGET_WORDS) if damaged else target
        sources.append([vocab[word] for word in (*damage(rng, item.source, hidden, 0.0), "</s>")])
        prefixes.append([vocab[word] for word in ("<s>", *prefix)])
        targets.append([vocab[word] for word in (*target, "</s>")])
    source, prefix = pad(sources, vocab["<pad>"]), pad(prefixes, vocab["<pad>"])
    labels = pad(targets, IGNORE)
    logits = model(
        input_ids=source,
        attention_mask=(source != vocab["<pad>"]).long(),
        decoder_input_ids=prefix,
        use_cache=False,
    ).logits
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Pad rows on the right to a rectangle."""
    length = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])


# --------------------------------------------------------------------------------------------------------------------
# Training and evaluation
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How a model is trained."""

    loss: Callable[[PreTrainedModel, random.Random, float, int], Tensor]
    steps: int
    batch_size: int
    learning_rate: float


PLANS = {
    "recall": Plan(recall_loss, steps=3000, batch_size=20, learning_rate=1.5e-3),
    "translate": Plan(translate_loss, steps=5000, batch_size=64, learning_rate=1.5e-3),
}
WARMUP = 150


def fit(name: str, model: PreTrainedModel, steps: int, seed: int) -> None:
    """Train with AdamW, a linear warm-up and a cosine decay."""
    plan = PLANS[name]
    rng = random.Random(f"train-{name}-{seed}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.02)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / WARMUP, 1.0, WARMUP)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, max(1, steps - WARMUP), eta_min=plan.learning_rate / 50
    )
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, decay], [WARMUP])
    model.train()
    started, losses = time.monotonic(), []
    for step in range(1, steps + 1):
        loss = plan.loss(model, rng, step / steps, plan.batch_size)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        if step % 100 == 0 or step == steps:
            recent = sum(losses[-100:]) / len(losses[-100:])
            print(f"{name}: step {step}/{steps} loss {recent:.4f} {time.monotonic() - started:.0f}s", flush=True)
    model.eval()


def exact_match(folder: Path, examples: Sequence[g.Example], batch_size: int) -> float:
    """Return the share of examples whose greedy generation, after reloading the model from disk, is the target."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    causal = "recall" in json.loads((folder / "metadata.json").read_text())["name"]
    model = (AutoModelForCausalLM if causal else AutoModelForSeq2SeqLM).from_pretrained(folder).eval()
    hits = 0
    for start in range(0, len(examples), batch_size):
        batch = examples[start : start + batch_size]
        encoded = tokenizer([example.input for example in batch], return_tensors="pt", padding=True)
        with torch.no_grad():
            output = model.generate(input_ids=encoded.input_ids, attention_mask=encoded.attention_mask)
        output = output[:, encoded.input_ids.shape[1] :] if causal else output
        texts = tokenizer.batch_decode(output, skip_special_tokens=True)
        hits += sum(text.strip() == example.target for text, example in zip(texts, batch, strict=True))
    return hits / len(examples)


def train(name: str, out: Path, seed: int, quick: bool) -> None:
    """Train one model, write its folder, and measure the exact match of what was written."""
    torch.manual_seed(seed)
    folder = out / name
    steps = 4 if quick else PLANS[name].steps
    started = time.monotonic()
    model = build_model(name)
    fit(name, model, steps, seed)
    seconds = time.monotonic() - started
    save_model(name, model, folder)
    write(shipped_examples(name), folder / "data.jsonl")
    metadata: dict[str, Any] = {
        "name": name,
        "seed": seed,
        "steps": steps,
        "training_seconds": round(seconds),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    write_json(folder / "metadata.json", metadata)
    held_out = draw_examples(name, random.Random(f"held-out-{name}"), 8 if quick else HELD_OUT_SIZE)
    metadata["held_out_examples"] = len(held_out)
    metadata["exact_match_batched"] = exact_match(folder, held_out, 50)
    metadata["exact_match_alone"] = exact_match(folder, held_out, 1)
    write_json(folder / "metadata.json", metadata)
    print(json.dumps(metadata), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the recipe; ``all`` trains the models side by side."""
    parser = argparse.ArgumentParser(description="Train the demo models.")
    parser.add_argument("model", nargs="?", choices=(*MODELS, "all"), default="all")
    parser.add_argument("--out", type=Path, help="folder of the model folders (default: inside the package)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few steps only, to see that the recipe runs")
    options = parser.parse_args(arguments)
    if options.quick and options.out is None:
        parser.error("--quick needs --out: it would replace the trained models")
    if options.model == "all":
        rest = ["--seed", str(options.seed), *(["--quick"] if options.quick else [])]
        rest += ["--out", str(options.out)] if options.out else []
        runs = [subprocess.Popen([sys.executable, __file__, name, *rest]) for name in MODELS]
        codes = [run.wait() for run in runs]
        if any(codes):
            sys.exit("A training run failed")
        return
    torch.set_num_threads(1)
    train(options.model, options.out or ROOT / "plugin" / "attriflow" / "demo", options.seed, options.quick)


if __name__ == "__main__":
    main()
