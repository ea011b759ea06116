"""Finds the programs that the tree starts: in Python, in shell scripts and in the Makefile.

Python is read as far as its text goes. A call that starts a program, ``subprocess.run(argv)`` for
example, is followed back to the list that it is given: through variables, and through functions
that hand a parameter on, whose calls start programs then, too. What cannot be followed, a name
that the user gives for example, is left out. Shell is read by its command words.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

LIST, WORDS = "list", "words"
"""How a program is given: as the first element of a list, or as an argument by itself."""
Place = tuple[int, str]
STARTERS: dict[str, set[Place]] = {
    **{name: {(0, LIST)} for name in ("run", "Popen", "call", "check_call", "check_output")},
    **{name: {(0, WORDS)} for name in ("create_subprocess_exec", "which", "execvp", "execvpe")},
}
"""What starts a program or looks for one, by the last part of its name."""
CARRIERS = frozenset(
    {"chroot", "chrt", "env", "flock", "nice", "nsenter", "setpriv", "timeout", "unshare", "xargs"}
)
"""Programs that start the program which follows their options."""
SHELLS = frozenset({"bash", "sh"})
DEPTH_MAX = 6
"""So many variables are followed one after the other; a variable may be made of itself."""
PROGRAM = re.compile(r"(?:(?:/usr)?/s?bin/)?([a-z][a-z0-9_.+-]*)")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module:
    """One Python file, and the function around each of its nodes."""

    def __init__(self, path: Path) -> None:
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.name = path.stem
        self.functions: dict[ast.AST, Function] = {}
        self.assigned: dict[tuple[ast.AST, str], list[ast.expr]] = defaultdict(list)
        self.imported = {
            name.asname or name.name: str(node.module).rpartition(".")[2]
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ImportFrom)
            for name in node.names
        }
        self.calls = [node for node in ast.walk(self.tree) if isinstance(node, ast.Call)]
        self._enclose(self.tree, None)

    def _enclose(self, node: ast.AST, function: Function | None) -> None:
        if function is not None:
            self.functions[node] = function
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                self.assigned[function or self.tree, name].append(value)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                self.assigned[function or self.tree, name].append(value)
        for child in ast.iter_child_nodes(node):
            self._enclose(child, node if isinstance(node, Function) else function)

    def scopes(self, node: ast.AST) -> Iterator[ast.AST]:
        """The functions around ``node``, from the inside, and the module."""
        while node := self.functions.get(node):  # type: ignore[assignment]
            yield node
        yield self.tree


class PythonSearch:
    """All Python files together, because a function is called from other files."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.found: set[str] = set()
        self._modules = [Module(path) for path in paths]
        self._learnt: dict[tuple[str, str], set[Place]] = defaultdict(set)
        self._methods: dict[str, set[Place]] = defaultdict(set)
        self._returned: dict[str, list[tuple[Module, ast.expr]]] = defaultdict(list)
        for module in self._modules:
            for node, function in module.functions.items():
                if isinstance(node, ast.Return) and node.value is not None:
                    self._returned[function.name].append((module, node.value))
        known = -1
        while known != (known := sum(map(len, self._learnt.values()))):
            for module in self._modules:
                for call in module.calls:
                    self._call(module, call, 0)

    def _call(self, module: Module, call: ast.Call, depth: int) -> None:
        match call.func:
            case ast.Name(id=name):
                home = module.imported.get(name, module.name)
                places = STARTERS.get(name, set()) | self._learnt[home, name]
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                places = STARTERS.get(name, set()) | self._learnt[module.name, name]
            case ast.Attribute(attr=name):
                # Of whatever class; so what one takes as a word need not be a program for another.
                places = STARTERS.get(name, set()) | self._methods[name]
            case _:
                return
        for at, how in tuple(places):
            if 0 <= at < len(call.args):
                if how == LIST:
                    self._list(module, call.args[at], depth)
                else:
                    self._words(module, call.args[at:], depth)

    def _list(self, module: Module, node: ast.expr, depth: int) -> None:
        """``node`` is an argument list."""
        match node:
            case ast.List() | ast.Tuple():
                self._words(module, node.elts, depth)
            case ast.BinOp():
                self._list(module, node.left, depth)
            case ast.IfExp():
                self._list(module, node.body, depth)
                self._list(module, node.orelse, depth)
            case ast.Name():
                self._variable(module, node, LIST, depth)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if depth < DEPTH_MAX:
                for returning, value in self._returned[name]:
                    self._list(returning, value, depth + 1)
                self._call(module, node, depth + 1)

    def _words(self, module: Module, words: list[ast.expr], depth: int) -> None:
        """``words`` are a program and its arguments."""
        match words:
            case [ast.Constant(value=str(text)), *rest]:
                self._program(module, text, rest)
            case [ast.Starred(value=ast.Tuple(elts=inner) | ast.List(elts=inner)), *rest]:
                self._words(module, [*inner, *rest], depth)
            case [ast.Starred(value=value), *_]:
                self._list(module, value, depth)
            case [ast.Name() as name, *_]:
                self._variable(module, name, WORDS, depth)

    def _program(self, module: Module, text: str, rest: list[ast.expr]) -> None:
        if not (program := PROGRAM.fullmatch(text)):
            return
        name = program[1]
        self.found.add(name)
        texts = [word.value if isinstance(word, ast.Constant) else None for word in rest]
        if name in SHELLS and "-c" in texts:
            self.found |= shell_programs(str(texts[texts.index("-c") + 1]))
        elif name in CARRIERS:
            for at, word in enumerate(rest):
                is_program = isinstance(texts[at], str) and PROGRAM.fullmatch(texts[at])
                if is_program or isinstance(word, ast.Starred | ast.Name):
                    self._words(module, rest[at:], 0)
                    break

    def _variable(self, module: Module, name: ast.Name, how: str, depth: int) -> None:
        for scope in module.scopes(name):
            if isinstance(scope, Function) and (place := _parameter(scope, name.id, how)):
                if scope.name != "__init__":  # a call of it has the name of its class
                    self._learnt[module.name, scope.name].add(place)
                    self._methods[scope.name] |= (
                        {place} if how == LIST and place[1] == LIST else set()
                    )
                return
            for value in module.assigned[scope, name.id] if depth < DEPTH_MAX else ():
                if how == LIST:
                    self._list(module, value, depth + 1)
                else:
                    self._words(module, [value], depth + 1)


