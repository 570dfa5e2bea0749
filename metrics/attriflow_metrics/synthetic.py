"""Planted tasks: texts whose next word follows from known words, the exact evidence, by a rule one can read.

| task | the next word is | evidence |
| --- | --- | --- |
| `recall` | the one colour in the text | the colour |
| `negation` | the adjective, or its opposite after "not" | the adjective and the adverb before it |
| `agreement` | "is" or "are", by the first noun; nouns that come later attract | the first noun |
| `distractor` | what the one animal eats; a place goes with it nearly always, and does not matter | the animal |

`planted` draws examples in the evaluator's columns; `distance` words lie between the evidence and the end. Evidence is
exact in this sense (`kinds` lists the words of each kind): exchanging a word of the evidence for another one of its
kind can change the answer of `solve`, exchanging any other word never does. Whether a *model* solves a task by that
evidence is another question: `recipes/planted_evidence.py` builds small models that do, weight by weight.

`chains` draws texts whose answer is written step by step: it depends on the input only through the value that the last
step wrote, and this on the one before (`follow` is the rule, `recipes/planted_hops.py` the model).

Pure Python; pandas is imported when a data frame is made.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from attriflow.errors import InputError, UnknownNameError, unknown

if TYPE_CHECKING:
    import pandas as pd

Chain = tuple[list[str], list[int], list[int]]
"""Words of an input, indices of its evidence, and how many hops each of these is away from the answer."""
Drawn = tuple[list[str], set[int], str, str]
"""Words, indices of the evidence, the answer, another answer."""

COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown", "pink")
OPPOSITES = (("hot", "cold"), ("big", "small"), ("old", "new"), ("wet", "dry"))
ADJECTIVES = tuple(word for pair in OPPOSITES for word in pair)
ADVERBS = ("not", "very")
SINGULAR = ("key", "dog", "book", "ship", "lamp", "tree")
PLURAL = ("keys", "dogs", "books", "ships", "lamps", "trees")
ANIMALS = ("horse", "cat", "bear", "rabbit", "panda", "hen")
FOOD = ("hay", "fish", "honey", "grass", "bamboo", "corn")
PLACES = ("stable", "kitchen", "forest", "meadow", "mountain", "yard")
FILLERS = (
    "then", "we", "walked", "along", "a", "quiet", "street", "and", "talked", "about", "music", "while", "some", "rain",
    "fell", "on", "every", "roof", "of", "town",
)  # fmt: skip
QUESTIONS = {
    "recall": ("what", "colour", "was", "it", "?"),
    "negation": ("so", "it", "feels"),
    "agreement": ("near", "us"),
    "distractor": ("it", "eats"),
}
TASKS = tuple(QUESTIONS)
NAMES = ("ann", "bob", "cat", "dan", "eve", "fay", "gus", "hal", "ida", "joe", "kim", "leo")
COUNTS = ("one", "two", "three", "four", "five")
THOUGHT = "</think>"


def planted(
    task: str, examples: int = 100, *, distance: int = 8, correlation: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Draw examples of a task.

    Args:
        task: One of `TASKS`.
        examples: How many.
        distance: Words between the last word of the evidence and the closing words of the text.
        correlation: `distractor`: how often the place is the one that goes with the animal.
        seed: The same seed gives the same examples.

    Returns:
        The columns of an evaluation: `input`, `target`, `rationale` (one list of `[start, end)` character spans per
        word of the target) and `contrast_target` (another answer); and `task`, `distance`.

    Raises:
        AttriflowError: There is no such task, or a number is out of range.
    """
    import pandas as pd

    draw = _drawing(task, distance, correlation)
    if examples < 1:
        raise InputError(f"examples must be at least 1, not {examples}")
    rng = random.Random(f"{task} {seed}")
    return pd.DataFrame([_row(task, distance, *draw(rng)) for _ in range(examples)])


def solve(task: str, text: str) -> str:
    """The next word by the task's rule.

    Raises:
        AttriflowError: There is no such task, or the text has none of the words that the rule reads.
    """
    if task not in TASKS:
        raise UnknownNameError(unknown("planted task", task, TASKS))
    words = text.split()
    try:
        return _RULES[task](words)
    except (StopIteration, IndexError):
        raise InputError(f"the text has no answer to '{task}': {text!r}") from None


def kinds(task: str) -> tuple[tuple[str, ...], ...]:
    """The kinds of words of a task: words of one kind can stand for each other."""
    if task not in TASKS:
        raise UnknownNameError(unknown("planted task", task, TASKS))
    return (*_KINDS[task], FILLERS)


