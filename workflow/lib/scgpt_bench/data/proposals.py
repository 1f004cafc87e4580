"""Which rules of the data-set table would make genes of labels that name none, as guides and combinations do.

Proposals are for people: an error or a problem shows one, and nothing follows it by itself.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from scgpt_bench.data.catalogue import Dataset
from scgpt_bench.data.labels import MISSING, parts_of
from scgpt_bench.data.symbols import named_like_controls

ONLY_BETWEEN_NAMES = ("|", ";", ",", "&")  # in no name of a gene, guide or control
SEPARATORS = ("+", "_", "-", ":")
LOOKED_AT = 2000  # labels from which rules are made; all are counted
MOST_SHAPES = 4

# What may follow a gene's name and still be of a gene: GAS5-AS1 is no guide of GAS5.
_OF_A_GENE = re.compile(r"-(?:AS|DT|IT|OT)\d*", re.IGNORECASE)
_NUMBERED_GUIDE = re.compile(r"(?:sg|g|guide|grna)[-_.]?\d+\Z", re.IGNORECASE)
# Strand and position (as in the guides of Horlbeck et al. 2016), promoters, sequences, numbers, a letter at the end.
_TOKEN = re.compile(r"_[+-]_\d[\d.]*|(?:P\d+)+|[ACGT]{15,}|\d+|[-_.][A-Z]\Z|.", re.DOTALL)
# Endings that tell guides apart where no gene was measured that would show it: those that no gene's name has.
_OF_A_GUIDE = re.compile(
    r"(.+?)(_(?:sg|g|guide|grna)?\d+|_[+-]_\d[\d.]*(?:-(?:P\d+)+)?(?:_\d+)?|_(?:P\d+)+|_[ACGT]{15,}"
    r"|[-.]?sg[-_.]?\d+|(?<=[A-Z\d])g\d+)"
)


@dataclass(frozen=True)
class Proposal:
    """Cells of a data set's row, and what they would do.

    Attributes
    ----------
    row
        The data set with the proposed cells.
    gained
        How many more labels it explains than today's row, or how many fewer perturbations it makes.
    seen
        Whether the file supports it: the names that result are measured.
    text
        The cells and what they would do, in words.
    """

    row: Dataset
    gained: int
    seen: bool
    text: str


def propose(labels: Iterable[str], measured: Iterable[str], dataset: Dataset) -> Proposal | None:
    """Find the rules that explain most labels; None where none explains two more than the data set's row does.

    A label is explained if all of its parts are measured genes or controls, and none of its genes is cut off. Where
    few targets were measured, guides are known by what several of them share.

    Parameters
    ----------
    labels
        Spelled as in the file, without those that are left out.
    measured
        Gene symbols; upper and lower case do not matter.
    """
    texts = sorted({label.strip() for label in labels} - {*MISSING})
    genes = {gene.upper() for gene in measured}
    today, _ = _explained(texts, dataset, genes)
    if today == len(texts):
        return None
    best, most = dataset, today
    for row in _candidates(texts, dataset, genes):
        explained, of_genes = _explained(texts, row, genes)
        if explained > most and of_genes > 1:
            best, most = row, explained
    if most - today > max(1, (len(texts) - today) / 4):
        effect = f"{most:,} of {len(texts):,} labels would then be of measured genes or controls"
        return Proposal(best, most - today, True, _text(best, dataset, effect))
    return _propose_shared_names(texts, dataset) if most <= len(texts) / 2 else None


def _explained(texts: list[str], row: Dataset, genes: set[str]) -> tuple[int, int]:
    """Count the labels that a row explains, and those of them with a measured gene."""
    parts = [parts_of(text, row) for text in texts]
    distinct = {part for some in parts for part in some}
    measured = {part for part in distinct if part.upper() in genes}
    known = measured | (distinct & {*row.control_labels})
    known |= {*named_like_controls(distinct - known)}
    explained = [
        not measured.isdisjoint(some)
        for text, some in zip(texts, parts, strict=True)
        if known.issuperset(some) and genes.isdisjoint(_words(text).difference(*map(_words, some)))
    ]
    return len(explained), sum(explained)


def _words(text: str) -> set[str]:
    return {word.upper() for word in re.split(r"[\W_]+", text) if len(word) > 2}


def _candidates(texts: list[str], dataset: Dataset, genes: set[str]) -> Iterator[Dataset]:
    """Yield rows with other separators, prefixes and suffixes, those with the fewest changes first."""
    sample = texts[:: -(-len(texts) // LOOKED_AT)]
    only = [mark for mark in ONLY_BETWEEN_NAMES if any(mark in text for text in texts)]
    others = [mark for mark in SEPARATORS if any(mark in text for text in texts)]
    separators = only[:1] or dict.fromkeys([dataset.combination_separator, *others, None])
    rows = [replace(dataset, combination_separator=mark) for mark in separators]
    yield from rows
    for row in rows:
        plain = replace(row, guide_prefix=None, guide_suffix=None)
        parts = sorted({part for text in sample for part in parts_of(text, plain)})
        for prefix, suffix in _affixes(parts, plain, genes):
            yield replace(plain, guide_prefix=prefix, guide_suffix=suffix)


def _affixes(parts: list[str], row: Dataset, genes: set[str]) -> Iterator[tuple[str | None, str | None]]:
    """Yield prefixes and suffixes around the genes and controls in parts of labels."""
    around: dict[str, list[tuple[str, str, str]]] = defaultdict(list)  # by the shape of the prefix
    for part in parts:
        if part.upper() not in genes and part not in row.control_labels:
            for prefix, name, ending in _names_in(part, row, genes):
                around[_shape(prefix)].append((prefix, name, ending))
    # The prefix before most names: one before a single name is an accident of spelling.
    for shape in sorted(around, key=lambda shape: -len({name for _, name, _ in around[shape]}))[:2]:
        prefixes = {prefix for prefix, _, _ in around[shape]}
        prefix = re.escape(prefixes.pop()).replace(r"\-", "-") if len(prefixes) == 1 else shape
        endings = Counter(_shape(ending) for _, _, ending in around[shape] if ending)
        for suffix in _suffixes(endings):
            yield prefix or None, suffix


def _names_in(part: str, row: Dataset, genes: set[str]) -> Iterator[tuple[str, str, str]]:
    """Yield every way to see a gene or a control in a part: what is before it, the name, what follows."""
    starts = [0, *(i for i in range(1, len(part)) if _begins_a_name(part, i))]
    ends = [i for i in range(1, len(part)) if not part[i].isalnum() or _NUMBERED_GUIDE.match(part, i)]
    for start in starts:
        for end in (len(part), *reversed(ends)):
            name, ending = part[start:end], part[end:]
            if not name[-1:].isalnum() or _OF_A_GENE.fullmatch(ending):
                continue
            like_control = not any(map(str.isdigit, name)) and named_like_controls([name])
            if name.upper() in genes or name in row.control_labels or like_control:
                yield part[:start], name, ending
                break


def _begins_a_name(part: str, i: int) -> bool:
    return part[i].isalnum() and (not part[i - 1].isalnum() or (part[i - 1].islower() and part[i].isupper()))


def _suffixes(endings: Counter[str]) -> Iterator[str | None]:
    """Yield regular expressions for endings of these shapes, the most exact first."""
    if not endings:
        yield None
        return
    shapes = [shape for shape, _ in endings.most_common(MOST_SHAPES)]
    yield (shapes[0] if len(shapes) == 1 else f"({'|'.join(sorted(shapes))})") + "$"
    if len(endings) > MOST_SHAPES:
        yield "_.*$"


def _shape(text: str) -> str:
    """Make a regular expression for texts like this one, with other numbers, strands and sequences."""
    return "".join(map(_pattern, _TOKEN.findall(text)))


def _pattern(token: str) -> str:
    if token[:3] in ("_+_", "_-_") and len(token) > 3:
        return r"_[+-]_[\d.]+"
    if token.isdigit():
        return r"\d+"
    if len(token) == 2 and token[0] in "-_.":
        return _pattern(token[0]) + "[A-Z]"
    if re.fullmatch(r"(?:P\d+)+", token):
        return r"(P\d+)+"
    if len(token) >= 15:
        return "[ACGT]+"
    return token if token in "-_ " or token.isalnum() else re.escape(token)


def _propose_shared_names(texts: list[str], dataset: Dataset) -> Proposal | None:
    """Find the ending without which most labels share a name with another one, as guides of one target do."""
    labels = [text for text in texts if text not in dataset.control_labels]
    if len(labels) < 4:
        return None
    pairs = enumerate(zip(labels[0], labels[-1], strict=False))  # the first and the last differ most: they are sorted
    common = labels[0][: next((i for i, (a, b) in pairs if a != b), len(labels[0]))]
    prefix = re.escape(common[: common.rfind("_") + 1]) or dataset.guide_prefix
    row = replace(dataset, guide_prefix=prefix, guide_suffix=None)
    parts = sorted({part for label in labels for part in parts_of(label, row)})
    candidates = [Counter(_shape(match[2]) for match in map(_OF_A_GUIDE.fullmatch, parts) if match)]
    halves = [part.partition("_") for part in parts if "_" in part]
    words = Counter(_shape("_" + word) for _, _, word in halves)
    both = {name for name, _, _ in halves} & {word for _, _, word in halves}
    if len(words) <= len(parts) / 4 and not both:  # a few words after many names: top_two, second_two
        candidates.append(words)
    today = fewest = len({tuple(parts_of(label, dataset)) for label in labels})
    best = None
    for endings in filter(None, candidates):
        for suffix in _suffixes(endings):
            candidate = replace(row, guide_suffix=suffix)
            names = Counter(tuple(parts_of(label, candidate)) for label in labels)
            if sum(n for n in names.values() if n > 1) > len(labels) / 2 and len(names) < min(fewest, today - 1):
                best, fewest = candidate, len(names)
    if best is None:
        return None
    effect = f"{len(labels):,} labels would then be {fewest:,} perturbations"
    return Proposal(best, today - fewest, False, _text(best, dataset, effect))


def _text(row: Dataset, dataset: Dataset, effect: str) -> str:
    cells = {name: getattr(row, name) for name in ("combination_separator", "guide_prefix", "guide_suffix")}
    changed = {name: cell for name, cell in cells.items() if cell != getattr(dataset, name)}
    named = " and ".join(f"{name} '{cell}'" if cell else f"an empty {name}" for name, cell in changed.items())
    return f"{named} in the data-set table ({effect})"
