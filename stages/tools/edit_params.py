"""Edits params.yaml: adds or removes a concept, or replaces the sequence, and keeps the user's comments.

Adding a task changes no other byte of the file; other edits go through ruamel.yaml, which keeps comments and quotes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from stages.datasets.shared.names import LONGEST_ID, identify
from stages.files.yaml import PARAMS, read_yaml
from stages.runtime.faults import ConfigFault, nearest
from stages.tools.outline import Outline, checked

LAST_POSITION = 99
NAMES = f"lower-case letters, digits and single _ between them, at most {LONGEST_ID} in all, as in my_dog"


def with_task(text: str, concepts: Mapping[str, str]) -> str:
    """Appends one task to `tasks` and one concept to every sequence of the given domains.

    Args:
        text: params.yaml.
        concepts: the new concept of each domain.

    Returns:
        The new text; all existing bytes are unchanged.

    Raises:
        ConfigFault: a concept is already in a sequence, or the file cannot be extended automatically.
    """
    tree = YAML(typ="safe", pure=True).load(text)
    last = tree["tasks"][-1]
    number = int(last["index"]) + 1
    if number > LAST_POSITION:
        raise ConfigFault(f"tasks: has {LAST_POSITION} already, which is the limit. Start a new study.")
    sees = "data" if last["sees"] == "data" else f"data/{number:02d}"
    task = f"{{index: '{number:02d}', previous: '{last['index']}', sees: {sees}}}"
    key, root = f"t{number:02d}", YAML(typ="safe", pure=True).compose(text)
    edits = [_insertion(text, _node_at(root, "tasks"), task)]
    for domain, concept in concepts.items():
        for order, listed in tree["sequences"][domain].items():
            if key in listed or f"t{last['index']}" not in listed:
                raise ConfigFault(f"sequences.{domain}.{order}: must end with t{last['index']}, as tasks does.")
            if concept in listed.values():
                again = f"Learn it again: palimpsest concept redo {concept}"
                raise ConfigFault(f"sequences.{domain}.{order}: already has '{concept}'. {again}")
            node = _node_at(root, "sequences", domain, order)
            edits.append(_insertion(text, node, f"{key}: {_quoted(concept)}"))
            listed[key] = concept
    new = text
    for offset, addition in sorted(edits, reverse=True):
        new = new[:offset] + addition + new[offset:]
    tree["tasks"].append({"index": f"{number:02d}", "previous": last["index"], "sees": sees})
    if YAML(typ="safe", pure=True).load(new) != tree:
        raise ConfigFault(f"tasks, sequences: this YAML style cannot be extended automatically. Add {task} by hand.")
    return new


def _node_at(node: Node, *keys: str) -> Any:
    for key in keys:
        node = next(value for name, value in node.value if name.value == key)
    return node


def _insertion(text: str, node: MappingNode | SequenceNode, item: str) -> tuple[int, str]:
    """The offset in the text and the characters to insert there, so that `item` becomes the last item of the node."""
    last = node.value[-1]
    end = last[1] if isinstance(node, MappingNode) else last
    while not isinstance(end.value, str) and not end.flow_style:
        end = end.value[-1][1] if isinstance(end, MappingNode) else end.value[-1]
    offset = int(end.end_mark.index)
    if node.flow_style:
        return offset, f", {item}"
    line = re.compile(r"[^\r\n]*").match(text, offset)
    assert line
    newline = "\r\n" if "\r\n" in text else "\n"
    dash = "- " if isinstance(node, SequenceNode) else ""
    return line.end(), f"{newline}{' ' * node.start_mark.column}{dash}{item}"


def _quoted(word: str) -> str:
    """The word, in quotes if YAML would otherwise read it as something else (a number, a boolean)."""
    return word if YAML(typ="safe", pure=True).load(word) == word else f"'{word}'"


def _yaml() -> YAML:
    yaml = YAML(typ="rt")
    yaml.width = 120
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=2, offset=0)
    return yaml


def _dump(yaml: YAML, tree: Any, before: str) -> str:
    """The new text, with the line ends of the text before."""
    out = io.StringIO()
    yaml.dump(tree, out)
    text = out.getvalue().replace("\r\n", "\n")
    return text.replace("\n", "\r\n") if "\r\n" in before else text


def params_text() -> str:
    """The text of params.yaml, with its own line ends."""
    return PARAMS.read_bytes().decode("utf-8")


def is_name(name: str) -> bool:
    """Whether a new concept can be called this: its folder must give it the same name."""
    return bool(name) and identify(name) == name


def by_domain(names: list[str], domains: list[str]) -> dict[str, str]:
    """Parses CONCEPT or DOMAIN/CONCEPT arguments into one concept per domain.

    Positions are shared by all domains, so each domain needs exactly one concept.

    Args:
        names: the arguments; without a domain they mean the first one.
        domains: the domains of the study.

    Raises:
        ConfigFault: a domain is unknown, has two concepts, or has none.
    """
    concepts: dict[str, str] = {}
    for name in names:
        domain, slash, concept = name.rpartition("/")
        domain = domain if slash else domains[0]
        if domain not in domains:
            raise ConfigFault(f"{name}: no domain '{domain}'. {nearest(domain, domains)}")
        if domain in concepts:
            raise ConfigFault(f"{name}: {concepts[domain]} was given too. Give one concept per domain.")
        concepts[domain] = concept
    missing = [domain for domain in domains if domain not in concepts]
    if missing:
        raise ConfigFault(
            f"{', '.join(missing)}: needs a concept too: all domains share positions. Give DOMAIN/CONCEPT."
        )
    return concepts


def domain_of(name: str) -> tuple[str, str]:
    """Finds a concept in the sequences of params.yaml.

    Args:
        name: CONCEPT or DOMAIN/CONCEPT.

    Returns:
        Its domain and its name.

    Raises:
        ConfigFault: no sequence has it.
    """
    domain, _, concept = name.rpartition("/")
    known = {
        candidate: {name for listed in orders.values() for name in listed.values()}
        for candidate, orders in tree()["sequences"].items()
        if not domain or candidate == domain
    }
    for candidate, names in known.items():
        if concept in names:
            return candidate, concept
    raise ConfigFault(f"{name}: no sequence has this concept. {nearest(concept, set().union(*known.values()))}")


def without_concept(text: str, concepts: Mapping[str, str]) -> str:
    """Removes one position: the concepts after it move up by one.

    Args:
        text: params.yaml.
        concepts: the concept to remove from each domain.

    Raises:
        ConfigFault: an order does not have the concept, or it is the only one.
    """
    yaml = _yaml()
    tree = yaml.load(text)
    tasks = tree["tasks"]
    if len(tasks) == 1:
        raise ConfigFault("tasks: this is the only concept, and a study needs at least one. Add another first.")
    _drop_last(tasks)
    for domain, concept in concepts.items():
        for listed in tree["sequences"][domain].values():
            keys, names = list(listed), list(listed.values())
            if concept not in names:
                raise ConfigFault(f"sequences.{domain}: no concept '{concept}'. {nearest(concept, names)}")
            names.remove(concept)
            for key, name in zip(keys, names, strict=False):
                listed[key] = name
            _drop_last(listed)
    return _dump(yaml, tree, text)


def _drop_last(listed: Any) -> None:
    """Removes the last item of a mapping or list and keeps the blank lines and comments after it."""
    keys = list(listed) if isinstance(listed, CommentedMap) else list(range(len(listed)))
    after = listed.ca.items.pop(keys[-1], None)
    removed = listed.pop(keys[-1])
    if after is not None:
        listed.ca.items[keys[-2]] = after
    elif isinstance(removed, CommentedMap) and removed.ca.items:
        listed[keys[-2]].ca.items.update(removed.ca.items)


def sequence_of(names: list[str], domain: str) -> tuple[list[CommentedMap], dict[str, Any]]:
    """`tasks` and `sequences` of a study that learns these concepts in this order."""
    tasks = []
    for i in range(1, len(names) + 1):
        task = CommentedMap(index=f"{i:02d}", previous=f"{i - 1:02d}", sees=f"data/{i:02d}")
        task.fa.set_flow_style()
        tasks.append(task)
    return tasks, {domain: {"0": _turned(names, 0)}}


def with_photos(text: str, names: list[str], domain: str, source: Path) -> str:
    """Turns params.yaml into that of a study of one's own photos: one domain, learned in this order.

    Args:
        text: params.yaml.
        names: the folders of photos, in the order of learning.
        domain: the name of the only domain.
        source: the folder that contains them.
    """
    yaml = _yaml()
    tree = yaml.load(text)
    tree["tasks"], tree["sequences"] = sequence_of(names, domain)
    if tree["dataset"]["name"] != "folder":
        tree["dataset"] = {"name": "folder", "options": {}}
    for key, value in (("domains", [domain]), ("orders", ["0"])):
        if list(tree[key]) != value:
            tree[key] = CommentedSeq(value)
            tree[key].fa.set_flow_style()
    tree["source"] = str(source)
    tree["report"]["paper"] = False  # its concepts are others
    return _dump(yaml, tree, text)


@contextmanager
def unchecked() -> Iterator[None]:
    """For code that reads params.yaml without validating it: if it fails, reports what is wrong with the file.

    Raises:
        ConfigFault: params.yaml breaks a rule.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError):
        from stages.core.params import load

        load()
        raise


