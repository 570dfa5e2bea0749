"""Local copies of published data with human rationales, in small files of the published formats."""

from __future__ import annotations

import gzip
import json

import pytest

from attriflow.datasets import open_dataset
from attriflow.datasets.annotated import FORMATS, read_annotated, read_rows
from attriflow.errors import AttriflowError
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData
from attriflow.evaluation.rationale import rationale_matrix
from attriflow.tracking.data import read_data

SCAT = {
    "id": 0,
    "context_en": "I took two plants, and I gave them sun.",
    "en": "I watched if it would grow.",
    "context_fr": "J'ai pris deux plantes.",
    "fr": "J'ai vu si elle grandit.",
    "contrast_fr": "J'ai vu si il grandit.",
    "context_en_with_tags": "I took <hon>two plants<hoff>, and I gave <hon>them<hoff> sun.",
    "en_with_tags": "I <hon>watched<hoff> if <p>it</p> would grow.",
    "context_fr_with_tags": "J'ai pris deux <hon>plantes<hoff>.",
    "fr_with_tags": "J'ai vu si <p>elle</p> grandit.",
    "contrast_fr_with_tags": "J'ai vu si <p>il</p> grandit.",
    "has_supporting_context": True,
}
UNTAGGED = {"context_en_with_tags": SCAT["context_en"], "en_with_tags": "I watched if <p>it</p> would grow."}
PLAIN = {**SCAT, "id": 1, **UNTAGGED}


def evidence(docid, start, end, **more):
    return {"docid": docid, "start_token": start, "end_token": end, **more}


@pytest.fixture
def scat(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in (SCAT, PLAIN)), encoding="utf-8")
    return path


