"""Parts of saved sessions and of nodes, to be changed by tests that say what is refused."""

import hashlib
import json
import zipfile

from safetensors.torch import load, save

JSON_NAME, TENSORS_NAME = "session.json", "tensors.safetensors"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def read_parts(path):
    """What is in each part of a zip, by name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_parts(path, parts):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def header_of(content):
    """The bytes of a safetensors file that come before its tensors."""
    return content[: 8 + int.from_bytes(content[:8], "little")]


def changed_node(content, change):
    """A node's file, and the SHA-256 of its header, after ``change(data, tensors)``."""
    about = json.loads(header_of(content)[8:])["__metadata__"]
    data, tensors = json.loads(about["node"]), load(content)
    text = change(data, tensors)  # else what is to stand in the place of the JSON
    text = json.dumps(data) if text is None else text
    bare = save(tensors, {"node": text, "sha256": "0" * 64})
    tensor_bytes = bare[len(header_of(bare)) :]
    made = save(tensors, {"node": text, "sha256": sha256(tensor_bytes)})
    return made, sha256(header_of(made))


def rewrite(path, change):
    """Change a saved session by ``change(content, tensors, parts)``."""
    parts = read_parts(path)
    content, tensors = json.loads(parts[JSON_NAME]), load(parts[TENSORS_NAME])
    change(content, tensors, parts)
    parts[TENSORS_NAME] = save(tensors)
    write_parts(path, {**parts, JSON_NAME: json.dumps(content)})


def of_json(change):
    """Changes what ``session.json`` says."""
    return lambda content, _tensors, _parts: change(content) and None


def of_tensor(name, change):
    """Changes a tensor of ``tensors.safetensors``."""

    def do(_content, tensors, _parts):
        tensors[name] = change(tensors[name]).contiguous()

    return do


def of_node(number, change):
    """Changes a node of the first edit, ``change(data, tensors)``, and its name with it."""

    def do(content, _tensors, parts):
        name = f"edit-0/node-{number}.safetensors"
        parts[name], content["edits"][0]["nodes"][number - 1] = changed_node(parts[name], change)

    return do