def _parameter(function: Function, name: str, how: str) -> Place | None:
    """Where a parameter stands in a call, not counting self, and how it gives a program."""
    parameters = function.args.args
    bound = bool(parameters) and parameters[0].arg in {"self", "cls"}
    if function.args.vararg is not None and function.args.vararg.arg == name:
        return len(parameters) - bound, WORDS
    for at, parameter in enumerate(parameters):
        is_word = isinstance(parameter.annotation, ast.Name) and parameter.annotation.id == "str"
        if parameter.arg == name and is_word == (how == WORDS):
            return at - bound, how
    return None


OWN_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        break case cd command compgen continue do done echo elif else esac eval exec exit export
        false fi for function getopts if in kill local printf pwd read return set shift test then
        trap true type ulimit umask unset until wait while
        """,
    )
)
"""What a shell has itself, of all that the tree's scripts use."""
_PREFIXES = re.compile(r"(?:(?:if|elif|while|until|then|else|do|!|time|exec|command|\w+=\S*)\s+)+")
_SEPARATORS = re.compile(r"\n|;|\|\|?|&&?|\(|\)|\{\s|\}")

_QUOTED = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*"|(?:^|(?<=[\s;]))#.*""", re.MULTILINE)


def _unquoted(found: re.Match[str]) -> str:
    """Nothing for a comment; a quoted text without what could be taken for a quote later."""
    if found[0].startswith("#"):
        return ""
    return "Q" if found[0].startswith("'") else found[0].replace("'", "").replace("#", "")


def shell_programs(text: str) -> set[str]:
    """The command words of a script that are no words, functions or variables of its own."""
    text = text.replace("\\\n", " ")
    text = re.sub(
        r"<<-?'?(\w+)'?(.*)\n(?:.*\n)*?\s*\1\n", r"\2\n", text
    )  # what is fed to a command
    text = _QUOTED.sub(_unquoted, text)
    text = re.sub(r"^\s*[\w*.|-]+\)", "", text, flags=re.MULTILINE)  # patterns of case
    text = re.sub(r"\d*[<>]&\d?-?", " ", text)
    own = OWN_WORDS | set(re.findall(r"(\w+)\(\)", text))
    found: set[str] = set()
    # From the inside: what stands in a substitution is a script of its own.
    while inner := re.search(r"[$<>]\(([^()]*)\)", text):
        found |= _commands(inner[1])
        text = f"{text[: inner.start()]}Q{text[inner.end() :]}"
    return (found | _commands(text)) - own


def _commands(text: str) -> set[str]:
    text = re.sub(r'"[^"]*"', "Q", text)
    text = re.sub(r"\$\{[^}]*\}|\w+=\([^)]*\)", "Q", text)
    found = set()
    for piece in _SEPARATORS.split(text):
        words = _PREFIXES.sub("", piece.strip(), count=1).split()
        while words and words[0] != "for" and (program := PROGRAM.fullmatch(words[0])):
            found.add(program[1])
            if program[1] not in CARRIERS:
                break
            words = words[1:]
            while words and not PROGRAM.fullmatch(words[0]):
                del words[0]
    return found


def makefile_programs(text: str) -> set[str]:
    """What the recipes and the variables of a Makefile start."""
    scripts = re.findall(r"\$\(shell ((?:[^()]|\([^()]*\))*)\)", text)
    # A recipe is one script here (.ONESHELL).
    scripts += [re.sub(r"^\t@?", "", one, flags=re.MULTILINE)
                for one in re.findall(r"(?:^\t.*\n)+", text, re.MULTILINE)]  # fmt: skip
    found: set[str] = set()
    for script in scripts:
        plain = re.sub(r"\$\((?:[^()]|\([^()]*\))*\)", "Q", script.replace("$$", "\0"))
        found |= shell_programs(plain.replace("\0", "$"))
    return found