@pytest.fixture
def eraser(tmp_path):
    folder = tmp_path / "movies"
    (folder / "docs").mkdir(parents=True)
    (folder / "docs" / "pos_1.txt").write_text("a fine film .\ni liked every minute of it .\n", encoding="utf-8")
    (folder / "docs" / "neg_1.txt").write_text("dull .\n", encoding="utf-8")
    rows = [
        {
            "annotation_id": "pos_1.txt", "classification": "POS", "query": "What is the sentiment?",
            "query_type": None,
            "evidences": [
                [evidence("pos_1.txt", 1, 3, start_sentence=0, end_sentence=1, text="fine film")],
                [evidence("pos_1.txt", 5, 6, start_sentence=-1, end_sentence=-1, text="liked")],
            ],
        },
        {"annotation_id": "neg_1.txt", "classification": "NEG", "query": "What is the sentiment?", "evidences": []},
    ]  # fmt: skip
    (folder / "val.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


@pytest.fixture
def hatexplain(tmp_path):
    def post(name, labels, rationales):
        return {
            "post_id": name,
            "annotators": [{"label": label, "annotator_id": i, "target": ["None"]} for i, label in enumerate(labels)],
            "rationales": rationales,
            "post_tokens": ["they", "are", "so", "very", "bad"],
        }

    posts = {
        "1_gab": post("1_gab", ["offensive", "offensive", "normal"], [[0, 0, 0, 1, 1], [1, 0, 0, 0, 1]]),
        "2_gab": post("2_gab", ["normal", "normal", "normal"], []),
        "3_gab": post("3_gab", ["normal", "offensive", "hatespeech"], [[0, 0, 0, 0, 1], [1, 0, 0, 0, 1]]),
    }
    (tmp_path / "dataset.json").write_text(json.dumps(posts), encoding="utf-8")
    divisions = {"train": ["1_gab"], "val": ["2_gab"], "test": ["3_gab", "gone"]}
    (tmp_path / "post_id_divisions.json").write_text(json.dumps(divisions), encoding="utf-8")
    return tmp_path / "dataset.json"


def test_scat(scat):
    frame = read_annotated("scat", scat)
    row = frame.iloc[0]
    assert row["input"] == f"{SCAT['context_en']} {SCAT['en']}" and row["target"] == SCAT["fr"]
    assert row["contrast_target"] == SCAT["contrast_fr"] and row["input_context"] == SCAT["context_en"]
    tagged = ["two plants", "them", "watched"]
    assert [[row["input"][a:b] for a, b in word] for word in row["rationale"]] == [[], [], [], tagged, []]
    assert frame.iloc[1]["rationale"] == [[]] * 5
    assert len(read_annotated("scat", scat, supported_only=True)) == 1
    marked = read_annotated("scat", scat, separator=" <brk> ").iloc[0]
    assert " <brk> I watched" in marked["input"]
    assert [marked["input"][a:b] for a, b in marked["rationale"][3]] == tagged


def test_other_languages(tmp_path):
    renamed = {k.replace("_fr", "_it").replace("fr_", "it_") if k != "fr" else "it": v for k, v in SCAT.items()}
    (tmp_path / "it.jsonl").write_text(json.dumps(renamed), encoding="utf-8")
    assert read_annotated("scat", tmp_path / "it.jsonl", target="it").iloc[0]["target"] == SCAT["fr"]


def test_eraser(eraser):
    frame = read_annotated("eraser", eraser, template="Review: {document} Question: {query} Answer:")
    row = frame.iloc[0]
    text = "a fine film . i liked every minute of it ."
    assert row["input"] == f"Review: {text} Question: What is the sentiment? Answer:" and row["target"] == "POS"
    assert [row["input"][a:b] for a, b in row["rationale"]] == ["fine film", "liked"]
    assert frame.iloc[1]["target"] == "NEG" and frame.iloc[1]["rationale"] is None
    (eraser / "docs.jsonl").write_text(
        "\n".join(json.dumps({"docid": p.name, "document": p.read_text()}) for p in (eraser / "docs").iterdir())
    )
    for path in list((eraser / "docs").iterdir()):
        path.unlink()
    assert read_annotated("eraser", eraser, "val")["rationale"][0] == [[2, 11], [16, 21]]


def test_eraser_evidence_in_several_documents(eraser):
    both = {
        "annotation_id": "x", "classification": "SUPPORTS", "query": "dull", "docids": ["neg_1.txt", "pos_1.txt"],
        "evidences": [[evidence("pos_1.txt", 1, 2), evidence("neg_1.txt", 0, 1)]],
    }  # fmt: skip
    (eraser / "test.jsonl").write_text(json.dumps(both), encoding="utf-8")
    row = read_annotated("eraser", eraser, "test").iloc[0]
    assert row["input"].startswith("dull .\na fine film")
    assert [row["input"][a:b] for a, b in row["rationale"]] == ["dull", "fine"]


def test_hatexplain(hatexplain, tmp_path):
    frame = read_annotated("hatexplain", hatexplain, template="{post} This is")
    assert list(frame["target"]) == ["offensive", "normal"]  # no label of most annotators: left out
    row = frame.iloc[0]
    assert row["input"] == "they are so very bad This is"
    assert [row["input"][a:b] for a, b in row["rationale"]] == ["they", "very bad"]
    assert frame.iloc[1]["rationale"] is None
    strict = read_annotated("hatexplain", hatexplain, "train", marked_by="majority")
    assert len(strict) == 1 and [strict["input"][0][a:b] for a, b in strict["rationale"][0]] == ["bad"]
    hub = {
        "id": "9", "annotators": {"label": [2, 0, 2], "annotator_id": [1, 2, 3], "target": [[], [], []]},
        "rationales": [[0, 1]], "post_tokens": ["so", "bad"],
    }  # fmt: skip
    (tmp_path / "hub.jsonl").write_text(json.dumps(hub), encoding="utf-8")
    (found,) = read_annotated("hatexplain", tmp_path / "hub.jsonl").to_dict("records")
    assert found == {"input": "so bad", "target": "offensive", "rationale": [[3, 6]], "id": "9"}


AGREEMENT = [  # sentence, the subject's and the verb's numbers, tag of the verb, nouns of the other number between
    ("the keys to the cabinet are on the table", 2, 6, "VBP", 1),
    ("a man who the dogs chase runs", 2, 7, "VBZ", 1),
    ("trees run along '' the road", 1, 2, "VBP", 0),
    ("here stands a tree", 4, 2, "VBZ", 0),
    ("the ship carries it", 2, 3, "VBZ", 0),
]
FIELDS = ("orig_sentence", "subj_index", "verb_index", "verb_pos", "n_diff_intervening")


@pytest.fixture
def agreement(tmp_path):
    path = tmp_path / "agr.tsv"
    path.write_text("\n".join("\t".join(map(str, row)) for row in (FIELDS, *AGREEMENT)) + "\n", encoding="utf-8")
    return path


def test_agreement(agreement):
    rows = read_rows("agreement", agreement, prefix="Once ")
    found = [
        (r["input"], r["target"], [r["input"][a:b] for a, b in r["rationale"]], r["contrast_target"]) for r in rows
    ]
    assert found == [
        ("Once the keys to the cabinet", "are", ["keys"], "is"),
        ("Once a man who the dogs chase", "runs", ["man"], "run"),
        ("Once trees", "run", ["trees"], "runs"),
        ("Once the ship", "carries", ["ship"], None),  # "carry" is not in the file; the verb before its subject is out
    ]
    assert [(r["attractors"], r["distance"]) for r in rows] == [(1, 4), (1, 5), (0, 1), (0, 1)]
    assert list(read_annotated("agreement", agreement, attractors=1)["target"]) == ["are", "runs"]


def test_agreement_in_other_files(agreement):
    plain = read_rows("agreement", agreement)
    packed = agreement.with_suffix(".tsv.gz")
    packed.write_bytes(gzip.compress(agreement.read_bytes()))
    lines = agreement.with_suffix(".jsonl")
    lines.write_text("\n".join(json.dumps(dict(zip(FIELDS, row, strict=True))) for row in AGREEMENT), encoding="utf-8")
    assert plain == read_rows("agreement", packed)
    assert plain == read_rows("agreement", lines)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("a b", 3, 2, "VBZ", 0), "row 0: 'subj_index' is 3, but the sentence has 2 words"),
        (("a b", 0, 2, "VBZ", 0), "row 0: 'subj_index' is 0"),
        (("a b", 1, "x", "VBZ", 0), "row 0: expected a whole number in 'verb_index'"),
        (("a b", 1, 2, "VBD", 0), "row 0: expected VBZ or VBP in 'verb_pos', not 'VBD'"),
    ],
)
def test_malformed_agreement(tmp_path, row, message):
    (tmp_path / "bad.tsv").write_text("\n".join("\t".join(map(str, r)) for r in (FIELDS, row)), encoding="utf-8")
    with pytest.raises(AttriflowError, match=message):
        read_annotated("agreement", tmp_path / "bad.tsv")


