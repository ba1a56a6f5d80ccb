"""What a program may send: read from pulumi_gcp's own classes.

From their source text, because importing `pulumi_gcp.compute._inputs` takes two seconds, and every engine run starts a provider.
"""

import ast
import functools
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.tools.stand_in_cloud.differences import UNKNOWN

GETTER = re.compile(r'    @pulumi\.getter(?:\(name="(\w+)"\))?\n    def (\w+)\(self\) -> (.*):\n')
DOCUMENTED = re.compile(
    r'    @pulumi\.getter(?:\(name="(\w+)"\))?\n    def (\w+)\(self\) -> [^\n]*:\n        """\n(.*?)\n        """\n', re.DOTALL
)
SCALARS = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}
TRANSPARENT = ("Input", "Optional", "NotRequired")


class Property(NamedTuple):
    """One property of a resource, or of a block in it."""

    annotation: ast.expr
    required: bool


def problems(token: str, inputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Path and reason of every property that the signature of a type does not allow."""
    yield from _of_block(*_place(token), inputs, "")


def documentation(token: str, block: str | None = None) -> dict[str, str]:
    """Name and docstring of every property of a type, or of the class of a block in it."""
    file, class_name, blocks = _place(token)
    found = DOCUMENTED.findall(_body(blocks, block) if block else _body(file, class_name))
    return {name or attribute: " ".join(text.split()) for name, attribute, text in found}


def _place(token: str) -> tuple[str, str, str]:
    """The file and class of a type's arguments, and the file of the blocks in them."""
    _, module, name = token.split(":")
    folder = module.partition("/")[0]
    if folder == "providers":
        return "provider.py", "ProviderArgs", "_inputs.py"
    file = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    return f"{folder}/{file}.py", f"{name}Args", f"{folder}/_inputs.py"


def _of_block(file: str, class_name: str, blocks: str, values: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    known = _properties(file, class_name)
    for name, value in values.items():
        inside = f"{path}.{name}" if path else name
        if name not in known:
            yield inside, f"an argument named {name!r} is not expected here; {class_name} knows {', '.join(sorted(known))}"
        elif value is not None:
            yield from _of_value(known[name].annotation, blocks, value, inside)
    for name, known_property in known.items():
        if known_property.required and values.get(name) is None:
            yield f"{path}.{name}" if path else name, f"the argument {name!r} is required, but no definition was found"


def _of_value(annotation: ast.expr, blocks: str, value: Any, path: str) -> Iterator[tuple[str, str]]:
    if value == UNKNOWN:
        return
    if isinstance(annotation, ast.Subscript):
        outer, inner = ast.unparse(annotation.value).rpartition(".")[2], annotation.slice
        if outer in TRANSPARENT:
            yield from _of_value(inner, blocks, value, path)
        elif outer == "Sequence" and isinstance(value, list):
            for at, item in enumerate(value):
                yield from _of_value(inner, blocks, item, f"{path}[{at}]")
        elif outer == "Mapping" and isinstance(value, dict) and isinstance(inner, ast.Tuple):
            for key, item in value.items():
                yield from _of_value(inner.elts[1], blocks, item, f"{path}.{key}")
        elif outer != "Union":
            yield path, f"expected a {'list' if outer == 'Sequence' else 'map'}, got {value!r}"
    elif isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        if isinstance(value, dict):
            yield from _of_block(blocks, annotation.value, blocks, value, path)
        else:
            yield path, f"expected an object, got {value!r}"
    elif (kind := ast.unparse(annotation).rpartition(".")[2]) in SCALARS:
        if not isinstance(value, SCALARS[kind]) or (isinstance(value, bool) and kind != "bool"):
            yield path, f"expected {kind}, got {value!r}"


@functools.cache
def _properties(file: str, class_name: str) -> dict[str, Property]:
    found = GETTER.findall(_body(file, class_name))
    if not found:
        raise LookupError(f"pulumi_gcp/{file} has no {class_name} with properties: has pulumi_gcp changed its shape?")
    return {
        name or attribute: Property(ast.parse(annotation, mode="eval").body, required="Optional[" not in annotation[:30])
        for name, attribute, annotation in found
    }


def _body(file: str, class_name: str) -> str:
    text = _text(file)
    start = text.find(f"\nclass {class_name}:\n")
    end = text.find("\nclass ", start + 1)
    return text[start : end if end > 0 else None] if start >= 0 else ""


@functools.cache
def _text(file: str) -> str:
    found = importlib.util.find_spec("pulumi_gcp")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).with_name(file.partition("/")[0]).joinpath(*file.split("/")[1:]).read_text(encoding="utf-8")
