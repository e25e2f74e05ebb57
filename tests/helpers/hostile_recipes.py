"""Recipes that must end in one error: code, bombs, cycles and texts of a great length."""


def chain(levels: int, width: int) -> str:
    """Every level holds the one before several times: 'billion laughs'."""
    lines = ["l0: &l0 [x, x, x, x]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


def variable_chain(levels: int, width: int) -> str:
    lines = ["l0: [x, x, x, x]"]
    return "\n".join(lines + [f"l{i}: [{', '.join([f'eval(l{i - 1})'] * width)}]" for i in range(1, levels)])


USE = "\nmodifiers:\n  - !AnyModifier\n    free: {}\n"
HOSTILE = {
    "object tag": "a: !!python/object/apply:os.system ['touch /tmp/owned']" + USE,
    "object tag in modifier": USE.format("!!python/object/new:os.system [true]"),
    "name tag": USE.format("!!python/name:os.system ''"),
    "module tag": USE.format("!!python/module:os ''"),
    "object tag as modifier": "modifiers:\n  - !!python/object/apply:os.system ['true']\n",
    "object tag as key": USE.format("{!!python/tuple [1]: 2}"),
    "verbatim tag": USE.format("!<tag:yaml.org,2002:python/object/apply:os.system> [true]"),
    "tag directive": "%TAG ! tag:yaml.org,2002:python/\n---" + USE.format("!name:os.system ''"),
    "billion laughs": chain(9, 9) + USE.format("*l8"),
    "billion laughs, unused": chain(40, 9) + USE.format("1"),
    "billion laughs of variables": variable_chain(9, 9) + USE.format("eval(l8)"),
    "deep variables": variable_chain(2000, 1) + USE.format("eval(l1999)"),
    "deep variables, last first": "\n".join(reversed(variable_chain(2000, 1).split("\n"))) + USE.format("1"),
    "deep lists of variables": "\n".join(
        ["l0: " + "[" * 40 + "1" + "]" * 40] + [f"l{i}: {'[' * 40}eval(l{i - 1}){']' * 40}" for i in range(1, 60)]
    )
    + USE.format("1"),
    "many lists of modifiers": "a_modifiers: &m\n"
    + "  - !AnyModifier\n" * 3000
    + "".join(f"b{i}_modifiers: *m\n" for i in range(3000)),
    "list that holds itself": "a: &a [*a]" + USE.format("*a"),
    "mapping that holds itself": "a: &a {b: *a}" + USE.format("*a"),
    "modifier that holds itself": "modifiers:\n  - &m !AnyModifier\n    free: *m\n",
    "modifiers that hold themselves": "modifiers: &m\n  - *m\n",
    "stage that holds itself": "a: &a\n  b: *a\n  modifiers: []\n",
    "deep brackets": USE.format("[" * 100_000),
    "deep closed brackets": USE.format("[" * 2000 + "]" * 2000),
    "deep braces": USE.format("{a: " * 2000 + "}" * 2000),
    "deep block": "".join(" " * i + "a:\n" for i in range(900)),
    "deep question marks": "? " * 5000 + "\n",
    "deep dashes": "- " * 5000 + "\n",
    "deep arithmetic": USE.format("eval(" + "(" * 400 + "1" + ")" * 400 + ")"),
    "signs": USE.format("eval(" + "-" * 950 + "1)"),
    "sum": USE.format("eval(" + "+".join(["1"] * 490) + ")"),
    "long arithmetic": USE.format("eval(" + "1+" * 40_000 + "1)"),
    "tower": USE.format("eval(9**9**9**9)"),
    "big exponent": USE.format("eval(10**9**9)"),
    "big shift": USE.format("eval(1 << 10**9)"),
    "repeated text": USE.format("eval('a'*10**9)"),
    "round to a billion digits": USE.format("eval(round(1, -10**9))"),
    "attribute": USE.format("eval(().__class__.__mro__[1].__subclasses__())"),
    "import": USE.format("eval(__import__('os').system('true'))"),
    "dunder": USE.format("eval(__builtins__)"),
    "dunder key": "modifiers:\n  - !AnyModifier\n    __class__: 1\n    __init__: 2\n",
    "method key": "modifiers:\n  - !AnyModifier\n    initialize: 1\n",
    "dunder tag": "modifiers:\n  - !__class__ {}\n  - !os.system {}\n  - !Modifier {}\n",
    "long whole number": USE.format("9" * 90_000),
    "long decimal": USE.format("1." + "9" * 90_000),
    "long text": USE.format("x" * 200_000),
    "long key": f"{'x' * 900}: 1\nmodifiers:\n  - !AnyModifier\n    {'y' * 900}: eval({'z' * 900})\n",
    "long tag": f"modifiers:\n  - !{'x' * 90_000} {{}}\n",
    "null byte": USE.format("a\0b"),
    "escaped null byte": USE.format('"eval(1\\0)"'),
    "lone surrogate": USE.format('"eval(\\ud800)"'),
    "escape out of range": USE.format('"\\UFFFFFFFF"'),
    "long directive": "%YAML 1." + "9" * 5000 + "\n---" + USE.format("1"),
    "cycle": "a: eval(b)\nb: eval(a)" + USE.format("eval(a)"),
    "many unknown names": "\n".join(f"variable_{i}: eval(varieble_{i})" for i in range(4000)) + USE.format("1"),
    "many nodes": "a: [" + "1," * 400_000 + "]" + USE.format("1"),
    "many words": "a: " + "x " * 490_000 + USE.format("1"),
    "unclosed comments": "<!--\n" * 190_000,
    "fences": "---\n" + "+++\n" * 240_000,
}
