"""Toy grammars whose sentences come with the evidence for every target word.

Two languages are defined, one per shipped demo model:

``recall``
    Questions over facts in the prompt: ``anna has a red hat . tom has a blue car . what color is the car ?``
    is answered by ``blue``.
``translate``
    English to a simplified Italian with reordering and agreement: ``the red house`` becomes ``la casa rossa``.

The evidence of a target word (its *rationale*) is the set of source words that its rule reads, so replacing one of them
can change that target word and replacing any other source word cannot. The same rules say what the target is when some
source words are hidden: whatever a rule can no longer read is drawn at random (``answer_words`` and ``translate_words``
take the hidden positions). The demo models are trained on such examples too, which makes the rationale a property of
the trained model and not only of the grammar: a hidden word is "no information", neither more nor less.

Everything here is pure Python and a function of the ``random.Random`` that is passed in.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence, Set
from dataclasses import dataclass

Span = tuple[int, int]

# One in HOLDOUT combinations is kept out of training.
HOLDOUT = 10


@dataclass(frozen=True)
class Example:
    """A source text, its target text and, per target word, the character spans of its evidence in the source.

    `contrast_target` is a target that would be right for another source: the answer about another fact, or a
    translation whose first noun has the other gender.
    """

    input: str
    target: str
    rationale: tuple[tuple[Span, ...], ...]
    contrast_target: str


def word_spans(words: Sequence[str]) -> list[Span]:
    """Return the character span of every word of ``" ".join(words)``."""
    spans, start = [], 0
    for word in words:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return spans


def held_out(*combination: str) -> bool:
    """Tell whether a combination of words is kept out of training (a stable hash, the same in every process)."""
    return zlib.crc32(" ".join(combination).encode()) % HOLDOUT == 0


def _example(
    source: Sequence[str], target: Sequence[str], evidence: Sequence[Sequence[int]], foil: Sequence[str]
) -> Example:
    spans = word_spans(source)
    rationale = tuple(tuple(spans[index] for index in sorted(set(indices))) for indices in evidence)
    return Example(" ".join(source), " ".join(target), rationale, " ".join(foil))


# --------------------------------------------------------------------------------------------------------------------
# recall: facts and a question
# --------------------------------------------------------------------------------------------------------------------

NAMES = (
    "anna", "tom", "mary", "john", "lucy", "peter", "sara", "paul", "emma", "david", "nina", "mark", "julia", "leo",
    "clara", "hugo",
)  # fmt: skip
COLORS = (
    "red", "blue", "green", "yellow", "black", "white", "pink", "brown", "orange", "amber", "ivory", "indigo",
)  # fmt: skip
OBJECTS = (
    "hat", "car", "book", "ball", "cup", "bag", "coat", "lamp", "chair", "kite", "boat", "ring", "clock", "drum",
    "scarf", "bike", "table", "phone",
)  # fmt: skip
ARTICLES = ("a", "an")
RECALL_WORDS = (
    *NAMES, *COLORS, *OBJECTS, *ARTICLES, "has", ".", "what", "color", "is", "the", "who", "does", "have", "?",
)  # fmt: skip

# Where the parts of a fact stand in its six words: "anna has a red hat ."
FACT_LENGTH = 6
PART_OFFSET = {"name": 0, "article": 2, "color": 3, "object": 4}
PART_LEXICON = {"name": NAMES, "article": ARTICLES, "color": COLORS, "object": OBJECTS}

# What a question asks for, as parts of the fact.
ATTRIBUTES = {"color": ("color",), "owner": ("name",), "thing": ("article", "color", "object")}


@dataclass(frozen=True)
class Question:
    """A kind of question: its words ("{key}" is filled in), what it asks for and which part of the fact it names."""

    words: tuple[str, ...]
    attribute: str
    key: str
    attribute_index: int
    key_index: int


QUESTIONS = {
    "color_of_object": Question(("what", "color", "is", "the", "{key}", "?"), "color", "object", 1, 4),
    "owner_of_object": Question(("who", "has", "the", "{key}", "?"), "owner", "object", 0, 3),
    "thing_of_name": Question(("what", "does", "{key}", "have", "?"), "thing", "name", 3, 2),
    "color_of_name": Question(("what", "color", "has", "{key}", "?"), "color", "name", 1, 3),
}


@dataclass(frozen=True)
class Fact:
    """Somebody has a coloured object; answers copy the article, whichever it is."""

    name: str
    article: str
    color: str
    object: str

    @property
    def words(self) -> tuple[str, ...]:
        """The six words of the fact."""
        return (self.name, "has", self.article, self.color, self.object, ".")

    @property
    def held_out(self) -> bool:
        """Whether this fact never occurs in training."""
        return held_out(self.name, self.color, self.object)


def article_of(color: str) -> str:
    """Return the indefinite article that goes before a color."""
    return "an" if color[0] in "aeiou" else "a"


@dataclass(frozen=True)
class Recall:
    """Facts, the number of the fact that is asked about, and the kind of question."""

    facts: tuple[Fact, ...]
    asked: int
    kind: str

    @property
    def question(self) -> tuple[str, ...]:
        """The words of the question."""
        key = getattr(self.facts[self.asked], QUESTIONS[self.kind].key)
        return tuple(word.format(key=key) for word in QUESTIONS[self.kind].words)

    @property
    def source(self) -> tuple[str, ...]:
        """The words of the prompt."""
        return tuple(word for fact in self.facts for word in fact.words) + self.question

    def part_index(self, fact: int, part: str) -> int:
        """Return the position in the prompt of a part of a fact."""
        return fact * FACT_LENGTH + PART_OFFSET[part]

    @property
    def key_index(self) -> int:
        """Position in the prompt of the question's key, for instance of "car" in "what color is the car ?"."""
        return len(self.facts) * FACT_LENGTH + QUESTIONS[self.kind].key_index

    @property
    def attribute_index(self) -> int:
        """Position in the prompt of the question word that says which attribute is asked."""
        return len(self.facts) * FACT_LENGTH + QUESTIONS[self.kind].attribute_index

    def example(self) -> Example:
        """Return the example with its rationale.

        Each answer word reads its value in the asked fact, and the key in both the fact and the question, unless the
        facts agree on that value (on an article, that is). The first word also reads the attribute word; for the later
        ones the answer so far already says which attribute it is.
        """
        question = QUESTIONS[self.kind]
        evidence = []
        for position, part in enumerate(ATTRIBUTES[question.attribute]):
            indices = [self.part_index(self.asked, part)]
            if len({getattr(fact, part) for fact in self.facts}) > 1:
                indices += [self.part_index(self.asked, question.key), self.key_index]
            if position == 0:
                indices.append(self.attribute_index)
            evidence.append(indices)
        other = Recall(self.facts, (self.asked + 1) % len(self.facts), self.kind)
        return _example(self.source, answer_words(self), evidence, answer_words(other))


