"""What the documents name exists: commands and their options, files, variables of the environment, names of the API."""

import ast
import importlib
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest

import faceattr_fast as faf
from faceattr_fast import cli

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "benchmarks" / "README.md",
    ROOT / "examples" / "README.md",
    ROOT / "python" / "faceattr_fast" / "data" / "MODEL_CARD.md",
]
FOLDERS = ("benchmarks", "cmake", "csrc", "docs", "examples", "python", "scripts", "tests")
FILES = [path.relative_to(ROOT).as_posix() for top in FOLDERS for path in (ROOT / top).rglob("*") if path.is_file()]
FILES += [path.name for path in ROOT.iterdir() if path.is_file()]

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


def blocks(document):
    """(language, text) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)


def spans(document):
    """What is set as code within the text."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def sources(*patterns):
    return "\n".join(path.read_text() for pattern in patterns for path in sorted(ROOT.glob(pattern)) if path.is_file())


PRODUCT = sources("python/**/*.py", "csrc/**/*.h", "csrc/**/*.cc", "csrc/**/*.cu")
TOOLS = sources("scripts/*", "benchmarks/**/*.py", "examples/*.py")
OF_OTHERS = {"--benchmark-json", "--max-restarts"}  # of pytest-benchmark and torchrun


def options_of(command):
    (subcommands,) = (a for a in cli._parser()._actions if isinstance(a.choices, dict))
    return set(subcommands.choices[command]._option_string_actions)


@every_document
def test_commands_can_be_typed(document, capsys):
    commands = []
    for _, block in blocks(document):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            commands += [part for part in re.split(r"&&|\|", line) if part.split()[:1] == ["faceattr"]]
    for command in commands:
        arguments = shlex.split(command, comments=True)[1:]
        try:
            cli._parser().parse_args(arguments)
        except SystemExit:
            pytest.fail(f"{command.strip()}: {capsys.readouterr().err}")


@every_document
def test_commands_and_options_within_the_text_exist(document):
    known = {option for command in cli._COMMANDS for option in options_of(command)}
    for span in spans(document):
        words = span.split()
        if words[0] == "faceattr" and len(words) > 1:
            assert words[1] in cli._COMMANDS, span
            given = {word for word in words[2:] if word.startswith("--")}
            assert given <= options_of(words[1]), span
        elif words[0].startswith("--"):
            option = words[0].partition("=")[0]
            assert option in known | OF_OTHERS or re.search(rf"{option}\b", TOOLS), span


@every_document
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), target


@every_document
def test_files_exist(document):
    """Named whole, or by the end of their path."""
    for span in spans(document):
        for name in re.findall(r"(?<![\w./*<>-])[\w./*-]+(?![\w./*<>-])", span):
            if name.endswith("/") or "<" in span:
                continue
            whole = name.split("/")[0] in FOLDERS and "/" in name
            if whole or re.search(r"[\w*]\.(?:py|pyi|h|cc|cu|inc|cmake|sh)$", name):
                found = any(fnmatch(f"/{file}", f"*/{name}") for file in FILES) or (ROOT / name).exists()
                assert found, f"{name}, in `{span}`"


@every_document
def test_variables_exist(document):
    cmake = sources("CMakeLists.txt", "cmake/*", "csrc/**/CMakeLists.txt")
    for name in re.findall(r"\bFACEATTR_[A-Z0-9_]+", document.read_text()):
        assert re.search(rf"\b{name}\b", PRODUCT) or re.search(rf"\b{name}\b", cmake), name


def test_every_variable_is_documented():
    text = (ROOT / "docs" / "architecture.md").read_text()
    listed = set(re.findall(r"^\| `(FACEATTR_[A-Z_]+)` \|", text, re.MULTILINE))
    assert listed == set(re.findall(r'"(FACEATTR_[A-Z_]+)"', PRODUCT))


@every_document
def test_names_of_the_api_exist(document):
    pytest.importorskip("torch")  # for faf.reference
    for span in spans(document):
        path = re.match(r"(?:faf\.)?(\w+(?:\.\w+)*)", span)
        names = path.group(1).split(".") if path else []
        if names and (span.startswith("faf.") or (names[0] in faf.__all__ and len(names) > 1)):
            resolve(faf, names)


@every_document
def test_examples_in_python_use_what_exists(document):
    pytest.importorskip("torch")
    for language, block in blocks(document):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)
            elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("faf."):
                resolve(faf, ast.unparse(node).split("(")[0].split(".")[1:])


def resolve(value, names):
    for name in names:
        assert hasattr(value, name) or name in getattr(value, "__dataclass_fields__", ()), ".".join(names)
        value = getattr(value, name, None)


@every_document
def test_names_of_the_engine_exist(document):
    for span in spans(document):
        for owner, member in re.findall(r"\b([A-Z]\w+)::(\w+)", span):
            assert re.search(rf"\b(?:class|struct) {owner}\b", PRODUCT), span
            assert re.search(rf"\b{member}\(", PRODUCT), span