def test_they_are_data_of_an_evaluation(scat, eraser, hatexplain, agreement):
    """The frames pass the evaluator's checks, and the evidence arrives at the right tokens."""
    import attriflow

    model = attriflow.load_model("demo/translate")  # knows none of the words, but where they are
    names = {f"scat:{scat}": "train", f"eraser:{eraser}": "val", f"hatexplain:{hatexplain}": "train[:1]"}
    names[f"agreement:{agreement}"] = "train"
    for name, split in names.items():
        frame = read_data(name, split)
        features = frame.drop(columns=["target"])
        config = EvaluationConfig.from_dict(
            {"inputs": "input", "rationale": "rationale", "metrics": "auprc_plau"},
            columns=list(features), text_columns=["input"], targets="target",
        )  # fmt: skip
        data = EvaluationData.from_frame(features, config, list(frame["target"]))
        example = model.encode([data.inputs[0]], [data.targets[0]], continuation=True)[0]
        found = rationale_matrix(data.rationales[0], example).any(0).nonzero().flatten().tolist()
        starts = {example.source[i].start for i in found}
        assert starts, name
        tagged = [s for spans in data.rationales[0].spans for s in spans]
        assert all(any(a <= start < b for a, b in tagged) for start in starts)
        assert len(open_dataset(name, split=split)) == len(frame)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"en_with_tags": "I <p>it would"}, r"row 0: tags in 'en_with_tags' do not match"),
        ({"en_with_tags": "I it</p> would"}, r"row 0: tags in 'en_with_tags' do not match"),
        ({"fr_with_tags": None}, r"row 0: expected a text in 'fr_with_tags'; there are id, context_en"),
    ],
)
def test_malformed_scat(tmp_path, change, message):
    (tmp_path / "bad.jsonl").write_text(json.dumps({**SCAT, **change}), encoding="utf-8")
    with pytest.raises(AttriflowError, match=message):
        read_annotated("scat", tmp_path / "bad.jsonl")


def test_mistakes_are_named(scat, eraser, hatexplain, tmp_path):
    def fails(message, *arguments, **options):
        with pytest.raises(AttriflowError, match=message):
            read_annotated(*arguments, **options)

    fails("did you mean 'scat'", "scta", scat)
    fails("no such file or folder", "scat", tmp_path / "nothing.jsonl")
    fails("separater.*did you mean 'separator'", "scat", scat, separater="x")
    fails("there is no split 'test': test.jsonl is one split", "scat", scat, "test")
    fails("is no folder", "eraser", scat)
    fails("cannot read .*train.jsonl", "eraser", eraser, "train")
    fails("there is no split 'dev'; there are train, val, test", "eraser", eraser, "dev")
    fails("needs {document} once", "eraser", eraser, template="{query}")
    fails("there is no split 'dev'", "hatexplain", hatexplain, "dev")
    fails("needs {post} once", "hatexplain", hatexplain, template="post")
    for found, message in (
        (evidence("../val.jsonl", 0, 1), "there is no document '../val.jsonl'"),
        (evidence("neg_1.txt", 0, 9), "tokens 0 to 9 are not within the 2 of 'neg_1.txt'"),
    ):
        row = {"annotation_id": "x", "classification": "A", "evidences": [[found]]}
        (eraser / "test.jsonl").write_text(json.dumps(row))
        fails(message, "eraser", eraser, "test")


def test_formats_are_found_by_name():
    import importlib

    for form in FORMATS:
        assert importlib.import_module(f"attriflow.datasets.annotated.{form}").read.__doc__  # noqa: TID251 - a test