def answer_words(item: Recall, hidden: Set[int] = frozenset(), rng: random.Random | None = None) -> list[str]:
    """Return the answer when the words at the ``hidden`` positions of the prompt cannot be read.

    Without its attribute word a question asks for any attribute that goes with its key; without a key that can be
    matched, every answer word comes from any of the facts; and a value that is hidden is any word of its kind.
    """
    rng = rng or random.Random(0)
    question = QUESTIONS[item.kind]
    attribute = question.attribute
    if item.attribute_index in hidden:
        attribute = rng.choice([other.attribute for other in QUESTIONS.values() if other.key == question.key])
    matched = not hidden & {item.key_index, item.part_index(item.asked, question.key)}
    words = []
    for part in ATTRIBUTES[attribute]:
        fact = item.asked if matched else rng.randrange(len(item.facts))
        if item.part_index(fact, part) in hidden:
            words.append(rng.choice(PART_LEXICON[part]))
        else:
            words.append(getattr(item.facts[fact], part))
    return words


def recall_facts(rng: random.Random, count: int, training: bool = True) -> tuple[Fact, ...]:
    """Draw facts that share no name, color or object; in training, none of them is a held-out combination."""
    while True:
        columns = [rng.sample(lexicon, count) for lexicon in (NAMES, COLORS, OBJECTS)]
        facts = tuple(Fact(name, article_of(color), color, thing) for name, color, thing in zip(*columns, strict=True))
        if not training or not any(fact.held_out for fact in facts):
            return facts


def recall_item(rng: random.Random, training: bool = True) -> Recall:
    """Draw a prompt of two or three facts with one question, about a held-out combination unless ``training``."""
    while True:
        facts = recall_facts(rng, rng.choice((2, 3)), training)
        asked = rng.randrange(len(facts))
        if training or facts[asked].held_out:
            return Recall(facts, asked, rng.choice(tuple(QUESTIONS)))