def with_sets(text: str, sets: Mapping[str, list[str]], domain: str) -> str:
    """Makes sets of concepts the domains of params.yaml, all from `domain`; each order begins with the next concept.

    Raises:
        ConfigFault: a set has another number of concepts than there are tasks.
    """
    yaml = _yaml()
    tree = yaml.load(text)
    if wrong := next((name for name, concepts in sets.items() if len(concepts) != len(tree["tasks"])), None):
        raise ConfigFault(f"tasks: has {len(tree['tasks'])}, but {wrong} has {len(sets[wrong])} concepts. Change one.")
    tree["domains"] = list(sets)
    tree["dataset"].setdefault("options", {})["subsets"] = dict.fromkeys(sets, domain)
    turns = {order: k for k, order in enumerate(tree["orders"])}
    tree["sequences"] = {
        name: {order: _turned(concepts, k) for order, k in turns.items()} for name, concepts in sets.items()
    }
    return _dump(yaml, tree, text)


def _turned(names: list[str], by: int) -> dict[str, str]:
    """Concepts by position, from the one at index `by` on."""
    return {f"t{i + 1:02d}": names[(i + by) % len(names)] for i in range(len(names))}


def tree(path: Path = PARAMS) -> dict[str, Any]:
    """Reads params.yaml and checks only which runs it names, which is fast.

    Raises:
        ConfigFault: the file or a required section is missing, or it is not YAML, or names runs in another form.
    """
    if not path.exists():
        raise ConfigFault(f"{path}: missing, so this folder is no project. Create one: palimpsest init my-study.")
    document = read_yaml(path)
    missing = [key for key in Outline.model_fields if not document.tree.get(key)]
    if missing:
        raise ConfigFault(f"{path}: '{missing[0]}' is missing. List complete profiles with: palimpsest profile list.")
    return checked(document)