def words_of(task: str) -> tuple[str, ...]:
    """Every word that inputs and targets of a task can have."""
    fixed = ("the", "is", "are", *QUESTIONS[task]) if task in TASKS else ()
    answers = FOOD if task == "distractor" else ()
    return tuple(dict.fromkeys([*fixed, *(w for kind in kinds(task) for w in kind), *answers]))


def chains(
    examples: int = 100, *, hops: int = 2, through: bool = True, distractors: int = 4, seed: int = 0
) -> pd.DataFrame:
    """Draw texts that are answered step by step, with what the answer rests on and how far behind it stands.

    A text lists pairs, each a name and whom or what it leads to, and asks for what one name leads to in the end. What
    is written is one sentence per step, `</think>` and the answer: "list bob red . ann bob . cat ann . from ann :" is
    followed by "bob . red . </think> red". The answer is a copy of the last sentence's word; a pair of the list is
    behind as many hops as sentences stand from its own to the answer.

    Args:
        examples: How many.
        hops: Sentences of reasoning, 1 to 4.
        through: Whether the answer goes through them. When not, they are idle, and the answer stands in the input:
            "list ann bob . cat red . pick blue wait three :" is followed by "two . one . </think> blue".
        distractors: Pairs that lead elsewhere.
        seed: The same seed gives the same examples.

    Returns:
        The columns `input`, `target` (all that is written), `answer`, `evidence` (`[start, end)` character spans of the
        input) and `behind` (the hops between each of these and the answer; 0: it is read when the answer is written).

    Raises:
        InputError: A number is out of range.
    """
    import pandas as pd

    if examples < 1:
        raise InputError(f"examples must be at least 1, not {examples}")
    if not 1 <= hops < len(COUNTS):
        raise InputError(f"hops must lie between 1 and {len(COUNTS) - 1}, not {hops}")
    if not 0 <= distractors <= len(NAMES) - hops:
        raise InputError(f"distractors must lie between 0 and {len(NAMES) - hops}, not {distractors}")
    rng = random.Random(f"chains {hops} {through} {seed}")
    rows = []
    for _ in range(examples):
        words, evidence, behind = _chain(rng, hops, through, distractors)
        text = " ".join(words)
        target = follow(text)
        spans = [[sum(len(w) + 1 for w in words[:i]), sum(len(w) + 1 for w in words[: i + 1]) - 1] for i in evidence]
        rows.append(
            {"input": text, "target": target, "answer": target.split()[-1], "evidence": spans, "behind": behind}
        )
    return pd.DataFrame(rows)


def follow(text: str) -> str:
    """What is written after an input of `chains`, by the rule.

    Raises:
        InputError: The text asks nothing, or a name that it comes to leads nowhere, in two ways, or in a circle.
    """
    words = text.split()
    leads = [(a, b) for a, b in itertools.pairwise(words) if a in NAMES and b in (*NAMES, *COLOURS)]
    said: list[str] = []
    if words[-3:-2] == ["wait"] and words[-2] in COUNTS and words[-5:-4] == ["pick"] and words[-4] in COLOURS:
        said, answer = list(COUNTS[: COUNTS.index(words[-2])][::-1]), words[-4]
    elif words[-3:-2] == ["from"] and words[-2] in NAMES:
        answer = words[-2]
        while answer in NAMES:
            to = [b for a, b in leads if a == answer]
            if len(to) != 1 or to[0] in said:
                raise InputError(f"{answer!r} leads nowhere, in two ways, or in a circle: {text!r}")
            answer = to[0]
            said.append(answer)
    else:
        raise InputError(f"the text does not end with 'from NAME :' or 'pick COLOUR wait COUNT :': {text!r}")
    return " ".join([*(word for one in said for word in (one, ".")), THOUGHT, answer])


def words_of_chains() -> tuple[str, ...]:
    """Every word that texts of `chains` can have."""
    return (*NAMES, *COLOURS, *COUNTS, "list", "from", "pick", "wait", ".", ":", THOUGHT)


def _chain(rng: random.Random, hops: int, through: bool, distractors: int) -> Chain:
    names, colour = rng.sample(NAMES, hops + distractors), rng.choice(COLOURS)
    chain = [*names[:hops], colour]
    pairs = list(itertools.pairwise(chain))
    for name in names[hops:]:
        pairs.append((name, rng.choice([w for w in (*NAMES, *COLOURS) if w != name])))
    order = rng.sample(range(len(pairs)), len(pairs))
    words = ["list", *(word for i in order for word in (*pairs[i], "."))]
    if not through:
        return [*words, "pick", rng.choice(COLOURS), "wait", COUNTS[hops], ":"], [len(words), len(words) + 1], [0, 0]
    found = {len(words) + 1: hops}
    for place, i in enumerate(order):
        if i < hops:
            found[1 + 3 * place] = found[2 + 3 * place] = hops - i
    evidence = sorted(found)
    return [*words, "from", chain[0], ":"], evidence, [found[i] for i in evidence]