def recall_example(rng: random.Random, training: bool = True) -> Example:
    """Draw an example of the ``recall`` language."""
    return recall_item(rng, training).example()


# --------------------------------------------------------------------------------------------------------------------
# translate: a toy English to Italian pair
# --------------------------------------------------------------------------------------------------------------------

# English noun -> (Italian noun, gender)
NOUNS = {
    "house": ("casa", "f"), "dog": ("cane", "m"), "tree": ("albero", "m"), "man": ("uomo", "m"),
    "woman": ("donna", "f"), "cat": ("gatto", "m"), "door": ("porta", "f"), "book": ("libro", "m"),
    "girl": ("ragazza", "f"), "boy": ("ragazzo", "m"), "flower": ("fiore", "m"), "car": ("macchina", "f"),
    "garden": ("giardino", "m"), "school": ("scuola", "f"), "bread": ("pane", "m"), "key": ("chiave", "f"),
    "star": ("stella", "f"), "river": ("fiume", "m"), "chair": ("sedia", "f"), "horse": ("cavallo", "m"),
    "ship": ("nave", "f"), "flag": ("bandiera", "f"),
}  # fmt: skip
# English adjective -> Italian forms per gender
ADJECTIVES = {
    "red": {"m": "rosso", "f": "rossa"}, "small": {"m": "piccolo", "f": "piccola"},
    "old": {"m": "vecchio", "f": "vecchia"}, "white": {"m": "bianco", "f": "bianca"},
    "black": {"m": "nero", "f": "nera"}, "new": {"m": "nuovo", "f": "nuova"},
    "beautiful": {"m": "bello", "f": "bella"}, "tall": {"m": "alto", "f": "alta"},
    "good": {"m": "buono", "f": "buona"}, "slow": {"m": "lento", "f": "lenta"},
    "clean": {"m": "pulito", "f": "pulita"}, "dark": {"m": "scuro", "f": "scura"},
    "big": {"m": "grande", "f": "grande"}, "green": {"m": "verde", "f": "verde"},
    "strong": {"m": "forte", "f": "forte"}, "sweet": {"m": "dolce", "f": "dolce"},
}  # fmt: skip
DETERMINERS = {"the": {"m": "il", "f": "la"}, "a": {"m": "un", "f": "una"}}
VERBS = {
    "sees": "vede", "loves": "ama", "wants": "vuole", "takes": "prende", "knows": "conosce", "finds": "trova",
    "has": "ha", "watches": "guarda",
}  # fmt: skip
# The words that join noun phrases; hidden ones are indistinguishable by their place alone.
LINKS = {"of": "di", "is": "è", **VERBS}
SLOT_LEXICON = {
    "determiner": tuple(DETERMINERS), "noun": tuple(NOUNS), "adjective": tuple(ADJECTIVES), "link": tuple(LINKS),
}  # fmt: skip

TRANSLATE_SOURCE_WORDS = (*DETERMINERS, *NOUNS, *ADJECTIVES, *LINKS)
TRANSLATE_TARGET_WORDS = tuple(
    dict.fromkeys(
        [
            *(form for forms in DETERMINERS.values() for form in forms.values()),
            *(noun for noun, _ in NOUNS.values()),
            *(form for forms in ADJECTIVES.values() for form in forms.values()),
            *LINKS.values(),
        ]
    )
)
TRANSLATE_MAX_WORDS = 12


@dataclass(frozen=True)
class Slot:
    """One target word: its kind, the source word it renders and the source noun that it agrees with (or -1)."""

    kind: str
    own: int
    noun: int = -1

    def render(self, source: Sequence[str], hidden: Set[int], rng: random.Random) -> str:
        """Return the target word, drawing at random what is hidden."""
        own = rng.choice(SLOT_LEXICON[self.kind]) if self.own in hidden else source[self.own]
        if self.kind == "noun":
            return NOUNS[own][0]
        if self.kind == "link":
            return LINKS[own]
        gender = rng.choice(("m", "f")) if self.noun in hidden else NOUNS[source[self.noun]][1]
        return DETERMINERS[own][gender] if self.kind == "determiner" else ADJECTIVES[own][gender]

    def other_gender(self, source: Sequence[str]) -> str:
        """Return the target word as it would be if its noun had the other gender."""
        forms = (DETERMINERS if self.kind == "determiner" else ADJECTIVES)[source[self.own]]
        return forms["f" if NOUNS[source[self.noun]][1] == "m" else "m"]

    def evidence(self, source: Sequence[str]) -> tuple[int, ...]:
        """Return the source words that this target word depends on; an invariable adjective reads no gender."""
        if self.kind == "adjective" and len(set(ADJECTIVES[source[self.own]].values())) == 1:
            return (self.own,)
        return (self.own,) if self.noun < 0 else (self.own, self.noun)


