"""Write the tables of config/README.md from the schema and the registry of methods, between their markers.

python docs/write_configuration_tables.py          rewrites the file
python docs/write_configuration_tables.py --check  exits 1 when it is not up to date
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "lib"))

from scgpt_bench.configuration import read_schema  # noqa: E402

SCHEMA = read_schema()
DOCUMENT = ROOT / "config" / "README.md"


def resolved(part):
    """A schema part with its references and `allOf` followed."""
    if "$ref" in part:
        target = SCHEMA
        for key in part["$ref"].removeprefix("#/").split("/"):
            target = target[key]
        part = {**resolved(target), **part}
    properties = {}
    required = set(part.get("required", []))
    for piece in map(resolved, part.get("allOf", [])):
        properties |= piece.get("properties", {})
        required |= set(piece.get("required", []))
    return {**part, "properties": {**properties, **part.get("properties", {})}, "required": required}


def rows(part, prefix=""):
    part = resolved(part)
    for key, entry in part["properties"].items():
        entry = resolved(entry)
        if "const" in entry:
            continue
        if entry["properties"]:
            yield from rows(entry, f"{prefix}{key}.")
            continue
        choices = " One of " + ", ".join(f"`{value}`" for value in entry["enum"]) + "." if "enum" in entry else ""
        default = f"`{json.dumps(entry['default'])}`" if "default" in entry else ""
        default = "required" if key in part["required"] else default
        yield f"| `{prefix}{key}` | {default} | {entry['description']}{choices} |"


def table(part):
    return "\n".join(["| key | default | meaning |", "| --- | --- | --- |", *rows(part)])


def sections():
    definitions = SCHEMA["$defs"]
    yield "top", table(SCHEMA)
    yield "generated", table(definitions["planted"])
    for group in ("checkpoints", "gene_vectors", "methods"):
        text = []
        for kind, part in definitions[group].items():
            text += [f"### `{kind}`", "", part["description"], ""]
            if any("const" not in entry for entry in resolved(part)["properties"].values()):
                text += [table(part), ""]
        yield group, "\n".join(text).rstrip()


def written(document):
    for name, text in sections():
        pattern = re.compile(f"(<!-- {name}: from the schema -->\n).*?(<!-- end -->)", re.DOTALL)
        assert pattern.search(document), f"{DOCUMENT}: no marker for {name}"
        document = pattern.sub(lambda match, text=text: f"{match[1]}\n{text}\n\n{match[2]}", document)
    return document


if __name__ == "__main__":
    document = DOCUMENT.read_text()
    if "--check" in sys.argv[1:]:
        if written(document) != document:
            sys.exit(f"error: {DOCUMENT}: not up to date with the schema; run python {sys.argv[0]}")
    else:
        DOCUMENT.write_text(written(document))
