"""What the user has said about things ("My name is Ada"), and the questions that ask for it ("What is my name?")."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain

import msgspec

from gateway.emulator.keywords import excerpt, stem

MAX_TEXTS = 50  # the last ones of a conversation

OWNER_ID = r"(?P<owner>my|our|the|this|his|her|their|its|the user'?s)"
COUNT = r"(?:\d+|a|an|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
SUBJECT = r"(?P<subject>[\w'’-]+(?: [\w'’-]+){0,4}?)"
# A value ends with its sentence, and before the next statement in it.
VALUE = r"(?P<value>[^\n;]+?)(?=[.!?](?:\s|$)|[\n;]|,? (?:and|but|so|because) (?:that |my |our |the |i |i'm )|$)"
# "My favourite colour is teal", "the code: 7421", "My dog is called Rex", "My name's Ada"
STATEMENTS = (
    re.compile(
        rf"\b{OWNER_ID} {SUBJECT}(?: (?:is|are|was|were)(?: now)?(?: called| named)?| ?[:=]) {VALUE}", re.IGNORECASE
    ),
    re.compile(rf"\b{OWNER_ID} (?P<subject>\w+)['’]s (?!\w+ (?:is|are|was|were)\b){VALUE}", re.IGNORECASE),
)
# "Remember the number 42", "remember my code 7421"
REMEMBER = re.compile(
    rf"\b(?:remember|memori[sz]e|note|keep in mind):? (?:that )?{OWNER_ID} (?P<subject>[\w'’-]+(?: [\w'’-]+)?) "
    r"(?P<value>\"[^\"]+\"|[\w@.:/+-]*\w)(?=[.!?,;]|\s*$)",
    re.IGNORECASE,
)
# "I have three cats"
POSSESSION = re.compile(rf"\bi (?:have|own|bought|ate|need|want) (?P<value>{COUNT}) (?P<subject>\w+)", re.IGNORECASE)
# Statements of the first person -> what they are about
FIRST_PERSON: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b(?:call me|i am called|i'm called|i go by) (?P<value>[^\n.,;!?]+)", re.IGNORECASE), "name"),
    (re.compile(r"\b(?i:i am|i'm|i’m) (?P<value>[A-ZÀ-Þ][\w'’-]*(?: [A-ZÀ-Þ][\w'’-]*){0,5})(?=[.,;!?\n]|$| and\b)"),
     "name"),
    (re.compile(r"\b(?:i am|i'm|i’m) (?P<value>\d{1,3})(?: years old| years of age)?\b", re.IGNORECASE), "age"),
    (re.compile(rf"\bi (?:live|lived) in {VALUE}", re.IGNORECASE), "live"),
    (re.compile(rf"\bi (?:come|am|'m) from {VALUE}", re.IGNORECASE), "from"),
    (re.compile(rf"\bi (?:was )?born (?:in|on) {VALUE}", re.IGNORECASE), "born"),
    (re.compile(rf"\bi work (?:as|at|for|in) {VALUE}", re.IGNORECASE), "work"),
    (re.compile(rf"\bi (?:really |most )?(?:like|love|prefer|enjoy) {VALUE}", re.IGNORECASE), "like"),
)  # fmt: skip

# Questions -> what they ask for; of the first ones, the subject is in the question
SUBJECT_QUESTIONS = (
    re.compile(
        rf"\b(?:what|which|who|when|where|how much)(?:'s|’s| is| are| was| were)? {OWNER_ID} {SUBJECT}"
        r"(?= (?:again|that|did|i|which|you|please|called)\b|[?.!,;\n]|\s*$)",
        re.IGNORECASE,
    ),
    re.compile(
        r"\b(?:know|remember|recall|tell me|remind me(?: of| what)?|repeat|give me)(?: what| which| who)?"
        rf" {OWNER_ID} {SUBJECT}"
        r"(?= (?:is|are|was|were|again|that|did|i|please)\b|[?.!,;\n]|\s*$)",
        re.IGNORECASE,
    ),
    re.compile(
        r"\b(?:what|which|how many) (?P<owner>)(?P<subject>[\w'’-]+(?: [\w'’-]+)?) (?:did|do|had|have) (?:i|you)\b",
        re.IGNORECASE,
    ),
)
FIRST_PERSON_QUESTIONS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\bwhat(?:'s| is) my (?:first |full )?name\b|\bwh(?:o|at) am i(?: called)?\b", re.IGNORECASE), "name"),
    (re.compile(r"\bhow old am i\b", re.IGNORECASE), "age"),
    (re.compile(r"\bwhere do i live\b|\bwhich (?:city|town|country) do i live in\b", re.IGNORECASE), "live"),
    (re.compile(r"\bwhere (?:do i come|am i) from\b", re.IGNORECASE), "from"),
    (re.compile(r"\b(?:where|when) was i born\b", re.IGNORECASE), "born"),
    (re.compile(r"\b(?:where|what|who) do i work\b|\bwhat do i do for a living\b", re.IGNORECASE), "work"),
    (re.compile(r"\bwhat do i (?:really |most )?(?:like|love|prefer|enjoy)\b", re.IGNORECASE), "like"),
)  # fmt: skip
LAST_TURN = re.compile(r"\bwhat did i (?:just )?(?:say|tell you|ask(?: you)?|write)\b", re.IGNORECASE)
# "Reply with only the name", "just the number", "in one word"
BARE = re.compile(
    r"\b(?:only|just|nothing (?:else|but)|one word|single word|no other (?:words|text)|exactly)\b", re.IGNORECASE
)


class Fact(msgspec.Struct, frozen=True):
    """A statement: the stems of the words for what it is about, and what it says of it."""

    subject: frozenset[str]
    value: str


class Answer(msgspec.Struct, frozen=True):
    """The answer to a question about an earlier statement, as a sentence and as the bare value."""

    sentence: str
    value: str


def find_facts(texts: Sequence[str]) -> list[Fact]:
    """Returns the facts that the last of these texts state, in their order."""
    return list(chain.from_iterable(_facts_of(excerpt(text)) for text in texts[-MAX_TEXTS:]))


def answer(question: str, texts: Sequence[str]) -> Answer | None:
    """Returns the answer to a question about what earlier texts, or the question's own text, state."""
    # Facts are looked for only if there is a question, because conversations may be long.
    requests = [*_first_person_requests(question), *_subject_requests(question)]
    facts = find_facts([*texts, question]) if requests else []
    for subject, sentence in requests:
        value = _latest(subject, facts)
        if value:
            return Answer(sentence.format(value), value)
    return None