def _row(task: str, distance: int, words: list[str], evidence: set[int], answer: str, other: str) -> dict[str, object]:
    spans, start = [], 0
    for index, word in enumerate(words):
        if index in evidence:
            spans.append([start, start + len(word)])
        start += len(word) + 1
    return {
        "input": " ".join(words),
        "target": answer,
        "rationale": [spans],
        "contrast_target": other,
        "task": task,
        "distance": distance,
    }


def _drawing(task: str, distance: int, correlation: float) -> Callable[[random.Random], Drawn]:
    if task not in TASKS:
        raise UnknownNameError(unknown("planted task", task, TASKS))
    if distance < 0:
        raise InputError(f"distance must be at least 0, not {distance}")
    if not 0 <= correlation <= 1:
        raise InputError(f"correlation must lie between 0 and 1, not {correlation}")
    draw = {"recall": _recall, "negation": _negation, "agreement": _agreement}.get(task)
    if draw is None:
        return lambda rng: _distractor(rng, distance, correlation)
    return lambda rng: draw(rng, distance)


def _fill(rng: random.Random, count: int) -> list[str]:
    return [rng.choice(FILLERS) for _ in range(count)]


def _other(rng: random.Random, answer: str, answers: Sequence[str]) -> str:
    return rng.choice([a for a in answers if a != answer])


def _recall(rng: random.Random, distance: int) -> Drawn:
    before, colour = _fill(rng, rng.randint(2, 5)), rng.choice(COLOURS)
    words = [*before, colour, *_fill(rng, distance), *QUESTIONS["recall"]]
    return words, {len(before)}, colour, _other(rng, colour, COLOURS)


def _negation(rng: random.Random, distance: int) -> Drawn:
    before, pair = _fill(rng, rng.randint(2, 5)), [rng.choice(ADVERBS), rng.choice(ADJECTIVES)]
    words = [*before, "is", *pair, *_fill(rng, distance), *QUESTIONS["negation"]]
    answer, at = solve("negation", " ".join(words)), len(before) + 1
    return words, {at, at + 1}, answer, _opposite(answer)


def _agreement(rng: random.Random, distance: int) -> Drawn:
    before, nouns = _fill(rng, rng.randint(0, 2)), (*SINGULAR, *PLURAL)
    rest = _fill(rng, distance)
    for place in rng.sample(range(distance), min(2, distance)):  # nouns that may have the other number
        rest[place] = rng.choice(nouns)
    words = [*before, "the", rng.choice(nouns), *rest, *QUESTIONS["agreement"]]
    answer = solve("agreement", " ".join(words))
    return words, {len(before) + 1}, answer, "are" if answer == "is" else "is"


def _distractor(rng: random.Random, distance: int, correlation: float) -> Drawn:
    before, which = _fill(rng, rng.randint(2, 5)), rng.randrange(len(ANIMALS))
    place = PLACES[which] if rng.random() < correlation else rng.choice(PLACES)
    rest = _fill(rng, distance)
    spot = rng.randrange(len(before) + len(rest) or 1)
    if spot < len(before):
        before[spot] = place
    else:
        rest[spot - len(before)] = place
    words = [*before, "the", ANIMALS[which], *rest, *QUESTIONS["distractor"]]
    return words, {len(before) + 1}, FOOD[which], _other(rng, FOOD[which], FOOD)


def _opposite(adjective: str) -> str:
    return next(b if adjective == a else a for a, b in OPPOSITES if adjective in (a, b))


def _first(words: Sequence[str], kind: Sequence[str]) -> str:
    return next(word for word in words if word in kind)


def _negated(words: Sequence[str]) -> str:
    adjective = _first(words, ADJECTIVES)
    return _opposite(adjective) if _first(words, ADVERBS) == "not" else adjective


_RULES: dict[str, Callable[[Sequence[str]], str]] = {
    "recall": lambda words: _first(words, COLOURS),
    "negation": _negated,
    "agreement": lambda words: "is" if _first(words, (*SINGULAR, *PLURAL)) in SINGULAR else "are",
    "distractor": lambda words: FOOD[ANIMALS.index(_first(words, ANIMALS))],
}
_KINDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "recall": (COLOURS,),
    "negation": (ADVERBS, ADJECTIVES),
    "agreement": ((*SINGULAR, *PLURAL),),
    "distractor": (ANIMALS, PLACES),
}
