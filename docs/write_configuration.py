"""Write what is made of scgpt_bench.options and the registry of methods: tables in documents, between their markers,
and the JSON schema of a configuration, for editors.

python docs/write_configuration.py          rewrites all
python docs/write_configuration.py --check  exits 1 when one of them is not up to date
"""

import ast
import json
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args, get_origin

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "lib"))

from scgpt_bench import options  # noqa: E402
from scgpt_bench.methods.registry import KINDS  # noqa: E402

KEYS = "config/README.md"
ELSEWHERE = {"submissions": "docs/predicting.md"}  # sections that are not in KEYS, and their documents
METHODS = {name: kind.option_class for name, kind in KINDS.items()}


def meanings():
    """(class, option), and the text below it."""
    for part in ast.parse(Path(options.__file__).read_text()).body:
        for line, text in pairwise(part.body if isinstance(part, ast.ClassDef) else []):
            if isinstance(line, ast.AnnAssign) and isinstance(text, ast.Expr):
                yield (part.name, line.target.id), " ".join(text.value.value.split())


MEANINGS = dict(meanings())


def meaning(of, option):
    """The text below an option, where a class or one of its bases has it."""
    return next((MEANINGS[part.__name__, option] for part in of.__mro__ if (part.__name__, option) in MEANINGS), "")


def sections():
    """Each marker, and the text behind it."""
    yield "top", table(options.Study)
    yield "generated", table(options.Generated)
    yield "submissions", table(options.Submission)
    yield "predict", table(options.Prediction)
    for name, sources in options.SOURCES.items():
        yield name, tables(sources, {key: " ".join(of.__doc__.split()) for key, of in sources.items()})
    every = [*rows(options.Method)]
    methods = tables(METHODS, {name: kind.description for name, kind in KINDS.items()}, once=every)
    yield "methods", f"Every method takes:\n\n{written(every)}\n\n{methods}"


def tables(classes, descriptions, once=()):
    """Table of each class, without the lines ``once``. What it repeats of an earlier one is named, not repeated."""
    parts, earlier = [], {}
    for name, of in classes.items():
        lines = [line for line in rows(of) if line not in once]
        like = max(earlier, key=lambda other: len({*lines} & {*earlier[other]}), default=None)
        repeated = {*lines} & {*earlier.get(like, ())}
        if len(repeated) > 4:
            left_out = [key(line) for line in earlier[like] if key(line) not in map(key, lines)]
            but = f" except {', '.join(left_out)}" if left_out else ""
            shown = f"All keys of `{like}`{but}, and:\n\n{written([line for line in lines if line not in repeated])}"
        else:
            shown = written(lines)
        earlier[name] = lines
        parts.append(f"### `{name}`\n\n{descriptions[name]}\n\n{shown}".rstrip())
    return "\n\n".join(parts)


def key(line):
    return line.split(" | ")[0].removeprefix("| ")


def table(of):
    return written([*rows(of)])


def written(lines):
    return "\n".join(["| key | default | meaning |", "| --- | --- | --- |", *lines]) if lines else ""


def rows(of, prefix=""):
    for name, field in of.model_fields.items():
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        if isinstance(field.annotation, type) and issubclass(field.annotation, options.Options):
            yield from rows(field.annotation, f"{prefix}{name}.")
        elif name != "source":  # the heading
            default = "required" if field.is_required() else f"`{json.dumps(field.get_default())}`"
            default = "the name" if name == "kind" else default
            listed = " One of " + ", ".join(f"`{choice}`" for choice in choices) + "." if choices else ""
            yield f"| `{prefix}{name}` | {default} | {meaning(of, name)}{listed} |"


def schema():
    """The JSON schema; what an entry of `checkpoints`, `vectors` or `methods` takes depends on its source or kind."""
    made = described(options.Study)
    for key, classes in {**options.SOURCES, "methods": METHODS}.items():
        entries = {f"{key} {name}": described(of) for name, of in classes.items()}
        made["$defs"] |= entries
        (names,) = made["properties"][key]["patternProperties"]
        made["properties"][key]["patternProperties"][names] = {
            "anyOf": [{"$ref": f"#/$defs/{name}"} for name in entries]
        }
    for kind in METHODS:
        entry = made["$defs"][f"methods {kind}"]
        entry["properties"]["kind"]["const"] = kind
        entry["required"].remove("kind")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def described(of):
    made = of.model_json_schema()
    for name, part in {"": made, **made.get("$defs", {})}.items():
        for option, entry in part.get("properties", {}).items():
            entry.pop("title", None)
            if text := meaning(getattr(options, name, of), option):
                entry["description"] = text
    return made


def documents():
    """Each document with sections, and its text with the sections of today."""
    texts = {}
    for name, section in sections():
        document = ELSEWHERE.get(name, KEYS)
        text = texts.get(document) or (ROOT / document).read_text()
        pattern = re.compile(f"(<!-- {name}: from the options -->\n).*?(<!-- end -->)", re.DOTALL)
        assert pattern.search(text), f"{document}: no marker for {name}"
        texts[document] = pattern.sub(lambda match, section=section: f"{match[1]}\n{section}\n\n{match[2]}", text)
    return texts


if __name__ == "__main__":
    heading = f"# Made by docs/{Path(__file__).name}.\n"
    made = {
        **documents(),
        "workflow/schemas/config.schema.yaml": heading
        + yaml.safe_dump(schema(), sort_keys=False, default_flow_style=None, width=120),
    }
    for name, text in made.items():
        if "--check" not in sys.argv[1:]:
            (ROOT / name).write_text(text)
        elif (ROOT / name).read_text() != text:
            sys.exit(f"error: {name}: not up to date with the options; run python docs/{Path(__file__).name}")