def _first_person_requests(question: str) -> list[tuple[frozenset[str], str]]:
    """Returns what the question asks for, and the sentence that answers it."""
    subjects = [subject for pattern, subject in FIRST_PERSON_QUESTIONS if pattern.search(question)]
    return [
        (frozenset([subject]), "Your name is {}." if subject == "name" else "You told me: {}.") for subject in subjects
    ]


def _subject_requests(question: str) -> list[tuple[frozenset[str], str]]:
    matches = [match for pattern in SUBJECT_QUESTIONS for match in pattern.finditer(question)]
    return [(_stems(match["subject"]), _sentence(match["owner"], match["subject"])) for match in matches]


def _sentence(owner: str, subject: str) -> str:
    owner = {"my": "Your", "the": "The", "": "Your"}.get(owner.lower(), owner.capitalize())
    return f"{owner} {subject.replace('{', '').replace('}', '')} is {{}}."


def value_of(name: str, facts: Sequence[Fact]) -> str | None:
    """Returns what the facts say about the field of that name, or None."""
    words = re.findall(r"[a-z]+", re.sub(r"([A-Z])", r"_\1", name).lower())
    return _latest(frozenset(map(stem, words)), facts) if words else None


def wants_bare_value(question: str) -> bool:
    """Returns whether the question asks for the value alone."""
    return BARE.search(question) is not None


def _facts_of(text: str) -> list[Fact]:
    facts: list[tuple[int, Fact]] = []
    for pattern, subject in FIRST_PERSON:
        for match in pattern.finditer(text):
            facts.append((match.start(), Fact(frozenset([subject]), _clean(match["value"]))))
    for pattern in (REMEMBER, POSSESSION, *STATEMENTS):
        for match in pattern.finditer(text):
            facts.append((match.start(), Fact(_stems(match["subject"]), _clean(match["value"]))))
    facts.sort(key=lambda item: item[0])
    return [fact for _, fact in facts if fact.value and fact.subject]


def _stems(subject: str) -> frozenset[str]:
    words = re.findall(r"[^\W_]+", re.sub(r"['’]s\b", "", subject.lower()))
    return frozenset(stem(word) for word in words)


def _clean(value: str) -> str:
    return value.strip().strip("\"“”'’`").rstrip(".!?, ").strip()


def _latest(subject: frozenset[str], facts: Sequence[Fact]) -> str | None:
    """Returns the value of the last fact about a subject; a fact about exactly that wins over a more special one."""
    exact = next((fact.value for fact in reversed(facts) if fact.subject == subject), None)
    return exact or next((fact.value for fact in reversed(facts) if subject < fact.subject), None)