@dataclass(frozen=True)
class Translation:
    """An English sentence with the slots of its translation, in target order."""

    source: tuple[str, ...]
    slots: tuple[Slot, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The (adjective, noun) pairs of the sentence, inside a noun phrase or across the copula."""
        return [(self.source[slot.own], self.source[slot.noun]) for slot in self.slots if slot.kind == "adjective"]

    @property
    def held_out(self) -> bool:
        """Whether the sentence has an (adjective, noun) pair that never occurs in training."""
        return any(held_out(*pair) for pair in self.pairs)

    def example(self) -> Example:
        """Return the example with its rationale."""
        words, first = translate_words(self), self.slots[0].noun
        foil = [
            slot.other_gender(self.source) if slot.noun == first else w
            for slot, w in zip(self.slots, words, strict=True)
        ]
        return _example(self.source, words, [slot.evidence(self.source) for slot in self.slots], foil)


def translate_words(item: Translation, hidden: Set[int] = frozenset(), rng: random.Random | None = None) -> list[str]:
    """Return the translation when the words at the ``hidden`` positions of the sentence cannot be read.

    Every target word draws for itself, so a hidden noun leaves its article, its adjectives and the noun itself without
    information, independently of each other.
    """
    rng = rng or random.Random(0)
    return [slot.render(item.source, hidden, rng) for slot in item.slots]


class _Builder:
    """Collects the words and slots of one sentence; nouns and adjectives are drawn without repetition."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.words: list[str] = []
        self.slots: list[Slot] = []
        self.nouns = rng.sample(tuple(NOUNS), 4)
        self.adjectives = rng.sample(tuple(ADJECTIVES), 5)

    def add(self, word: str) -> int:
        self.words.append(word)
        return len(self.words) - 1

    def noun_phrase(self, adjective: bool) -> int:
        """Add "the [adjective] noun" (rendered determiner, noun, adjective) and return the noun's position."""
        determiner = self.add(self.rng.choice(tuple(DETERMINERS)))
        modifier = self.add(self.adjectives.pop()) if adjective else -1
        noun = self.add(self.nouns.pop())
        self.slots += [Slot("determiner", determiner, noun), Slot("noun", noun)]
        if adjective:
            self.slots.append(Slot("adjective", modifier, noun))
        return noun

    def link(self, word: str) -> None:
        self.slots.append(Slot("link", self.add(word)))

    def phrase(self) -> int:
        """Add a noun phrase with at most one "of" complement and return the position of its head noun."""
        head = self.noun_phrase(self.rng.random() < 0.6)
        if self.rng.random() < 0.4:
            self.link("of")
            self.noun_phrase(self.rng.random() < 0.5)
        return head


def _sentence(rng: random.Random) -> Translation:
    """Draw a noun phrase, a sentence with a verb, or one with "is" and an adjective that agrees with the subject."""
    builder = _Builder(rng)
    subject = builder.phrase()
    form = rng.choices(("phrase", "verb", "copula"), (0.2, 0.4, 0.4))[0]
    if form == "verb":
        builder.link(rng.choice(tuple(VERBS)))
        builder.phrase()
    elif form == "copula":
        builder.link("is")
        builder.slots.append(Slot("adjective", builder.add(builder.adjectives.pop()), subject))
    return Translation(tuple(builder.words), tuple(builder.slots))


def translate_item(rng: random.Random, training: bool = True) -> Translation:
    """Draw a sentence of 3 to 12 words, with a held-out (adjective, noun) pair unless ``training``."""
    while True:
        item = _sentence(rng)
        if 3 <= len(item.source) <= TRANSLATE_MAX_WORDS and item.held_out is not training:
            return item


def translate_example(rng: random.Random, training: bool = True) -> Example:
    """Draw an example of the ``translate`` language."""
    return translate_item(rng, training).example()
