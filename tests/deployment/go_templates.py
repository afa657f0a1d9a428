"""
Renders the chart where helm is not installed: the part of Go's text/template and of helm's functions that the chart uses, and an error for
anything else. Whitespace is trimmed as Go does it.
"""

import re

import yaml

TAG = re.compile(r"\{\{(-?)\s*(.*?)\s*(-?)\}\}", re.DOTALL)
TOKEN = re.compile(r'"[^"]*"|\(|\)|\||[^\s()|]+')


class Chart:
    def __init__(self, files, values, release, chart):
        self.root = {"Values": values, "Release": {"Name": release}, "Chart": chart}
        self.defined = {}
        trees = {name: _parse(_tokens(text)) for name, text in files.items()}
        for tree in trees.values():
            self.defined |= {node[1]: node[2] for node in tree if node[0] == "define"}
        self.text = {name: self._run(tree, self.root, {}) for name, tree in trees.items()}

    def _run(self, nodes, dot, variables):
        return "".join(self._node(node, dot, {"$": self.root, **variables}) for node in nodes)

    def _node(self, node, dot, variables):
        match node:
            case ("text", text):
                return text
            case ("define", _, _):
                return ""
            case ("value", words):
                value = self._value(words, dot, variables)
                return (
                    {True: "true", False: "false"}.get(value, str(value))
                    if isinstance(value, bool)
                    else str(value)
                )
            case ("if", words, body):
                return self._run(body, dot, variables) if self._value(words, dot, variables) else ""
            case ("with", words, body):
                value = self._value(words, dot, variables)
                return self._run(body, value, variables) if value else ""
            case ("range", words, body):
                name = words.partition(":=")[0].strip() if ":=" in words else ""
                found = self._value(words.partition(":=")[2] if name else words, dot, variables)
                return "".join(self._run(body, one, {**variables, name: one}) for one in found)
        raise AssertionError(node)

    def _value(self, words, dot, variables):
        return self._pipeline(TOKEN.findall(words), dot, variables)

    def _pipeline(self, tokens, dot, variables):
        piped, command, depth, commands = [], [], 0, []
        for token in [*tokens, "|"]:
            depth += (token == "(") - (token == ")")
            if token == "|" and not depth:
                commands.append(command)
                command = []
            else:
                command.append(token)
        for words in commands:
            arguments = [*self._operands(words, dot, variables), *piped]
            piped = [
                arguments[0]
                if len(arguments) == 1 and words[0] not in FUNCTIONS
                else self._call(words[0], arguments[1:])
            ]
        return piped[0]

    def _operands(self, tokens, dot, variables):
        found, rest = [], list(tokens)
        while rest:
            token = rest.pop(0)
            if token == "(":
                inner, depth = [], 1
                while depth:
                    one = rest.pop(0)
                    depth += (one == "(") - (one == ")")
                    inner.append(one)
                found.append(self._pipeline(inner[:-1], dot, variables))
            else:
                found.append(self._operand(token, dot, variables))
        return found

    def _operand(self, token, dot, variables):
        if token.startswith('"'):
            return token[1:-1]
        if token.isdigit():
            return int(token)
        if token in FUNCTIONS:
            return token
        first, *path = token.split(".")
        assert first == "" or first in variables, f"{token} is not known"
        value = variables[first] if first else dot
        for part in filter(None, path):
            value = value[part]
        return value

    def _call(self, name, arguments):
        if name == "include":
            return self._run(self.defined[arguments[0]], arguments[1], {})
        return FUNCTIONS[name](*arguments)


FUNCTIONS = {
    "include": None,
    "default": lambda other, value: value or other,
    "quote": lambda value: f'"{value}"',
    "eq": lambda one, other: one == other,
    "or": lambda *values: next(filter(None, values), False),
    "not": lambda value: not value,
    "list": lambda *values: list(values),
    "get": lambda table, key: table[key],
    "toYaml": lambda value: yaml.safe_dump(value).rstrip("\n"),
    "nindent": lambda width, text: (
        "\n" + "\n".join(" " * width + line if line else line for line in text.split("\n"))
    ),
}


def _tokens(text):
    """Texts and actions, with the whitespace that Go trims removed."""
    at, trim = 0, False
    for tag in TAG.finditer(text):
        plain = text[at : tag.start()]
        plain = plain.lstrip() if trim else plain
        yield "text", plain.rstrip() if tag[1] else plain
        yield "action", tag[2]
        at, trim = tag.end(), bool(tag[3])
    yield "text", text[at:].lstrip() if trim else text[at:]


def _parse(tokens, inside=False):
    nodes = []
    for kind, word in tokens:
        if kind == "text":
            nodes.append(("text", word))
        elif word == "end":
            assert inside
            return nodes
        elif word.startswith("/*"):
            continue
        elif (name := word.split()[0]) in ("if", "with", "range", "define"):
            rest = word.removeprefix(name).strip()
            nodes.append((name, rest.strip('"') if name == "define" else rest, _parse(tokens, inside=True)))
        else:
            nodes.append(("value", word))
    assert not inside, "an end is missing"
    return nodes
